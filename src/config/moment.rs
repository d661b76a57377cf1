//! Days and moments: `2027-01-31`, and RFC 3339 with its offset.

use std::fmt;
use std::time::{Duration, SystemTime};

const DAY_S: i64 = 86_400;

/// Reads a day, which is good until its end (UTC), or a moment (RFC 3339, section 5.6).
pub fn read(text: &str) -> Option<SystemTime> {
    let (day, rest) = text.split_at_checked(10)?;
    let day = day_number(day)?;
    let seconds = match rest.strip_prefix(['T', 't', ' ']) {
        None if rest.is_empty() => (day + 1) * DAY_S,
        None => return None,
        Some(rest) => day * DAY_S + seconds_of_day(rest)?,
    };
    let away = Duration::from_secs(seconds.unsigned_abs());
    if seconds >= 0 {
        SystemTime::UNIX_EPOCH.checked_add(away)
    } else {
        SystemTime::UNIX_EPOCH.checked_sub(away)
    }
}

/// Digits alone, as many as wanted.
fn digits(text: &str, count: usize) -> Option<i64> {
    let is_number = text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten()
}

/// The days from 1970-01-01 to `YEAR-MONTH-DAY`.
fn day_number(text: &str) -> Option<i64> {
    let mut parts = text.split('-');
    let (year, month, day) = (parts.next()?, parts.next()?, parts.next()?);
    let (year, month, day) = (digits(year, 4)?, digits(month, 2)?, digits(day, 2)?);
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = match month {
        2 => 28 + i64::from(is_leap),
        4 | 6 | 9 | 11 => 30,
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        _ => return None,
    };
    if parts.next().is_some() || !(1..=length).contains(&day) {
        return None;
    }
    // A year that begins in March has its leap day at its end.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    Some(days + (153 * month + 2) / 5 + day - 1 - 719_468)
}

/// `HH:MM:SS[.FRACTION]OFFSET` in seconds of the day at offset zero. A fraction counts for nothing.
fn seconds_of_day(text: &str) -> Option<i64> {
    let (time, rest) = text.split_at_checked(8)?;
    let mut parts = time.split(':');
    let (hour, minute, second) = (parts.next()?, parts.next()?, parts.next()?);
    let (hour, minute, second) = (digits(hour, 2)?, digits(minute, 2)?, digits(second, 2)?);
    // 60 is a leap second.
    if parts.next().is_some() || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let rest = match rest.strip_prefix('.') {
        None => rest,
        Some(fraction) => {
            let count = fraction.bytes().take_while(u8::is_ascii_digit).count();
            fraction.get(count..).filter(|_| count > 0)?
        }
    };
    let (sign, offset) = match rest {
        "Z" | "z" => (0, "00:00"),
        _ => (if rest.starts_with('+') { -1 } else { 1 }, rest.strip_prefix(['+', '-'])?),
    };
    let (hours, minutes) = offset.split_once(':')?;
    let (hours, minutes) = (digits(hours, 2)?, digits(minutes, 2)?);
    if hours > 23 || minutes > 59 {
        return None;
    }
    Some(hour * 3_600 + minute * 60 + second + sign * (hours * 3_600 + minutes * 60))
}

/// A moment in words: `2027-01-31T23:00:00Z`.
pub struct Shown(pub SystemTime);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_second(f)?;
        f.write_str("Z")
    }
}

/// A moment to the millisecond, always of one length: `2027-01-31T23:00:00.250Z`.
pub struct Stamp(pub SystemTime);

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Shown(self.0).write_second(f)?;
        let since = self.0.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        write!(f, ".{:03}Z", since.subsec_millis())
    }
}

impl Shown {
    fn write_second(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = match self.0.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(since) => since.as_secs() as i64,
            Err(before) => -(before.duration().as_secs() as i64),
        };
        let (days, second) = (seconds.div_euclid(DAY_S) + 719_468, seconds.rem_euclid(DAY_S));
        // The inverse of `day_number`: eras of 400 years have 146,097 days.
        let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
        let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let day = day - (153 * month + 2) / 5 + 1;
        let (year, month) =
            (400 * era + year + i64::from(month > 9), if month > 9 { month - 9 } else { month + 3 });
        let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Option<String> {
        read(text).map(|moment| Shown(moment).to_string())
    }

    #[test]
    fn a_day_is_good_until_its_end_and_a_moment_has_an_offset() {
        for (text, moment) in [
            ("2027-01-31", "2027-02-01T00:00:00Z"),
            ("2028-02-28", "2028-02-29T00:00:00Z"),
            ("1969-12-31", "1970-01-01T00:00:00Z"),
            ("2027-12-31", "2028-01-01T00:00:00Z"),
            ("2027-01-31T18:00:00+01:00", "2027-01-31T17:00:00Z"),
            ("2027-01-01 00:30:00.25-05:30", "2027-01-01T06:00:00Z"),
            ("2000-02-29t23:59:60z", "2000-03-01T00:00:00Z"),
            ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"),
        ] {
            assert_eq!(shown(text).as_deref(), Some(moment), "{text}");
        }
    }

    #[test]
    fn other_texts_are_no_moments() {
        for text in [
            "",
            "2027",
            "2027-1-31",
            "2027-02-29",
            "2027-13-01",
            "2027-00-01",
            "2027-01-32",
            "2027-01-31T",
            "2027-01-31T18:00:00",
            "2027-01-31T18:00Z",
            "2027-01-31T24:00:00Z",
            "2027-01-31T18:00:00.Z",
            "2027-01-31T18:00:00+24:00",
            "2027-01-31T18:00:00+0100",
            "+027-01-31",
            "2027-01-31x",
            "18:00:00",
            "2027-01-3ä",
        ] {
            assert_eq!(read(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_stamp_has_its_milliseconds() {
        let moment = SystemTime::UNIX_EPOCH + Duration::from_millis(86_400_025);
        assert_eq!(Stamp(moment).to_string(), "1970-01-02T00:00:00.025Z");
    }

    #[test]
    fn every_day_is_read_as_it_is_shown() {
        for day in (0..200_000).step_by(7) {
            let moment = SystemTime::UNIX_EPOCH + Duration::from_secs(day * 86_400);
            assert_eq!(read(&Shown(moment).to_string()), Some(moment));
        }
    }
}
