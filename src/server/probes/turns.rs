//! Whose turn it is, where more is to be probed than may be at once.
//!
//! What was never tried goes before proofs that somebody who looks would have renewed. What failed takes a quarter of
//! the turns while something else is due. And proofs that are due without a look take half of them, whatever else there
//! is: so no client makes the proofs of others old.

/// A publication that is to be probed, by what is known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It is proved.
    Proved,
    /// Nothing is known of it.
    Untried,
    /// It was tried, and is not proved.
    Retried,
}

/// What is to be probed now.
#[derive(Clone, Copy, Debug, Default)]
pub struct Due {
    pub proved: bool,
    /// A proof is due that would be without a look as well.
    pub is_old: bool,
    pub untried: bool,
    pub retried: bool,
}

/// Turns between two of what failed.
const BETWEEN_RETRIES: u8 = 3;

/// Who had the last turns; see the module.
#[derive(Debug)]
pub struct Turns {
    last: Kind,
    /// How many were taken since the last one of what failed.
    since_retry: u8,
}

impl Default for Turns {
    fn default() -> Turns {
        Turns { last: Kind::Retried, since_retry: BETWEEN_RETRIES }
    }
}

impl Turns {
    /// Whose turn it is.
    pub fn next(&self, due: Due) -> Option<Kind> {
        let is_time_to_retry = self.since_retry >= BETWEEN_RETRIES;
        Some(match due {
            Due { is_old: true, .. } if self.last != Kind::Proved => Kind::Proved,
            Due { retried: true, .. } if is_time_to_retry => Kind::Retried,
            Due { untried: true, .. } => Kind::Untried,
            Due { proved: true, .. } => Kind::Proved,
            Due { retried: true, .. } => Kind::Retried,
            _ => return None,
        })
    }

    /// A turn is taken.
    pub fn take(&mut self, kind: Kind) {
        self.last = kind;
        self.since_retry = if kind == Kind::Retried { 0 } else { self.since_retry.saturating_add(1) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of a hundred turns are taken by each, while all of this is due.
    fn shares(due: Due) -> [usize; 3] {
        let mut turns = Turns::default();
        let mut shares = [0; 3];
        for _ in 0..100 {
            let kind = turns.next(due).expect("something is due");
            turns.take(kind);
            shares[kind as usize] += 1;
        }
        shares
    }

    #[test]
    fn each_has_its_share_and_no_turn_is_lost() {
        let due =
            |proved, is_old, untried, retried| Due { proved: proved || is_old, is_old, untried, retried };
        assert_eq!(shares(due(true, false, false, false)), [100, 0, 0]);
        assert_eq!(shares(due(false, false, false, true)), [0, 0, 100]);
        assert_eq!(shares(due(true, false, true, false)), [0, 100, 0], "a look waits for what is new");
        assert_eq!(shares(due(true, false, false, true)), [75, 0, 25]);
        assert_eq!(shares(due(true, false, true, true)), [0, 75, 25]);
        assert_eq!(shares(due(true, true, true, false)), [50, 50, 0]);
        assert_eq!(shares(due(true, true, false, true)), [75, 0, 25]);
        let [proved, untried, retried] = shares(due(true, true, true, true));
        assert!(proved == 50 && untried >= 25 && retried >= 20, "{untried} {retried}");
        assert_eq!(Turns::default().next(Due::default()), None);
    }
}
