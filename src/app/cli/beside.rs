//! Flags beside a file: what the file could say is said in one place.

use std::fmt;
use std::path::Path;

use super::arguments::Expose;
use super::{Failure, default_service};
use crate::base::name::Name;
use crate::config::fault::{Place, is_visible, without_secrets};
use crate::config::file::{Parsed, Text, parse};
use crate::config::options::{Described, Kind, Said, Section, Side, flags};
use crate::config::source;

/// A flag that was typed.
#[derive(Clone, Debug)]
pub(super) struct Given {
    /// Which option.
    pub(super) option: &'static Described,
    /// Which word of the command line, from 1.
    number: usize,
    /// What stands behind it.
    pub(super) value: String,
}

impl Given {
    /// The flags among the words of a command, the command's own name first.
    #[cold]
    pub(super) fn all(side: Side, words: &[String]) -> Vec<Given> {
        let mut all = Vec::new();
        let mut words = words.iter().enumerate();
        while let Some((index, word)) = words.next() {
            let (name, value) =
                word.split_once('=').map_or((word.as_str(), None), |(name, value)| (name, Some(value)));
            let Some(option) =
                name.strip_prefix("--").and_then(|name| flags(side).find(|option| option.name == name))
            else {
                continue;
            };
            let value = match (value, option.kind) {
                (Some(value), _) => value.to_owned(),
                (None, Kind::Switch) => String::new(),
                (None, _) => words.next().map_or(String::new(), |(_, value)| value.clone()),
            };
            all.push(Given { option, number: index + 1, value });
        }
        all
    }

    /// What a file says instead.
    #[cold]
    fn in_file(&self) -> InFile {
        let value = |text: &str| match (self.option.kind, text.parse::<u32>()) {
            (Kind::Switch, _) => "true".to_owned(),
            (Kind::File | Kind::Level | Kind::Format, _) | (_, Err(_)) => in_quotes(&without_secrets(text)),
            (_, Ok(number)) => number.to_string(),
        };
        let (before, behind) = self.value.split_once('=').unwrap_or(("", &self.value));
        let of_service = || before.parse().unwrap_or_else(|_| default_service());
        let exposed = || self.value.parse::<Expose>().map_or_else(|_| default_service(), |it| it.name);
        let local = ("local", value(behind));
        match self.option.name {
            "request" => InFile::table(Section::Service, default_service(), vec![("listen", value(behind))]),
            "service" => InFile::table(Section::Service, of_service(), vec![("listen", value(behind))]),
            "local" => InFile::table(Section::Publish, default_service(), vec![local]),
            "publish" => InFile::table(Section::Publish, of_service(), vec![local]),
            "expose" if before.is_empty() => InFile::table(Section::Expose, exposed(), vec![local]),
            "expose" => InFile::table(Section::Expose, exposed(), vec![local, ("ports", value(before))]),
            own => InFile { table: None, lines: vec![(own, value(&self.value))] },
        }
    }
}

/// A table of a file, if it is not the top, and keys with their values in it.
struct InFile {
    table: Option<(Section, Name)>,
    lines: Vec<(&'static str, String)>,
}

impl InFile {
    fn table(section: Section, name: Name, lines: Vec<(&'static str, String)>) -> InFile {
        InFile { table: Some((section, name)), lines }
    }

    /// Where a file says it already.
    fn place(&self, parsed: &Parsed) -> Option<Place> {
        let (section, name) = match &self.table {
            Some((section, name)) => (*section, name.as_str()),
            None => (Section::Top, ""),
        };
        self.lines.iter().find_map(|(key, _)| parsed.place(section, name, key))
    }
}

/// Each piece is a line of TOML.
impl fmt::Display for InFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((section, name)) = &self.table {
            write!(f, "[{}.{}] with ", section.name(), name.in_file())?;
        }
        for (number, (key, value)) in self.lines.iter().enumerate() {
            write!(f, "{}{key} = {value}", if number > 0 { " and " } else { "" })?;
        }
        Ok(())
    }
}

