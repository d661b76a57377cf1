//! Which port of a range is probed, as it lies behind the first one.
//!
//! A client need not serve all ports of a range, so one where a session was started is likelier to prove it than the
//! first. But users choose where they come, and what listened there may be gone: the range fails only once the first
//! port has failed as well, which is tried last.

/// See the module. A single port is a range of one.
#[derive(Debug, Default)]
pub struct Range {
    /// Where a probe was started last, and where a user was served last; 0 says nothing.
    likely: [u16; 2],
    /// How many of them have failed since a probe was started.
    failed: usize,
}

impl Range {
    /// Which port is probed next.
    pub fn next(&self) -> u16 {
        self.likely[self.failed..].iter().copied().find(|&likely| likely != 0).unwrap_or(0)
    }

    /// A user was served there.
    pub fn served_at(&mut self, port_offset: u16) {
        self.likely[1] = port_offset;
    }

    /// A probe was started there.
    pub fn proved_at(&mut self, port_offset: u16) {
        let [_, by_user] = self.likely;
        // All others have failed before the first one is tried.
        *self = Range { likely: [port_offset, if port_offset == 0 { 0 } else { by_user }], failed: 0 };
    }

    /// A probe has failed there. Returns whether another port is tried now.
    pub fn failed_at(&mut self, port_offset: u16) -> bool {
        if port_offset == 0 {
            self.failed = 0;
            return false;
        }
        while self.next() == port_offset {
            self.failed += 1;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The ports that are tried from now on until the range fails.
    fn tried(range: &mut Range) -> Vec<u16> {
        let mut tried = vec![range.next()];
        while range.failed_at(range.next()) {
            tried.push(range.next());
        }
        tried
    }

    #[test]
    fn what_a_probe_proved_goes_before_what_a_user_chose_and_the_first_one_is_the_last() {
        let mut range = Range::default();
        assert_eq!(tried(&mut range), [0]);
        range.served_at(7);
        assert_eq!(tried(&mut range), [7, 0]);
        range.proved_at(7);
        assert_eq!(tried(&mut range), [7, 0], "each once");
        range.served_at(9);
        assert_eq!(tried(&mut range), [7, 9, 0]);
        assert_eq!(tried(&mut range), [7, 9, 0], "and all over again");
        range.proved_at(0);
        assert_eq!(tried(&mut range), [0], "the others had failed");
    }
}
