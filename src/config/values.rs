//! The values of a file: what stands there becomes what it means, or a fault with its place.

use std::net::ToSocketAddrs;
use std::time::{Duration, SystemTime};

use super::CONTROL_PORT;
use super::document::{Document, Item, Value};
use super::fault::{Collector, nearest, quoted};
use super::keys::holds_secret;
use super::options::{FORMATS, Kind, LEVELS, UNITS, in_words};
use super::policy::{PortRules, Services};
use crate::base::address::{BadAddress, HostPort, Listen, Zoned};
use crate::base::name::Name;
use crate::base::network::{Network, Networks};
use crate::base::ports::{Ports, PortsAt};
use crate::base::rate::{Rate, scaled};
use crate::base::sorted::tree;

/// A value, and the place of each of its parts where these may be at fault together with others. Of a list it is the
/// parts that are good.
#[derive(Clone, Debug, PartialEq)]
pub enum Setting {
    /// Places to listen.
    Places(Vec<(Listen, usize)>),
    /// Where users or clients come from.
    Networks(Networks),
    /// Ports that may be asked for.
    Ports(PortRules),
    /// Services that a key may serve.
    Services(Services, Vec<(Name, usize)>),
    /// A port or a range.
    Range(Ports),
    /// A number.
    Count(usize),
    /// A time.
    Time(Duration),
    /// Yes or no.
    Switch(bool),
    /// A path or a word.
    Text(String),
    /// What to dial.
    Address(HostPort),
    /// Bits a second.
    Rate(Rate),
    /// A moment.
    Moment(SystemTime),
}

/// Reads a value of a kind; what is wrong is told.
#[cold]
pub fn read(kind: Kind, item: &Item, faults: &mut Collector) -> Option<Setting> {
    match kind {
        Kind::Place => one(item, "one place to listen", faults)
            .and_then(|item| place(item, faults))
            .map(|it| Setting::Places(vec![it])),
        Kind::Places => places(item, faults),
        Kind::Networks => networks(item, faults),
        Kind::Ports => ports(item, faults),
        Kind::Services => services(item, faults),
        Kind::Range => one(item, "one port or one range", faults).and_then(|item| {
            let text =
                number_or_text(item, "a port or a range of ports, such as 8080 or 27000-27100", faults)?;
            parsed(text.parse::<Ports>(), item, &text, faults).map(Setting::Range)
        }),
        Kind::Count(least, most) => count(item, least, most, faults),
        Kind::Seconds(least, most) => {
            let second = |count: u32| Duration::from_secs(count.into());
            time(item, (second(least), second(most)), faults)
        }
        Kind::Time(least, most) => time(item, (least, most), faults),
        Kind::Switch => match item.value {
            Value::Boolean(value) => Some(Setting::Switch(value)),
            _ => wrong(item, "true or false", faults),
        },
        Kind::File => match &item.value {
            Value::Text(path) if holds_secret(path) => {
                wrong(item, "the name of a file, because a secret stands in the key file alone", faults)
            }
            Value::Text(path) if !path.is_empty() && !path.contains('\0') => {
                Some(Setting::Text(path.clone()))
            }
            _ => wrong(item, "the name of a file", faults),
        },
        Kind::Level => word(item, &LEVELS, "'off', 'error', 'warn', 'info', 'debug' or 'trace'", faults),
        Kind::Format => word(item, &FORMATS, "'text' or 'json'", faults),
        Kind::Server => address(item, None, Some(CONTROL_PORT), faults),
        Kind::Address => address(item, None, None, faults),
        Kind::Local => address(item, Some("localhost"), None, faults),
        Kind::Rate => match &item.value {
            Value::Text(text) => parsed(text.parse::<Rate>(), item, text, faults).map(Setting::Rate),
            _ => wrong(item, "a rate such as \"50 Mbit/s\"", faults),
        },
        Kind::Date => moment_of(item, faults),
        Kind::Words => wrong(item, "a key of this table", faults),
    }
}

/// What stands at a place, in words.
#[cold]
pub fn found(item: &Item) -> String {
    match &item.value {
        Value::Text(text) => format!("the text {}", quoted(text)),
        Value::Integer(Some(number)) => number.to_string(),
        Value::Integer(None) => "a number of more than 64 bits".to_owned(),
        Value::Float(number) => quoted(number),
        Value::Boolean(value) => value.to_string(),
        Value::Date(text) => quoted(text),
        Value::List(list) if list.is_empty() => "an empty list".to_owned(),
        Value::List(_) => "a list".to_owned(),
        Value::Inner => "a list in a list".to_owned(),
        Value::Table(_) => "a table".to_owned(),
        Value::Tables => "a list of tables".to_owned(),
    }
}

/// Tells that something else was wanted.
#[cold]
pub fn wrong<T>(item: &Item, wanted: &str, faults: &mut Collector) -> Option<T> {
    faults.tell(item.span.start, || format!("wanted {wanted}, found {}", found(item)));
    None
}

