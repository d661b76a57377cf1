//! What may be done again, as a share of what succeeds: retries must not add to a load that made them necessary.

/// Tenths of a token that a success earns.
const EARNED: u32 = 1;
/// Tenths of a token that a retry costs.
const COST: u32 = 10;
/// Tokens that are saved at most, unless it is said otherwise.
const SAVED_MAX: u32 = 10;

/// Tokens for retries: a few at first, and one more for every ten successes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    tenths: u32,
    most: u32,
}

impl Share {
    /// A share with this many tokens of the ten that are saved at most.
    pub fn new(tokens: u32) -> Share {
        Share { tenths: tokens.min(SAVED_MAX) * COST, most: SAVED_MAX * COST }
    }

    /// A share with as many tokens as are saved at most.
    pub fn full(tokens: u32) -> Share {
        Share { tenths: tokens * COST, most: tokens * COST }
    }

    /// Something succeeded.
    pub fn earn(&mut self) {
        self.tenths = (self.tenths + EARNED).min(self.most);
    }

    /// Whether a retry may be made; it is counted, if it may.
    pub fn spend(&mut self) -> bool {
        let left = self.tenths.checked_sub(COST);
        self.tenths = left.unwrap_or(self.tenths);
        left.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_successes_earn_a_retry_and_no_more_than_ten_are_saved() {
        let mut share = Share::new(2);
        let spent = |share: &mut Share| (0..100).filter(|_| share.spend()).count();
        assert_eq!(spent(&mut share), 2);
        (0..9).for_each(|_| share.earn());
        assert_eq!(spent(&mut share), 0);
        share.earn();
        assert_eq!(spent(&mut share), 1);
        (0..1_000).for_each(|_| share.earn());
        assert_eq!(spent(&mut share), 10);
        let mut share = Share::full(6);
        assert_eq!(spent(&mut share), 6);
        (0..1_000).for_each(|_| share.earn());
        assert_eq!(spent(&mut share), 6, "no more are kept than there were");
    }
}
