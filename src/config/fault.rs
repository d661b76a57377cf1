//! Faults of a configuration: where each stands, what was wanted and what was found. All are told at once, in the order
//! of the file, and a secret is never part of one.

use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

/// Faults that are told; more are counted.
pub const FAULTS_MAX: usize = 100;

/// What stands for a secret where text is quoted.
const HIDDEN: &str = "…";

/// Letters of a word that is hidden in any text: a secret has 43, and some may be cut off or miss.
const SECRET_LETTERS_MIN: usize = 40;

/// Characters of a quotation.
const QUOTED_MAX: usize = 60;

/// A place in a file, counted from 1; the column in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

impl Place {
    /// Where a file begins.
    pub const BEGIN: Place = Place { line: 1, column: 1 };

    /// The higher, the further from the beginning.
    pub fn rank(self) -> u64 {
        (self.line as u64) << 32 | self.column as u64
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// One fault, or one warning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The file, as it was named.
    pub file: Arc<str>,
    /// Where in it.
    pub place: Place,
    /// `wanted …, found …`, or what a warning says.
    pub what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Fault { file, place, what } = self;
        f.write_str(&without_whole_secrets(&format!("{file}:{place}: {what}")))
    }
}

/// What is taken and should be known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Where, if a file says it.
    pub at: Option<(Arc<str>, Place)>,
    /// What.
    pub what: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&without_whole_secrets(&match &self.at {
            Some((file, place)) => format!("{file}:{place}: warning: {}", self.what),
            None => self.what.clone(),
        }))
    }
}

/// At least one fault, and how many more there are than are told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    told: Vec<Fault>,
    more: usize,
}

impl Faults {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.told.is_empty()
    }

    /// Those that are told, at most [`FAULTS_MAX`].
    pub fn told(&self) -> &[Fault] {
        &self.told
    }

    /// How many more there are.
    pub fn more(&self) -> usize {
        self.more
    }

    /// Adds those of another file behind these.
    pub fn extend(&mut self, others: Faults) {
        self.more += others.more;
        others.told.into_iter().for_each(|fault| self.push(fault));
    }

    /// Adds one behind these.
    pub fn push(&mut self, fault: Fault) {
        self.tell(|| fault);
    }

    /// Adds one behind these, which is made if it is one of those that are told.
    pub fn tell(&mut self, fault: impl FnOnce() -> Fault) {
        if self.told.len() < FAULTS_MAX { self.told.push(fault()) } else { self.more += 1 }
    }

    /// The same as warnings.
    #[cold]
    pub fn into_warnings(self) -> Vec<Warning> {
        let told = self.told.into_iter();
        let mut warnings: Vec<Warning> =
            told.map(|Fault { file, place, what }| Warning { at: Some((file, place)), what }).collect();
        if self.more > 0 {
            warnings.push(Warning { at: None, what: format!("and {} more warnings", self.more) });
        }
        warnings
    }

    /// The first one and how many there are beside it, on one line: for the log.
    #[cold]
    pub fn in_one_line(&self) -> String {
        let others = self.told.len().saturating_sub(1) + self.more;
        match self.told.first() {
            Some(first) if others > 0 => format!("{first}, and {others} more"),
            Some(first) => first.to_string(),
            None => String::new(),
        }
    }
}

/// A line for each, and one for the rest.
impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, fault) in self.told.iter().enumerate() {
            write!(f, "{}{fault}", if number > 0 { "\n" } else { "" })?;
        }
        if self.more > 0 { write!(f, "\nand {} more", self.more) } else { Ok(()) }
    }
}

/// Which line and column a byte of a text is in.
#[derive(Debug)]
pub struct Lines<'t> {
    text: &'t str,
    /// Each line's first byte, and one of every [`STRIDE`] in a long line.
    marks: Vec<(usize, Place)>,
}

/// Bytes of a line after which the column is marked, so that no place takes long to find.
const STRIDE: usize = 1024;