/// A text of TOML, on one line.
#[cold]
fn in_quotes(text: &str) -> String {
    let mut quoted = String::from('"');
    for letter in text.chars() {
        match letter {
            '"' | '\\' => quoted.extend(['\\', letter]),
            letter if is_visible(letter) => quoted.push(letter),
            letter => quoted += &format!("\\U{:08X}", u32::from(letter)),
        }
    }
    quoted + "\""
}

/// Refuses every flag that may not stand beside a file, and names both places.
#[cold]
pub(super) fn none(side: Side, given: &[Given], path: &Path) -> Result<(), Failure> {
    let may_stand = |given: &&Given| matches!(given.option.said, Said::FlagOnly | Said::FlagBesideFile);
    let wrong: Vec<&Given> = given.iter().filter(|given| !may_stand(given)).collect();
    if wrong.is_empty() {
        return Ok(());
    }
    debug_assert!(wrong.iter().all(|given| given.option.side == side));
    let shown = source::named(path);
    // A file that cannot be read says nothing; its faults are told once the flags are gone.
    let bytes = source::read_bytes(path).unwrap_or_default();
    let text = Text::of(&shown, &bytes).ok();
    let parsed = text.as_ref().and_then(|text| parse(&shown, text.as_str(), std::time::UNIX_EPOCH).ok());
    let sentences = wrong.iter().map(|given| sentence(given, &shown, parsed.as_ref()));
    Err(Failure::Beside(sentences.collect()))
}

#[cold]
fn sentence(given: &Given, file: &str, parsed: Option<&Parsed>) -> String {
    let in_file = given.in_file();
    let flag = format!("--{} (argument {}) beside {file}", given.option.name, given.number);
    match parsed.and_then(|parsed| in_file.place(parsed)) {
        Some(place) => format!("{flag}:{place}: say it in one place"),
        None => format!("{flag}: write {in_file} into {file}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_piece_of_advice_is_taken_by_a_file() {
        for (side, words, expected) in [
            (Side::Server, &["--service", "c.d=18082"][..], "[service.\"c.d\"] with listen = 18082"),
            (Side::Server, &["--service=db=[::1]:1"], "[service.db] with listen = \"[::1]:1\""),
            (Side::Server, &["--request", "80"], "[service.default] with listen = 80"),
            (
                Side::Server,
                &["--keys", "a \"b\"\t\\\u{e4}\u{a0}"],
                r#"keys = "a \"b\"\U00000009\\ä\U000000A0""#,
            ),
            (Side::Server, &["--ports", "*"], "ports = \"*\""),
            (Side::Server, &["--plain"], "plain = true"),
            (Side::Client, &["--local", "80"], "[publish.default] with local = 80"),
            (Side::Client, &["--publish", "a.b=x:1"], "[publish.\"a.b\"] with local = \"x:1\""),
            (
                Side::Client,
                &["--expose", "8080=localhost:3000"],
                "[expose.8080] with local = \"localhost:3000\" and ports = 8080",
            ),
            (Side::Client, &["--expose", "1-2=3"], "[expose.1-2] with local = 3 and ports = \"1-2\""),
            (
                Side::Client,
                &["--expose", "[fe80::1%lo]:3001"],
                "[expose.-fe80--1-lo--3001] with local = \"[fe80::1%lo]:3001\"",
            ),
        ] {
            let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
            let given = Given::all(side, &words);
            let advice = given[0].in_file();
            assert_eq!(advice.to_string(), expected);
            let lines = expected.replace(" with ", "\n").replace(" and ", "\n");
            let text = if side == Side::Client { "server = \"x\"\n" } else { "" }.to_owned() + &lines;
            let name = "f".into();
            let parsed = parse(&name, &text, std::time::UNIX_EPOCH).expect("it is TOML");
            assert!(advice.place(&parsed).is_some(), "{text}");
            let faults = parsed.faults.finish();
            assert!(faults.is_empty(), "{text}: {faults}");
        }
    }
}
