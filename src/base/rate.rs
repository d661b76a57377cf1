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
        let bits = scaled(number, *unit).ok_or(BadRate)?;
        if (LEAST_BITS..=MOST_BITS).contains(&bits) { Ok(Rate { bits }) } else { Err(BadRate) }
    }
}

/// A decimal number of so many each, such as `1.5`; what is less than a whole one of the smallest is cut off.
pub fn scaled(number: &str, each: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let are_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !are_digits(whole) || !are_digits(fraction) {
        return None;
    }
    let mut rest = each;
    let mut sum = whole.parse::<u64>().ok()?.checked_mul(each)?;
    for digit in fraction.bytes() {
        // Digits below the smallest unit count for nothing.
        let part = u64::from(digit - b'0').checked_mul(rest)?;
        sum = sum.checked_add(part / 10)?;
        rest /= 10;
    }
    Some(sum)
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, unit) = UNITS
            .iter()
            .rev()
            .find(|(_, unit)| self.bits.is_multiple_of(*unit) || self.bits >= *unit)
            .unwrap_or(&UNITS[0]);
        write!(f, "{}", self.bits / unit)?;
        let rest = self.bits % unit;
        if rest > 0 {
            let digits = format!("{:0width$}", rest, width = unit.ilog10() as usize);
            write!(f, ".{}", digits.trim_end_matches('0'))?;
        }
        write!(f, " {name}")
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