impl<'t> Lines<'t> {
    /// Looks for the lines of a text.
    pub fn of(text: &'t str) -> Lines<'t> {
        let mut marks = Vec::new();
        let mut begin = 0;
        for (number, line) in text.split('\n').enumerate() {
            let mut place = Place { line: number + 1, column: 1 };
            let mut last = 0;
            marks.push((begin, place));
            if line.len() >= STRIDE {
                for (at, _) in line.char_indices() {
                    if at - last >= STRIDE {
                        last = at;
                        marks.push((begin + at, place));
                    }
                    place.column += 1;
                }
            }
            begin += line.len() + 1;
        }
        Lines { text, marks }
    }

    /// The place of a byte.
    pub fn place(&self, at: usize) -> Place {
        let behind = self.marks.partition_point(|&(mark, _)| mark <= at);
        let (mark, place) = self.marks.get(behind.wrapping_sub(1)).copied().unwrap_or((0, Place::BEGIN));
        let between = self.text.get(mark..at.min(self.text.len())).unwrap_or_default();
        Place { line: place.line, column: place.column + between.chars().count() }
    }
}

/// Collects what is found in one text, in any order: the first [`FAULTS_MAX`] of it are kept, and the others counted.
/// Memory and time do not depend on how many there are.
#[derive(Debug)]
pub struct Collector<'t> {
    file: Arc<str>,
    lines: Rc<Lines<'t>>,
    /// Sorted by their places.
    kept: Vec<(usize, String)>,
    count: usize,
}

impl<'t> Collector<'t> {
    /// Nothing yet. `file` is named in each.
    pub fn new(file: &Arc<str>, text: &'t str) -> Collector<'t> {
        Collector { file: file.clone(), lines: Rc::new(Lines::of(text)), kept: Vec::new(), count: 0 }
    }

    /// Nothing yet, of the same text.
    pub fn beside(&self) -> Collector<'t> {
        Collector { file: self.file.clone(), lines: self.lines.clone(), kept: Vec::new(), count: 0 }
    }

    /// Adds one at a byte of the text.
    pub fn tell(&mut self, at: usize, what: impl FnOnce() -> String) {
        self.count += 1;
        if self.has_room(at) {
            self.keep(at, what());
        }
    }

    /// Adds one that clashes with an earlier one, whose place is part of what is said.
    pub fn tell_clash(&mut self, at: usize, first: usize, what: impl FnOnce(Place) -> String) {
        self.count += 1;
        if self.has_room(at) {
            self.keep(at, what(self.lines.place(first)));
        }
    }

    fn has_room(&self, at: usize) -> bool {
        self.kept.len() < FAULTS_MAX || self.kept.last().is_some_and(|&(last, _)| at < last)
    }

    #[cold]
    #[inline(never)]
    fn keep(&mut self, at: usize, what: String) {
        let behind = self.kept.partition_point(|&(earlier, _)| earlier <= at);
        self.kept.insert(behind, (at, what));
        self.kept.truncate(FAULTS_MAX);
    }

    /// Whether none was told.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The place of a byte.
    pub fn place(&self, at: usize) -> Place {
        self.lines.place(at)
    }

    /// What was collected, in the order of the text.
    #[cold]
    pub fn finish(self) -> Faults {
        let told = self.kept.into_iter().map(|(at, what)| {
            let place = self.lines.place(at);
            Fault { file: self.file.clone(), place, what }
        });
        let told: Vec<Fault> = told.collect();
        Faults { more: self.count - told.len(), told }
    }
}

/// Whether a letter shows itself, and does not turn or join what stands beside it.
pub fn is_visible(letter: char) -> bool {
    "'\"\\".contains(letter) || letter.escape_debug().len() == 1
}

/// A text from a file in quotation marks: short, on one line, and without what looks like a secret.
#[cold]
pub fn quoted(text: &str) -> String {
    let text = without_secrets(text);
    let mut quotation = String::from("'");
    for letter in text.chars().take(QUOTED_MAX) {
        if is_visible(letter) {
            quotation.push(letter);
        } else {
            quotation.extend(letter.escape_debug());
        }
    }
    if text.chars().nth(QUOTED_MAX).is_some() {
        quotation.push_str(HIDDEN);
    }
    quotation.push('\'');
    quotation
}

/// The text with [`HIDDEN`] for each word that looks like a secret, or like a part of one.
pub fn without_secrets(text: &str) -> String {
    hidden(text, looks_secret)
}

/// The text with [`HIDDEN`] for each word that is as long as a secret and has capitals and small letters as random text
/// has. Paths and whole sentences have shorter words that look like parts of secrets, and are names of folders.
pub fn without_whole_secrets(text: &str) -> String {
    hidden(text, |word| {
        let any = |of: fn(&u8) -> bool| word.bytes().any(|byte| of(&byte));
        word.len() >= SECRET_LETTERS_MIN && any(u8::is_ascii_uppercase) && any(u8::is_ascii_lowercase)
    })
}

