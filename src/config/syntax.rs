//! What breaks the syntax of a file, in our words.

use std::ops::Range;

use toml_parser::decoder::ScalarKind;
use toml_parser::{Expected, ParseError, Span};

use super::fault::{quoted, without_secrets};

/// How many characters beside a fault of syntax are looked at for a secret.
const AROUND: usize = 200;

/// A fault of syntax in our words.
#[cold]
pub(super) fn explained(text: &str, error: &ParseError) -> String {
    let expected: Vec<String> = error.expected().unwrap_or_default().iter().map(wanted).collect();
    let wanted = match expected.as_slice() {
        [] => "TOML".to_owned(),
        // What stands there is no value at all.
        [one] if one == "literal string" => {
            "a value: a text in quotes, a number, true, false, a date or a list".to_owned()
        }
        several => several.join(" or "),
    };
    let span = error.unexpected().or(error.context()).map_or(0..0, |span| span.start()..span.end());
    format!("wanted {wanted}, found {} ({})", found(text, span), error.description())
}

/// A number that is its prefix alone, as in `0x`.
#[cold]
pub(super) fn no_digits(text: &str, kind: ScalarKind, span: Span) -> Option<ParseError> {
    let expected: &[Expected] = &[Expected::Description("digits")];
    let fault = ParseError::new("a prefix alone is no number").with_expected(expected).with_unexpected(span);
    (text.is_empty() && matches!(kind, ScalarKind::Integer(_))).then_some(fault)
}

#[cold]
fn wanted(expected: &Expected) -> String {
    match expected {
        Expected::Literal("\n") => "the end of the line".to_owned(),
        Expected::Literal(literal) => format!("'{literal}'"),
        Expected::Description(kind @ ("key" | "value")) => format!("a {kind}"),
        Expected::Description(kind) => (*kind).to_owned(),
        _ => "something else".to_owned(),
    }
}

/// What stands at a place; a part of a word stands for all of it where the word looks like a secret.
#[cold]
fn found(text: &str, span: Range<usize>) -> String {
    let (Some(before), Some(behind)) = (text.get(..span.start), text.get(span.start..)) else {
        return quoted("");
    };
    match behind.chars().next() {
        None => return "the end of the file".to_owned(),
        Some('\n' | '\r') => return "the end of the line".to_owned(),
        Some(_) => {}
    }
    let word: usize =
        behind.chars().take(AROUND).take_while(|letter| !letter.is_whitespace()).map(char::len_utf8).sum();
    let line: usize =
        behind.chars().take(AROUND).take_while(|&letter| letter != '\n').map(char::len_utf8).sum();
    let part = behind.get(..if span.is_empty() { word } else { span.len().min(line) }).unwrap_or_default();
    let begin: usize = before
        .chars()
        .rev()
        .take(AROUND)
        .take_while(|letter| !letter.is_whitespace())
        .map(char::len_utf8)
        .sum();
    let words = text.get(span.start - begin..span.start + word.max(part.len())).unwrap_or(part);
    if without_secrets(words) == words { quoted(part) } else { quoted(words) }
}
