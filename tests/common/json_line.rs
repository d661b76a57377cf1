//! Lines of the log as JSON (RFC 8259): one flat object each.

use std::collections::BTreeMap;

/// The members of an object of strings and numbers; the text of either is the value. `None` if it is no such object.
pub fn read(line: &str) -> Option<BTreeMap<String, String>> {
    let mut rest = line.strip_prefix('{')?;
    let mut members = BTreeMap::new();
    loop {
        let (name, behind) = string(rest)?;
        let (value, behind) = value(behind.strip_prefix(':')?)?;
        if members.insert(name, value).is_some() {
            return None;
        }
        match behind.strip_prefix(',') {
            Some(more) => rest = more,
            None => return (behind == "}").then_some(members),
        }
    }
}

fn value(text: &str) -> Option<(String, &str)> {
    if text.starts_with('"') {
        return string(text);
    }
    let (number, rest) = text.split_at(text.find([',', '}'])?);
    number.parse::<f64>().ok().map(|_| (number.to_owned(), rest))
}

fn string(text: &str) -> Option<(String, &str)> {
    let mut letters = text.strip_prefix('"')?.chars();
    let mut out = String::new();
    loop {
        match letters.next()? {
            '"' => return Some((out, letters.as_str())),
            '\\' => match letters.next()? {
                'u' => {
                    let (code, rest) = letters.as_str().split_at_checked(4)?;
                    out.push(char::from_u32(u32::from_str_radix(code, 16).ok()?)?);
                    letters = rest.chars();
                }
                letter @ ('"' | '\\') => out.push(letter),
                _ => return None,
            },
            letter if letter < ' ' => return None,
            letter => out.push(letter),
        }
    }
}
