//! The values of one table by the names of their keys.

use std::time::Duration;

use crate::base::address::HostPort;
use crate::config::document::Entry;
use crate::config::fault::Collector;
use crate::config::options::Described;
use crate::config::values::{Setting, read};

/// What was said in a table. A value that is wrong was said, and is none.
#[derive(Debug, Default)]
pub struct Settings(Vec<Said>);

#[derive(Debug)]
struct Said {
    name: &'static str,
    /// Where the key stands.
    key: usize,
    /// Where the value stands.
    at: usize,
    setting: Option<Setting>,
}

impl Settings {
    /// Reads the value of an option.
    pub fn add(&mut self, option: &Described, entry: &Entry, faults: &mut Collector) {
        let setting = read(option.kind, &entry.item, faults);
        self.0.push(Said { name: option.name, key: entry.at, at: entry.item.span.start, setting });
    }

    fn said(&self, name: &str) -> Option<&Said> {
        self.0.iter().find(|said| said.name == name)
    }

    /// Whether something was said, right or wrong.
    pub fn has(&self, name: &str) -> bool {
        self.said(name).is_some()
    }

    /// Where a key stands.
    pub fn key_at(&self, name: &str) -> Option<usize> {
        self.said(name).map(|said| said.key)
    }

    /// Where a value stands.
    pub fn at(&self, name: &str) -> Option<usize> {
        self.said(name).map(|said| said.at)
    }

    /// A value.
    pub fn get(&self, name: &str) -> Option<&Setting> {
        self.said(name)?.setting.as_ref()
    }

    /// A number.
    pub fn count(&self, name: &str) -> Option<usize> {
        match self.get(name) {
            Some(Setting::Count(count)) => Some(*count),
            _ => None,
        }
    }

    /// A time.
    pub fn time(&self, name: &str) -> Option<Duration> {
        match self.get(name) {
            Some(Setting::Time(time)) => Some(*time),
            _ => None,
        }
    }

    /// Yes or no.
    pub fn switch(&self, name: &str) -> Option<bool> {
        match self.get(name) {
            Some(Setting::Switch(value)) => Some(*value),
            _ => None,
        }
    }

    /// A path or a word.
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.get(name) {
            Some(Setting::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// What to dial.
    pub fn address(&self, name: &str) -> Option<HostPort> {
        match self.get(name) {
            Some(Setting::Address(address)) => Some(address.clone()),
            _ => None,
        }
    }
}
