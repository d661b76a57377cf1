//! A TOML document (toml.io, version 1.1) with the place of every key and value.
//!
//! All faults of syntax are found, keys that stand twice among them. Nothing recurses by what the text nests: lists and
//! inline tables may be [`DEPTH_MAX`] deep, names may have as many parts, and tables lie side by side.
//!
//! Of tables that no configuration has, those that belong to no section or lie deeper than [`LEVELS`], as many are kept
//! as faults are told, and of one table [`ENTRIES_MAX`] entries. So the cost of a file depends on its length, and not
//! on what it makes up.

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry::{Occupied, Vacant};
use std::ops::Range;

use toml_parser::decoder::{Encoding, ScalarKind};
use toml_parser::parser::{EventReceiver, ValidateWhitespace, parse_document};
use toml_parser::{ErrorSink, ParseError, Raw, Source, Span};

use super::fault::{Collector, FAULTS_MAX, quoted};
use super::options::{OPTIONS, Section};
use super::syntax::{explained, no_digits};

/// How deep lists and inline tables may nest, and how many parts the name of a key may have.
const DEPTH_MAX: usize = 8;

/// How many tables lie in each other, the outermost included: `[section.NAME]`.
const LEVELS: usize = 3;

/// Entries of a table that are kept, and beside them those that have the name of an option or of a section. A
/// configuration has fewer, so that each that has more is at fault.
const ENTRIES_MAX: usize = 4_096 + FAULTS_MAX;

/// A table's place in its document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TableId(usize);

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A string.
    Text(String),
    /// An integer; `None` if it does not fit into 64 bits.
    Integer(Option<i64>),
    /// A number with a fraction or an exponent.
    Float(String),
    /// `true` or `false`.
    Boolean(bool),
    /// A date, a time, or both, as it is written.
    Date(String),
    /// A list.
    List(Vec<Item>),
    /// A list in a list; what stands in it is left out.
    Inner,
    /// A table.
    Table(TableId),
    /// `[[name]]`, once or more often; what stands in it is left out.
    Tables,
}

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// Its bytes; of a table its head.
    pub span: Range<usize>,
    /// What it is.
    pub value: Value,
}

/// A key and its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry<'t> {
    /// The key.
    pub key: Cow<'t, str>,
    /// Where the key stands.
    pub at: usize,
    /// The value.
    pub item: Item,
}

/// How a table came to be, which decides whether more may be said of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Made {
    /// By the head of a table in it.
    Implied,
    /// By a key with a dot.
    Dotted,
    /// By its own head, or in braces: it is whole.
    Whole,
}

#[derive(Clone, Debug)]
struct Table<'t> {
    made: Made,
    /// How many tables it lies in.
    level: usize,
    entries: Vec<Entry<'t>>,
}

/// All tables of a text.
#[derive(Clone, Debug)]
pub struct Document<'t> {
    tables: Vec<Table<'t>>,
    /// Which entry of a table has a key.
    places: HashMap<(TableId, Cow<'t, str>), usize>,
    /// How many tables may still be kept that no configuration has.
    room_for_odd: usize,
}

impl<'t> Document<'t> {
    /// The table that all others stand in.
    pub const ROOT: TableId = TableId(0);

    /// A table of which nothing is kept. It has no entries, takes all, and each table in it is it.
    const NOWHERE: TableId = TableId(usize::MAX);