/// One of some words, in letters of any case.
#[cold]
fn word(item: &Item, words: &[&str], wanted: &str, faults: &mut Collector) -> Option<Setting> {
    match &item.value {
        Value::Text(text) if words.contains(&text.to_ascii_lowercase().as_str()) => {
            Some(Setting::Text(text.to_ascii_lowercase()))
        }
        _ => wrong(item, wanted, faults),
    }
}

/// The parts of a list; what is no list is its only part.
fn parts(item: &Item) -> &[Item] {
    match &item.value {
        Value::List(list) => list,
        _ => std::slice::from_ref(item),
    }
}

/// The value, or the only part of a list.
fn one<'i>(item: &'i Item, wanted: &str, faults: &mut Collector) -> Option<&'i Item> {
    match parts(item) {
        [one] => Some(one),
        _ => wrong(item, wanted, faults),
    }
}

/// What was read from a text, or the fault that it cannot be.
fn parsed<T, E: std::fmt::Display>(
    read: Result<T, E>,
    item: &Item,
    text: &str,
    faults: &mut Collector,
) -> Option<T> {
    read.map_err(|error| faults.tell(item.span.start, || format!("wanted {error}, found {}", quoted(text))))
        .ok()
}

/// Where addresses and ports stand, a number is as good as a text.
#[cold]
fn number_or_text(item: &Item, wanted: &str, faults: &mut Collector) -> Option<String> {
    match &item.value {
        Value::Text(text) => Some(text.clone()),
        Value::Integer(Some(number)) => Some(number.to_string()),
        _ => wrong(item, wanted, faults),
    }
}

/// Reads a place to listen. The interface that an address names is looked up in the system; no name server is asked.
#[cold]
pub fn listen(text: &str) -> Result<Listen, BadAddress> {
    let Some(Zoned { host, port }) = Zoned::parse(text) else { return text.parse() };
    let found = (host, port).to_socket_addrs().ok().and_then(|mut found| found.next());
    found.map(Listen::at).ok_or(BadAddress::Zone)
}

#[cold]
fn bad_address(error: BadAddress, form: &str, item: &Item, text: &str, faults: &mut Collector) {
    faults.tell(item.span.start, || {
        let (error, text) = (error.to_string(), quoted(text));
        match error.strip_prefix("wanted ") {
            Some(wanted) => format!("wanted {wanted}, found {text}"),
            None => format!("wanted {form}, found {text}: {error}"),
        }
    });
}

#[cold]
fn place(item: &Item, faults: &mut Collector) -> Option<(Listen, usize)> {
    let text = number_or_text(item, "a port or an address to listen at", faults)?;
    let read = listen(&text);
    read.map_err(|error| bad_address(error, "PORT, or IP:PORT", item, &text, faults))
        .ok()
        .map(|at| (at, item.span.start))
}

#[cold]
fn places(item: &Item, faults: &mut Collector) -> Option<Setting> {
    if !(1..=PORTS_MAX).contains(&parts(item).len()) {
        return wrong(item, &format!("1 to {PORTS_MAX} ports or addresses to listen at"), faults);
    }
    let read: Vec<_> = parts(item).iter().map(|part| place(part, faults)).collect();
    Some(Setting::Places(read.into_iter().flatten().collect()))
}

#[cold]
fn address(item: &Item, host: Option<&str>, port: Option<u16>, faults: &mut Collector) -> Option<Setting> {
    let item = one(item, "one address", faults)?;
    let text = number_or_text(item, "an address to dial", faults)?;
    let read = HostPort::parse(&text, host, port);
    if holds_secret(&text) {
        return wrong(item, "an address to dial, because a secret stands in the key file alone", faults);
    }
    let form = if port.is_some() { "HOST or HOST:PORT" } else { "HOST:PORT" };
    read.map_err(|error| bad_address(error, form, item, &text, faults)).ok().map(Setting::Address)
}

#[cold]
fn networks(item: &Item, faults: &mut Collector) -> Option<Setting> {
    let mut read = Vec::new();
    for part in parts(item) {
        read.extend(match &part.value {
            Value::Text(text) => parsed(text.parse::<Network>(), part, text, faults),
            _ => wrong(part, "an address or a network, such as \"203.0.113.0/24\"", faults),
        });
    }
    Some(Setting::Networks(Networks::of(read)))
}

/// Entries of one list of ports or places; a range counts once.
const PORTS_MAX: usize = 1_024;

#[cold]
fn ports(item: &Item, faults: &mut Collector) -> Option<Setting> {
    if let [Item { value: Value::Text(text), .. }] = parts(item)
        && text == "*"
    {
        return Some(Setting::Ports(PortRules::All));
    }
    if parts(item).len() > PORTS_MAX {
        return wrong(item, &format!("at most {PORTS_MAX} ports and ranges"), faults);
    }
    let mut read = Vec::new();
    for part in parts(item) {
        let text =
            number_or_text(part, "a port or a range of ports, such as 8080 or \"20000-20999\"", faults);
        read.push(text.and_then(|text| match text.as_str() {
            "*" => wrong(part, "'*' alone, or a list of ports without it", faults),
            text => parsed(text.parse::<PortsAt>(), part, text, faults),
        }));
    }
    Some(Setting::Ports(PortRules::These(read.into_iter().flatten().collect())))
}

