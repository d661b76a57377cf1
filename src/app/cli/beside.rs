//! Flags beside a file: what the file could say is said in one place.

use std::path::Path;

use super::Failure;
use crate::config::fault::{Place, without_secrets};
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

    /// The table and the lines of a file that say the same.
    #[cold]
    fn in_file(&self) -> (Section, String, &'static str, String) {
        let value = |text: &str| match (self.option.kind, text.parse::<u32>()) {
            (Kind::Switch, _) => "true".to_owned(),
            (Kind::File | Kind::Level | Kind::Format, _) | (_, Err(_)) => {
                format!("\"{}\"", without_secrets(text).escape_default())
            }
            (_, Ok(number)) => number.to_string(),
        };
        let (name, text) = self.value.split_once('=').unwrap_or((&self.value, &self.value));
        match self.option.name {
            "request" => (Section::Service, "default".to_owned(), "listen", value(&self.value)),
            "service" => (Section::Service, name.to_owned(), "listen", value(text)),
            "local" => (Section::Publish, "default".to_owned(), "local", value(&self.value)),
            "publish" => (Section::Publish, name.to_owned(), "local", value(text)),
            "expose" if self.value.contains('=') => {
                let both = format!("{}, ports = {}", value(text), value(name));
                (Section::Expose, name.to_owned(), "local", both)
            }
            "expose" => (Section::Expose, name.replace([':', '[', ']'], "-"), "local", value(&self.value)),
            own => (Section::Top, String::new(), own, value(&self.value)),
        }
    }
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
    let (section, name, key, value) = given.in_file();
    let place: Option<Place> = parsed.and_then(|parsed| parsed.place(section, &name, key));
    let flag = format!("--{} (argument {}) beside {file}", given.option.name, given.number);
    let table = match section {
        Section::Top => String::new(),
        section => format!("[{}.{name}] ", section.name()),
    };
    match place {
        Some(place) => format!("{flag}:{place}: say it in one place"),
        None => format!("{flag}: write {table}{key} = {value} into {file}"),
    }
}