    /// Reads a text. What it breaks is told; the document is then not to be used.
    #[cold]
    pub fn read(text: &'t str, faults: &mut Collector) -> Document<'t> {
        let root = Table { made: Made::Whole, level: 0, entries: Vec::new() };
        let document = Document { tables: vec![root], places: HashMap::new(), room_for_odd: FAULTS_MAX };
        let source = Source::new(text);
        let mut builder = Builder {
            document,
            source,
            path: Vec::new(),
            head: None,
            open: Vec::new(),
            key: None,
            into: Some(Document::ROOT),
            twice: Vec::new(),
        };
        let mut errors = |error: ParseError| {
            let at = error.unexpected().or(error.context()).map_or(0, |span| span.start());
            faults.tell(at, || explained(text, &error));
        };
        let tokens = source.lex().into_vec();
        parse_document(&tokens, &mut ValidateWhitespace::new(&mut builder, source), &mut errors);
        for Twice { key, at, first } in builder.twice {
            faults.tell_clash(at, first, |first| {
                format!("wanted each name once, found {} again; the first is at {first}", quoted(&key))
            });
        }
        builder.document
    }

    /// What stands in a table, in its order.
    pub fn entries(&self, table: TableId) -> &[Entry<'t>] {
        self.tables.get(table.0).map_or(&[], |table| &table.entries)
    }

    /// What has a key.
    #[cold]
    pub fn entry(&self, table: TableId, key: &str) -> Option<&Entry<'t>> {
        let places: &HashMap<(TableId, Cow<'_, str>), usize> = &self.places;
        let place = places.get(&(table, Cow::Borrowed(key)))?;
        self.tables.get(table.0)?.entries.get(*place)
    }

    /// A new table of this key in another one.
    fn add(&mut self, table: TableId, key: &str, made: Made) -> TableId {
        let Some(level) = self.tables.get(table.0).map(|table| table.level + 1) else {
            return Document::NOWHERE;
        };
        if self.leaves_out(table, key) {
            return Document::NOWHERE;
        }
        if level >= LEVELS || table == Document::ROOT && !Section::has_tables(key) {
            return self.add_odd(made);
        }
        self.tables.push(Table { made, level, entries: Vec::new() });
        TableId(self.tables.len() - 1)
    }

    /// A new table that no configuration has.
    fn add_odd(&mut self, made: Made) -> TableId {
        let Some(room) = self.room_for_odd.checked_sub(1) else { return Document::NOWHERE };
        self.room_for_odd = room;
        self.tables.push(Table { made, level: LEVELS, entries: Vec::new() });
        TableId(self.tables.len() - 1)
    }

    /// Whether a table has as many entries as are kept, and this one would be one more.
    fn leaves_out(&self, table: TableId, key: &str) -> bool {
        let is_full = self.tables.get(table.0).is_some_and(|table| table.entries.len() >= ENTRIES_MAX);
        is_full && !Section::has_tables(key) && OPTIONS.iter().all(|option| option.name != key)
    }

    /// Puts an entry into a table; gives the place of the key back if it is there already.
    #[cold]
    fn insert(&mut self, table: TableId, entry: Entry<'t>) -> Result<(), usize> {
        if self.leaves_out(table, &entry.key) {
            return Ok(());
        }
        let Some(found) = self.tables.get_mut(table.0) else { return Ok(()) };
        match self.places.entry((table, entry.key.clone())) {
            Occupied(place) => Err(found.entries.get(*place.get()).map_or(entry.at, |first| first.at)),
            Vacant(place) => {
                place.insert(found.entries.len());
                found.entries.push(entry);
                Ok(())
            }
        }
    }

    /// The table of this key in another one, which is made if there is none; or the place of what else is there.
    #[cold]
    fn descend(&mut self, table: TableId, key: &Key<'t>, made: Made) -> Result<TableId, usize> {
        if table == Document::NOWHERE {
            return Ok(table);
        }
        match self.entry(table, &key.text) {
            Some(Entry { item: Item { value: Value::Table(inner), .. }, at, .. }) => {
                let (inner, at) = (*inner, *at);
                let is_whole = self.tables.get(inner.0).is_some_and(|table| table.made == Made::Whole);
                if is_whole && made == Made::Dotted { Err(at) } else { Ok(inner) }
            }
            Some(Entry { at, .. }) => Err(*at),
            None => {
                let inner = self.add(table, &key.text, made);
                let item = Item { span: key.span.clone(), value: Value::Table(inner) };
                self.insert(table, Entry { key: key.text.clone(), at: key.span.start, item }).map(|()| inner)
            }
        }
    }
}

/// A part of a key's name.
#[derive(Clone, Debug)]
struct Key<'t> {
    text: Cow<'t, str>,
    span: Range<usize>,
}

/// A key that stands a second time.
struct Twice<'t> {
    key: Cow<'t, str>,
    at: usize,
    first: usize,
}

