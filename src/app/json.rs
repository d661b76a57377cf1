//! The one writer of JSON (RFC 8259): the ready file, the status and the log.
//!
//! Values follow each other as they are written, and the commas between them are the writer's business.

use std::fmt::{self, Display, Write};

use crate::base::decimal::Decimal;

/// A text of JSON that grows.
#[derive(Debug, Default)]
pub struct Json {
    text: String,
    /// A value stands before, so that the next one wants a comma.
    is_behind_value: bool,
}

impl Json {
    /// Begins an object, `{`, or a list, `[`.
    pub fn open(&mut self, bracket: char) -> &mut Json {
        self.separate();
        self.text.push(bracket);
        self.is_behind_value = false;
        self
    }

    /// Ends an object, `}`, or a list, `]`.
    pub fn close(&mut self, bracket: char) -> &mut Json {
        self.text.push(bracket);
        self.is_behind_value = true;
        self
    }

    /// The name of the value that comes next.
    pub fn key(&mut self, name: &str) -> &mut Json {
        self.text(name);
        self.text.push(':');
        self.is_behind_value = false;
        self
    }

    /// A string.
    pub fn text(&mut self, text: &str) -> &mut Json {
        self.shown(&text)
    }

    /// A string of what is shown.
    pub fn shown(&mut self, value: &dyn Display) -> &mut Json {
        self.separate();
        self.text.push('"');
        // Writing into a text never fails.
        let _ = write!(Escaped(&mut self.text), "{value}");
        self.text.push('"');
        self
    }

    /// Something that is shown as JSON already: a number, `true`, `false`.
    pub fn plain(&mut self, value: &dyn Display) -> &mut Json {
        self.separate();
        // Writing into a text never fails.
        let _ = write!(self.text, "{value}");
        self
    }

    /// Something unknown.
    pub fn null(&mut self) -> &mut Json {
        self.plain(&"null")
    }

    /// A string, or null.
    pub fn text_or_null(&mut self, text: Option<&str>) -> &mut Json {
        match text {
            Some(text) => self.text(text),
            None => self.null(),
        }
    }

    /// A number with up to three digits behind the point, or null.
    pub fn decimal_or_null(&mut self, number: Option<Decimal>) -> &mut Json {
        match number {
            Some(number) => self.plain(&number.rounded(3)),
            None => self.null(),
        }
    }

    /// All of it.
    pub fn finish(self) -> String {
        self.text
    }

    fn separate(&mut self) {
        if std::mem::replace(&mut self.is_behind_value, true) {
            self.text.push(',');
        }
    }
}

/// What stands between the quotation marks of a string (RFC 8259, section 7). No control character gets to a terminal.
struct Escaped<'t>(&'t mut String);

impl Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for letter in text.chars() {
            match letter {
                '"' | '\\' => self.0.extend(['\\', letter]),
                letter if letter.is_control() => write!(self.0, "\\u{:04x}", u32::from(letter))?,
                letter => self.0.push(letter),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn commas_stand_between_values_and_nowhere_else() {
        let mut json = Json::default();
        json.open('{').key("a").open('[').plain(&1).plain(&true).open('[').close(']').close(']');
        json.key("b").null().key("c").open('{').close('}').key("d").text("x").close('}');
        assert_eq!(json.finish(), r#"{"a":[1,true,[]],"b":null,"c":{},"d":"x"}"#);
    }

    #[test]
    fn what_json_cannot_hold_is_escaped() {
        let mut json = Json::default();
        json.text("a\"b\\c\n\u{7f}\u{9b}ä");
        assert_eq!(json.finish(), "\"a\\\"b\\\\c\\u000a\\u007f\\u009bä\"");
    }

    #[test]
    fn numbers_have_three_digits_and_what_is_none_is_null() {
        let mut json = Json::default();
        json.open('[')
            .decimal_or_null(Some(Decimal::milliseconds(Duration::from_micros(4_250))))
            .decimal_or_null(Some(Decimal::milliseconds(Duration::from_nanos(333_333))))
            .decimal_or_null(Some(Decimal::whole(7)));
        json.decimal_or_null(None).text_or_null(None).close(']');
        assert_eq!(json.finish(), "[4.25,0.333,7,null,null]");
    }
}
