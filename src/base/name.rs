//! Names of services, keys and publications.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Longest name of a service or key, in bytes.
pub const NAME_BYTES_MAX: usize = 64;

/// A name: 1 to [`NAME_BYTES_MAX`] bytes of letters, digits, `.`, `_` and `-`. A clone shares the text.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Arc<str>);

/// What is wrong with a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadName;

impl fmt::Display for BadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a name is 1 to {NAME_BYTES_MAX} letters, digits, '.', '_' or '-'")
    }
}

impl FromStr for Name {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Name, BadName> {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let fits = (1..=NAME_BYTES_MAX).contains(&text.len());
        if fits && text.bytes().all(good) { Ok(Name(text.into())) } else { Err(BadName) }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Name {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as a key of a TOML file, where a dot would divide it.
    pub fn in_file(&self) -> String {
        if self.0.contains('.') { format!("\"{self}\"") } else { self.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_a_dot_is_quoted_in_a_file() {
        let in_file = |text: &str| text.parse::<Name>().map(|name| name.in_file());
        assert_eq!((in_file("-a_1"), in_file("c.d")), (Ok("-a_1".into()), Ok("\"c.d\"".into())));
    }

    #[test]
    fn names_are_bounded_and_plain() {
        assert!("db-1.lan_x".parse::<Name>().is_ok());
        for bad in ["", "a b", "ä", "a=b", &"x".repeat(65)] {
            assert_eq!(bad.parse::<Name>(), Err(BadName), "{bad:?}");
        }
    }
}