/// A list or an inline table that is not closed yet.
struct Open<'t> {
    at: usize,
    /// The key that it is the value of.
    key: Option<(TableId, Key<'t>)>,
    what: Inside,
}

enum Inside {
    List(Vec<Item>),
    Inner,
    Table(TableId),
}

/// The head of a table whose end has not come yet.
struct Head {
    at: usize,
    is_list: bool,
}

/// Makes a document of what the parser tells.
struct Builder<'t> {
    document: Document<'t>,
    source: Source<'t>,
    /// The parts of a key's name so far.
    path: Vec<Key<'t>>,
    head: Option<Head>,
    open: Vec<Open<'t>>,
    /// The key that a value is awaited for.
    key: Option<(TableId, Key<'t>)>,
    /// Where keys go; nowhere behind a head that is broken.
    into: Option<TableId>,
    twice: Vec<Twice<'t>>,
}

impl<'t> Builder<'t> {
    fn raw(&self, span: Span, encoding: Option<Encoding>) -> Raw<'t> {
        let text = self.source.input().get(span.start()..span.end()).unwrap_or_default();
        Raw::new_unchecked(text, encoding, span)
    }

    #[cold]
    fn begin_head(&mut self, span: Span, is_list: bool) {
        self.path.clear();
        self.open.clear();
        self.key = None;
        self.head = Some(Head { at: span.start(), is_list });
    }

    #[cold]
    fn end_head(&mut self, span: Span) {
        let Some(Head { at, is_list }) = self.head.take() else { return };
        self.into = None;
        let path = std::mem::take(&mut self.path);
        let Some((last, above)) = path.split_last() else { return };
        let mut table = Document::ROOT;
        for key in above {
            match self.document.descend(table, key, Made::Implied) {
                Ok(inner) => table = inner,
                Err(first) => return self.again(key, first),
            }
        }
        self.into = match (is_list, self.document.entry(table, &last.text)) {
            (true, None) => {
                let item = Item { span: at..span.end(), value: Value::Tables };
                let _ =
                    self.document.insert(table, Entry { key: last.text.clone(), at: last.span.start, item });
                Some(self.document.add_odd(Made::Whole))
            }
            (true, Some(Entry { item: Item { value: Value::Tables, .. }, .. })) => {
                Some(self.document.add_odd(Made::Whole))
            }
            (false, None) => self.document.descend(table, last, Made::Whole).ok(),
            (false, Some(&Entry { item: Item { value: Value::Table(inner), .. }, at, .. })) => {
                let found = self.document.tables.get_mut(inner.0);
                match found {
                    Some(found) if found.made == Made::Implied => found.made = Made::Whole,
                    Some(_) => self.again(last, at),
                    None => {}
                }
                Some(inner)
            }
            (_, Some(&Entry { at, .. })) => {
                self.again(last, at);
                None
            }
        };
    }

    fn again(&mut self, key: &Key<'t>, first: usize) {
        // Where no key stands at all, that was told.
        if !key.span.is_empty() {
            self.twice.push(Twice { key: key.text.clone(), at: key.span.start, first });
        }
    }

    /// The table that a key stands in: the innermost one in braces, else that of the head before.
    fn table(&self) -> Option<TableId> {
        match self.open.last() {
            Some(Open { what: Inside::Table(table), .. }) => Some(*table),
            Some(_) => None,
            None => self.into,
        }
    }

    #[cold]
    fn end_key(&mut self) {
        let path = std::mem::take(&mut self.path);
        self.key = None;
        let (Some(mut table), Some((last, above))) = (self.table(), path.split_last()) else { return };
        // Where no key stands at all, that was told.
        if last.span.is_empty() {
            return;
        }
        for key in above {
            match self.document.descend(table, key, Made::Dotted) {
                Ok(inner) => table = inner,
                Err(first) => return self.again(key, first),
            }
        }
        self.key = Some((table, last.clone()));
    }

    #[inline(never)]
    fn value(&mut self, item: Item) {
        match self.open.last_mut() {
            Some(Open { what: Inside::List(list), .. }) => return list.push(item),
            Some(Open { what: Inside::Inner, .. }) => return,
            _ => {}
        }
        let Some((table, key)) = self.key.take() else { return };
        let entry = Entry { key: key.text.clone(), at: key.span.start, item };
        if let Err(first) = self.document.insert(table, entry) {
            self.again(&key, first);
        }
    }

    #[cold]
    fn begin(&mut self, span: Span, what: Inside, error: &mut dyn ErrorSink) -> bool {
        let fits = self.open.len() < DEPTH_MAX;
        // One that is too deep is pushed as well: the parser passes over what is in it, and tells its end.
        self.open.push(Open { at: span.start(), key: self.key.take(), what });
        self.path.clear();
        if !fits {
            error.report_error(ParseError::new("lists and tables nest too deeply").with_unexpected(span));
        }
        fits
    }

    #[cold]
    fn end(&mut self, span: Span) {
        let Some(Open { at, key, what }) = self.open.pop() else { return };
        self.key = key;
        self.path.clear();
        let value = match what {
            Inside::List(list) => Value::List(list),
            Inside::Inner => Value::Inner,
            Inside::Table(table) => Value::Table(table),
        };
        self.value(Item { span: at..span.end(), value });
    }
}

