//! Numbers with digits behind the point, as people and programs read them. Floating numbers would be shown with 12 kB
//! of code, and these are counts of millionths anyway.

use std::fmt;
use std::time::Duration;

/// A number, in millionths. Shown with a precision it has so many digits behind the point, else as many as it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Decimal(u64);

const ONE: u64 = 1_000_000;

impl Decimal {
    /// A whole number.
    pub fn whole(number: u64) -> Decimal {
        Decimal(number.saturating_mul(ONE))
    }

    /// A time in seconds.
    pub fn seconds(time: Duration) -> Decimal {
        Decimal(time.as_micros() as u64)
    }

    /// A time in milliseconds.
    pub fn milliseconds(time: Duration) -> Decimal {
        Decimal(time.as_nanos() as u64)
    }

    /// The nearest one that has no more digits behind the point.
    pub fn rounded(self, digits: u32) -> Decimal {
        let step = 10_u64.pow(6_u32.saturating_sub(digits));
        Decimal(self.0.saturating_add(step / 2) / step * step)
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Decimal(number) = f.precision().map_or(*self, |digits| self.rounded(digits as u32));
        let (whole, fraction) = (number / ONE, number % ONE);
        let step = |digits: usize| 10_u64.pow(6 - digits as u32);
        let takes = || (0..6).find(|&digits| fraction % step(digits) == 0).unwrap_or(6);
        match f.precision().map_or_else(takes, |digits| digits.min(6)) {
            0 => write!(f, "{whole}"),
            digits => write!(f, "{whole}.{:0digits$}", fraction / step(digits)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_has_as_many_digits_as_it_takes_or_as_are_asked_for() {
        for (micros, all, one, three) in [
            (0, "0", "0.0", "0.000"),
            (4_250_000, "4.25", "4.3", "4.250"),
            (999_960, "0.99996", "1.0", "1.000"),
            (12_345_678, "12.345678", "12.3", "12.346"),
            (100, "0.0001", "0.0", "0.000"),
        ] {
            let number = Decimal::seconds(Duration::from_micros(micros));
            assert_eq!((number.to_string().as_str(), format!("{number:.1}").as_str()), (all, one));
            assert_eq!(
                (format!("{number:.3}"), number.rounded(3).to_string().len() <= 6),
                (three.into(), true)
            );
        }
        assert_eq!(
            format!("{} {:.0}", Decimal::whole(7), Decimal::milliseconds(Duration::from_micros(1_500))),
            "7 2"
        );
    }
}