#[cold]
fn hidden(text: &str, is_hidden: fn(&str) -> bool) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let letters = rest.find(|letter| !is_letter(letter)).unwrap_or(rest.len());
        let (word, behind) = rest.split_at(letters);
        shown.push_str(if is_hidden(word) { HIDDEN } else { word });
        let others = behind.find(is_letter).unwrap_or(behind.len());
        let (between, behind) = behind.split_at(others);
        shown.push_str(between);
        rest = behind;
    }
    shown
}

/// What secrets are written with, of base64 in its usual form, too. A slash is none: it stands in paths.
fn is_letter(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || "-_+=".contains(letter)
}

/// Random text of 20 letters has capitals, small letters and digits. Words that people write have not, or are divided.
pub fn looks_secret(word: &str) -> bool {
    let any = |of: fn(&u8) -> bool| word.bytes().any(|byte| of(&byte));
    let is_mixed = any(u8::is_ascii_uppercase) && any(u8::is_ascii_lowercase) && any(u8::is_ascii_digit);
    let is_divided = word.contains(['-', '_']) && !any(u8::is_ascii_uppercase);
    word.len() >= 20 && is_mixed || word.len() >= 40 && !is_divided
}

/// The nearest of some words to one, by how many letters must be put in, taken out or replaced (Levenshtein).
#[cold]
pub fn nearest<'w>(word: &str, among: impl IntoIterator<Item = &'w str>) -> Option<&'w str> {
    // No word of ours is longer, and one machine word has a bit for each letter.
    let word: Vec<u8> = word.bytes().take(64).map(|byte| byte.to_ascii_lowercase()).collect();
    let mut places = [0u64; 256];
    for (bit, &letter) in word.iter().enumerate() {
        places[usize::from(letter)] |= 1 << bit;
    }
    among.into_iter().min_by_key(|known| distance(&places, word.len(), known.as_bytes()))
}