impl<'t> EventReceiver for Builder<'t> {
    #[cold]
    fn std_table_open(&mut self, span: Span, _: &mut dyn ErrorSink) {
        self.begin_head(span, false);
    }

    #[cold]
    fn std_table_close(&mut self, span: Span, _: &mut dyn ErrorSink) {
        self.end_head(span);
    }

    #[cold]
    fn array_table_open(&mut self, span: Span, _: &mut dyn ErrorSink) {
        self.begin_head(span, true);
    }

    #[cold]
    fn array_table_close(&mut self, span: Span, _: &mut dyn ErrorSink) {
        self.end_head(span);
    }

    #[cold]
    fn inline_table_open(&mut self, span: Span, error: &mut dyn ErrorSink) -> bool {
        let table = match &self.key {
            Some((table, key)) => self.document.add(*table, &key.text, Made::Whole),
            None => self.document.add_odd(Made::Whole),
        };
        self.begin(span, Inside::Table(table), error)
    }

    #[cold]
    fn inline_table_close(&mut self, span: Span, _: &mut dyn ErrorSink) {
        self.end(span);
    }

    #[cold]
    fn array_open(&mut self, span: Span, error: &mut dyn ErrorSink) -> bool {
        let is_list = |open: &Open| !matches!(open.what, Inside::Table(_));
        let what = if self.open.iter().any(is_list) { Inside::Inner } else { Inside::List(Vec::new()) };
        self.begin(span, what, error)
    }

    #[cold]
    fn array_close(&mut self, span: Span, _: &mut dyn ErrorSink) {
        self.end(span);
    }

    #[cold]
    fn simple_key(&mut self, span: Span, encoding: Option<Encoding>, error: &mut dyn ErrorSink) {
        let mut text: Cow<'t, str> = Cow::Borrowed("");
        self.raw(span, encoding).decode_key(&mut text, error);
        if self.path.len() == DEPTH_MAX {
            error.report_error(ParseError::new("a name has too many parts").with_unexpected(span));
        } else if self.path.len() < DEPTH_MAX {
            self.path.push(Key { text, span: span.start()..span.end() });
        }
    }

    #[cold]
    fn key_val_sep(&mut self, _: Span, _: &mut dyn ErrorSink) {
        self.end_key();
    }

    #[cold]
    fn scalar(&mut self, span: Span, encoding: Option<Encoding>, error: &mut dyn ErrorSink) {
        let mut text = Cow::Borrowed("");
        let kind = self.raw(span, encoding).decode_scalar(&mut text, error);
        no_digits(&text, kind, span).into_iter().for_each(|fault| error.report_error(fault));
        let value = match kind {
            ScalarKind::String => Value::Text(text.into_owned()),
            ScalarKind::Boolean(value) => Value::Boolean(value),
            ScalarKind::DateTime => Value::Date(text.into_owned()),
            ScalarKind::Float => Value::Float(text.into_owned()),
            ScalarKind::Integer(radix) => Value::Integer(i64::from_str_radix(&text, radix.value()).ok()),
        };
        self.value(Item { span: span.start()..span.end(), value });
    }