#[cold]
fn services(item: &Item, faults: &mut Collector) -> Option<Setting> {
    if let [Item { value: Value::Text(text), .. }] = parts(item)
        && text == "*"
    {
        return Some(Setting::Services(Services::All, Vec::new()));
    }
    let mut read = Vec::new();
    for part in parts(item) {
        read.extend(match &part.value {
            Value::Text(text) if text == "*" => {
                wrong(part, "'*' alone, or a list of services without it", faults)
            }
            Value::Text(text) => name(text, part.span.start, faults).map(|name| (name, part.span.start)),
            _ => wrong(part, "the name of a service", faults),
        });
    }
    let names = tree(read.iter().map(|(name, _)| name.clone()));
    Some(Setting::Services(Services::Named(names), read))
}

/// A name, and not a secret in the place of one.
#[cold]
pub fn name(text: &str, at: usize, faults: &mut Collector) -> Option<Name> {
    match text.parse() {
        Ok(_) if holds_secret(text) => {
            faults.tell(at, || {
                format!("wanted a name, found {}: a secret stands in the key file alone", quoted(text))
            });
            None
        }
        Ok(name) => Some(name),
        Err(_) => {
            faults.tell(at, || {
                format!("wanted a name of 1 to 64 letters, digits, '.', '_' or '-', found {}", quoted(text))
            });
            None
        }
    }
}

#[cold]
fn count(item: &Item, least: u32, most: u32, faults: &mut Collector) -> Option<Setting> {
    let number = match item.value {
        Value::Integer(number) => number.and_then(|number| u32::try_from(number).ok()),
        _ => None,
    };
    match number.filter(|number| (least..=most).contains(number)) {
        Some(number) => Some(Setting::Count(number as usize)),
        None => wrong(item, &format!("a whole number from {least} to {most}"), faults),
    }
}

#[cold]
fn time(item: &Item, (least, most): (Duration, Duration), faults: &mut Collector) -> Option<Setting> {
    let time = match &item.value {
        Value::Integer(Some(seconds)) => {
            u32::try_from(*seconds).ok().map(|it| Duration::from_secs(it.into()))
        }
        Value::Float(seconds) => scaled(seconds, 1_000).map(Duration::from_millis),
        Value::Text(text) => time_of(text),
        _ => None,
    };
    match time.filter(|time| (least..=most).contains(time)) {
        Some(time) => Some(Setting::Time(time)),
        None => {
            let (least, most) = (in_words(least), in_words(most));
            wrong(
                item,
                &format!("a time from {least} to {most}, such as \"5 min\", or seconds as a number"),
                faults,
            )
        }
    }
}

/// `NUMBER UNIT`.
#[cold]
fn time_of(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_once(' ')?;
    let (_, ms) = UNITS.iter().find(|(name, _)| *name == unit)?;
    scaled(number, *ms).map(Duration::from_millis)
}

#[cold]
fn moment_of(item: &Item, faults: &mut Collector) -> Option<Setting> {
    let moment = match &item.value {
        Value::Text(text) | Value::Date(text) => super::moment::read(text),
        _ => None,
    };
    match moment {
        Some(moment) => Some(Setting::Moment(moment)),
        None => wrong(
            item,
            "a day such as 2027-01-31, or a moment with its offset such as 2027-01-31T18:00:00+01:00",
            faults,
        ),
    }
}

/// Tells of a name that stands for nothing, with the nearest that does.
#[cold]
pub fn unknown<'w>(what: &str, word: &str, known: impl IntoIterator<Item = &'w str>) -> String {
    match nearest(word, known) {
        Some(near) => format!("wanted {what} (the nearest is '{near}'), found {}", quoted(word)),
        None => format!("wanted {what} (there is none), found {}", quoted(word)),
    }
}

/// The tables in a table by their names; what is no table is told.
#[cold]
pub fn tables<'d>(
    document: &'d Document<'d>,
    item: &Item,
    section: &str,
    faults: &mut Collector,
) -> Vec<(&'d super::document::Entry<'d>, super::document::TableId)> {
    let Value::Table(all) = item.value else {
        let _: Option<()> = wrong(item, &format!("tables [{section}.NAME]"), faults);
        return Vec::new();
    };
    let mut found = Vec::new();
    for entry in document.entries(all) {
        match entry.item.value {
            Value::Table(table) => found.push((entry, table)),
            _ => faults.tell(entry.at, || {
                format!("wanted a table [{section}.NAME] around it, found {} alone", quoted(&entry.key))
            }),
        }
    }
    found
}
