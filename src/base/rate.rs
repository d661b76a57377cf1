//! How many bits a second may pass.

use std::fmt;
use std::str::FromStr;

/// Least rate, in bits a second: one byte a millisecond.
const LEAST_BITS: u64 = 8_000;
/// Most: what fits into the calculation of a second's bytes, and more than any line carries.
const MOST_BITS: u64 = 1_000_000_000_000_000;
/// Units and their bits a second: powers of 1,000.
const UNITS: [(&str, u64); 3] = [("kbit/s", 1_000), ("Mbit/s", 1_000_000), ("Gbit/s", 1_000_000_000)];

/// A rate, such as `50 Mbit/s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    bits: u64,
}

impl Rate {
    /// Whole bytes a second, at least 1,000.
    pub fn bytes_per_second(self) -> u64 {
        self.bits / 8
    }
}

/// Not a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadRate;

impl fmt::Display for BadRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a rate of at least 8 kbit/s, in kbit/s, Mbit/s or Gbit/s, such as 50 Mbit/s")
    }
}

impl FromStr for Rate {
    type Err = BadRate;

    /// Reads `NUMBER UNIT`; the number may have a fraction: `1.5 Mbit/s`.
    fn from_str(text: &str) -> Result<Rate, BadRate> {
        let (number, unit) = text.trim().split_once(' ').ok_or(BadRate)?;
        let (_, unit) = UNITS.iter().find(|(name, _)| *name == unit.trim_start()).ok_or(BadRate)?;
        if !number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
            return Err(BadRate);
        }
        let number: f64 = number.parse().map_err(|_| BadRate)?;
        let bits = (number * *unit as f64).round();
        let fits = (LEAST_BITS as f64..=MOST_BITS as f64).contains(&bits);
        if fits { Ok(Rate { bits: bits as u64 }) } else { Err(BadRate) }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, unit) = UNITS
            .iter()
            .rev()
            .find(|(_, unit)| self.bits.is_multiple_of(*unit) || self.bits >= *unit)
            .unwrap_or(&UNITS[0]);
        write!(f, "{} {name}", self.bits as f64 / *unit as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_number_and_a_unit() {
        for (text, bytes) in [
            ("8 kbit/s", 1_000),
            ("50 Mbit/s", 6_250_000),
            ("1.5 Mbit/s", 187_500),
            ("10 Gbit/s", 1_250_000_000),
        ] {
            assert_eq!(text.parse().map(Rate::bytes_per_second), Ok(bytes), "{text:?}");
            assert_eq!(text.parse::<Rate>().map(|rate| rate.to_string()), Ok(text.to_owned()));
        }
        for bad in
            ["", "50", "50Mbit/s", "50 MB/s", "-1 Mbit/s", "7 kbit/s", "1e9 Mbit/s", "inf Mbit/s", ". Mbit/s"]
        {
            assert_eq!(bad.parse::<Rate>(), Err(BadRate), "{bad:?}");
        }
    }
}