    fn value_sep(&mut self, _: Span, _: &mut dyn ErrorSink) {
        self.path.clear();
        self.key = None;
    }

    #[cold]
    fn newline(&mut self, _: Span, _: &mut dyn ErrorSink) {
        if self.open.is_empty() {
            self.path.clear();
            self.key = None;
        }
        // Keys behind a head that has no end belong to nobody.
        if self.head.take().is_some() {
            self.into = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    #[test]
    fn a_prefix_without_digits_is_a_fault_of_syntax() {
        for prefix in ["0x", "0b", "0o"] {
            let line = format!("pool = {prefix}\n");
            let faults = crate::config::file::parse(&"f".into(), &line, SystemTime::UNIX_EPOCH);
            let text = faults.err().map(|faults| faults.to_string()).unwrap_or_default();
            assert!(text.starts_with(&format!("f:1:8: wanted digits, found '{prefix}'")), "{text}");
        }
    }

    #[test]
    fn of_what_no_configuration_has_not_much_more_than_the_names_is_kept() {
        for (line, tables, entries) in [
            ("aN.b.c.d.e.f.g = 1", 1, 500),
            ("[aN.b.c.d]\nx.y = 1", 1, 500),
            ("[[aN]]\nx.y = 1", 1, 500),
            ("aN = [{ b.c = 1 }, { d = 1 }]", 1, 500),
            ("aN = { b.c = 1 }", 1, 500),
            ("service.aN.b.c.d.e = 1", 502, 1_001),
            ("[service.aN]\nlisten = { b.c = 1 }", 502, 1_001),
            ("[service.aN]\nlisten = [[{ b.c = 1 }, [[N]]]]", 502, 1_001),
        ] {
            let text: String = (0..500).map(|number| line.replace('N', &number.to_string()) + "\n").collect();
            let mut faults = Collector::new(&"f".into(), &text);
            let document = Document::read(&text, &mut faults);
            assert!(faults.is_empty(), "{line}");
            assert!(document.tables.len() <= tables + FAULTS_MAX, "{line}: {}", document.tables.len());
            assert!(document.places.len() <= entries + FAULTS_MAX, "{line}: {}", document.places.len());
        }
    }

    #[test]
    fn of_a_table_as_many_entries_are_kept_as_may_be_and_those_that_an_option_names() {
        let limits = crate::config::limits::Limits::default();
        let most = limits.services_max.max(limits.policies_max).max(limits.publications_per_client_max);
        assert!(most < ENTRIES_MAX);
        for line in ["aN = 1", "[aN]", "[service.aN]\nlisten = 1", "service.aN.listen = 1"] {
            let mut text: String =
                (0..20_000).map(|number| line.replace('N', &number.to_string()) + "\n").collect();
            text += "[publish.a]\nlocal = 1\n[key]\nports.local = 1\n";
            let mut faults = Collector::new(&"f".into(), &text);
            let document = Document::read(&text, &mut faults);
            assert!(faults.is_empty(), "{line}");
            assert!(document.tables.len() < ENTRIES_MAX + 10, "{line}: {}", document.tables.len());
            assert!(document.places.len() < 2 * ENTRIES_MAX + 10, "{line}: {}", document.places.len());
            for section in ["publish", "key"] {
                assert!(document.entry(Document::ROOT, section).is_some(), "{line}: {section}");
            }
        }
    }

    #[test]
    fn a_key_is_found_in_its_table_however_that_was_written() {
        for text in [
            "[service.web]\nusers = 5",
            "service.web.users = 5",
            "[service]\nweb.users = 5",
            "service = { web = { users = 5 } }",
            "[service]\n[service.'web']\nusers = 5",
        ] {
            let mut faults = Collector::new(&"f".into(), text);
            let document = Document::read(text, &mut faults);
            let table = |table, key| match document.entry(table, key).map(|entry| &entry.item.value) {
                Some(Value::Table(inner)) => *inner,
                other => panic!("{other:?} in {text}"),
            };
            let web = table(table(Document::ROOT, "service"), "web");
            let found = document.entry(web, "users").map(|entry| entry.item.value.clone());
            assert_eq!(found, Some(Value::Integer(Some(5))), "{text}");
        }
    }
}