/// The distance of a word to one whose letters stand at these places, in a step for each letter (Myers 1999, Hyyrö
/// 2001).
fn distance(places: &[u64; 256], length: usize, word: &[u8]) -> usize {
    let Some(last) = length.checked_sub(1) else { return word.len() };
    let (mut more, mut less, mut distance) = (u64::MAX, 0u64, length);
    for &letter in word {
        let equal = places[usize::from(letter.to_ascii_lowercase())];
        let down = equal | less;
        let across = ((equal & more).wrapping_add(more) ^ more) | equal;
        let (more_across, less_across) = (less | !(across | more), more & across);
        distance += (more_across >> last & 1) as usize;
        distance -= (less_across >> last & 1) as usize;
        let (more_across, less_across) = (more_across << 1 | 1, less_across << 1);
        more = less_across | !(down | more_across);
        less = more_across & down;
    }
    distance
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> Arc<str> {
        "f".into()
    }

    #[test]
    fn a_place_is_a_line_and_a_column_in_characters() {
        let text = "a = 1\r\nname = \"ä\" # €\n\nlast";
        let lines = Lines::of(text);
        for (part, place) in [("a", "1:1"), ("name", "2:1"), ("#", "2:12"), ("last", "4:1")] {
            assert_eq!(lines.place(text.find(part).expect("part of it")).to_string(), place, "{part}");
        }
        assert_eq!(lines.place(text.len()).to_string(), "4:5");
        assert_eq!(Lines::of("").place(0), Place::BEGIN);
        let long = "ä".repeat(5_000);
        let lines_of_long = Lines::of(&long);
        for at in (0..10_000).step_by(2) {
            assert_eq!(lines_of_long.place(at), Place { line: 1, column: at / 2 + 1 });
        }
    }

    #[test]
    fn faults_come_in_the_order_of_the_text_and_beyond_a_hundred_are_counted() {
        let text = "x\n".repeat(300);
        let mut collector = Collector::new(&file(), &text);
        for line in (0..250).rev() {
            collector.tell(2 * line, || format!("fault {line}"));
        }
        let faults = collector.finish();
        assert_eq!((faults.told().len(), faults.more()), (100, 150));
        assert_eq!(faults.told()[99].to_string(), "f:100:1: fault 99");
        assert!(faults.to_string().starts_with("f:1:1: fault 0\nf:2:1: fault 1\n"));
        assert!(faults.to_string().ends_with("\nand 150 more"));
        assert_eq!(faults.in_one_line(), "f:1:1: fault 0, and 249 more");
    }

    #[test]
    fn what_cannot_be_seen_is_shown_as_its_number() {
        let escaped = r"ab\u{a0}\u{2028}\u{feff}\u{200b}\u{202e}\t";
        assert_eq!(quoted("ab\u{a0}\u{2028}\u{feff}\u{200b}\u{202e}\t"), format!("'{escaped}'"));
        assert_eq!(quoted("größe 'a' \"b\" \\ €"), "'größe 'a' \"b\" \\ €'");
    }

    #[test]
    fn what_looks_like_a_secret_is_not_shown() {
        let secret = "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3I";
        for text in
            [secret, &secret[..42], &secret[..20], &format!("{secret}="), &"A".repeat(43), &"ab1".repeat(20)]
        {
            let shown = quoted(&format!("office {text}, and more"));
            assert_eq!(shown, "'office …, and more'", "{text}");
        }
        for text in [
            "27000-27100/tcp+udp",
            "/etc/skyorg/keys/of-the-office",
            "service-with-a-name-that-takes-some-room-10",
        ] {
            assert_eq!(quoted(text), format!("'{text}'"));
        }
        for folder in ["Folder1OfTestsWithCapitals2", &"d".repeat(200), &"0123456789abcdef".repeat(4)] {
            let path = format!("/tmp/{folder}/keys");
            assert_eq!(without_whole_secrets(&path), path);
        }
    }

    #[test]
    fn a_whole_secret_is_shown_in_no_part_of_a_path_and_in_no_word_of_a_sentence() {
        let secret = "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3I";
        for (text, shown) in [
            ("SECRET", "…"),
            ("./SECRET", "./…"),
            ("/tmp/SECRET", "/tmp/…"),
            ("keys.d/SECRET/key", "keys.d/…/key"),
            ("office SECRET", "office …"),
            ("SECRET.key", "….key"),
            ("no file at 'SECRET', found none", "no file at '…', found none"),
            ("--key=SECRET", "…"),
            ("office-SECRET", "…"),
        ] {
            let text = text.replace("SECRET", secret);
            assert_eq!(without_whole_secrets(&text), shown);
            let of_file = Fault { file: text.as_str().into(), place: Place::BEGIN, what: text.clone() };
            assert_eq!(of_file.to_string(), format!("{shown}:1:1: {shown}"));
            let warning = Warning { at: None, what: text };
            assert_eq!(warning.to_string(), shown);
        }
    }

    #[test]
    fn a_quotation_is_short_and_on_one_line() {
        assert_eq!(quoted("a\nb\u{7}"), "'a\\nb\\u{7}'");
        assert_eq!(quoted(&"ä ".repeat(500)).chars().count(), QUOTED_MAX + 3);
    }

    #[test]
    fn the_nearest_word_is_named() {
        let known = ["listen", "from", "users", "users-per-address", "idle"];
        for (word, near) in [("lisen", "listen"), ("form", "from"), ("user", "users"), ("Idle", "idle")] {
            assert_eq!(nearest(word, known), Some(near), "{word}");
        }
        assert_eq!(nearest("x", []), None);
        assert_eq!(nearest("", ["ab", "c"]), Some("c"));
    }

    #[test]
    fn the_distance_is_that_of_the_definition() {
        fn slow(one: &[u8], other: &[u8]) -> usize {
            match (one, other) {
                ([], rest) | (rest, []) => rest.len(),
                ([a, one @ ..], [b, other @ ..]) if a == b => slow(one, other),
                ([_, less @ ..], [_, fewer @ ..]) => {
                    1 + slow(less, fewer).min(slow(less, other)).min(slow(one, fewer))
                }
            }
        }
        let mut rng = fastrand::Rng::with_seed(1);
        for _ in 0..500 {
            let mut word = || (0..rng.usize(..7)).map(|_| rng.u8(b'a'..b'd')).collect::<Vec<u8>>();
            let (one, other) = (word(), word());
            let mut places = [0; 256];
            one.iter().enumerate().for_each(|(bit, &letter)| places[usize::from(letter)] |= 1 << bit);
            assert_eq!(distance(&places, one.len(), &other), slow(&one, &other), "{one:?} {other:?}");
        }
    }
}
