//! Bytes of sessions that run, by the account where their users are counted.
//!
//! A connection adds to its meter what it moves, and takes it away as it ends: then the machine has it, which hears of
//! its end in the same turn. So both together have every byte once, and a meter that nobody counts with stands at 0.

use super::connections::{Local, Side};
use crate::base::id::AccountId;
use crate::machine::Traffic;

/// One meter for each account.
#[derive(Default)]
pub(super) struct Meters(Vec<Traffic>);

impl Meters {
    /// Bytes of a session have passed its local side.
    pub fn add(&mut self, local: &Local, passed: Traffic) {
        let Some(account) = local.account else { return };
        if self.0.len() <= account.index() {
            self.0.resize(account.index() + 1, Traffic::default());
        }
        let (meter, passed) = (&mut self.0[account.index()], of_user(local.side, passed));
        meter.received += passed.received;
        meter.sent += passed.sent;
    }

    /// A local side is gone.
    pub fn end(&mut self, local: &Local) {
        let meter = local.account.and_then(|account| self.0.get_mut(account.index()));
        if let Some(meter) = meter {
            let passed = of_user(local.side, local.traffic);
            meter.received = meter.received.saturating_sub(passed.received);
            meter.sent = meter.sent.saturating_sub(passed.sent);
        }
    }

    /// What was read from users of an account that are there, and written towards them.
    pub fn of(&self, account: AccountId) -> Traffic {
        self.0.get(account.index()).copied().unwrap_or_default()
    }
}

/// What passed a local side, as its user's end would count it: what is written towards the local server is the user's.
fn of_user(side: Side, passed: Traffic) -> Traffic {
    match side {
        Side::User => passed,
        Side::Proxy => passed.mirrored(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_meter_has_the_bytes_of_those_that_are_there() {
        let (one, other) = (AccountId::new(0), AccountId::new(3));
        let mut meters = Meters::default();
        let mut pass = |local: &mut Local, received, sent| {
            let passed = Traffic { received, sent };
            (local.traffic.received, local.traffic.sent) =
                (local.traffic.received + received, local.traffic.sent + sent);
            meters.add(local, passed);
        };
        let mut user = Local::new(Side::User, one);
        let mut proxy = Local::new(Side::Proxy, other);
        let mut second = Local::new(Side::Proxy, other);
        pass(&mut user, 5, 7);
        pass(&mut proxy, 5, 7);
        pass(&mut second, 1, 2);
        pass(&mut Local::new(Side::User, None), 9, 9);
        let of = |meters: &Meters, account: Option<AccountId>| {
            let Traffic { received, sent } = meters.of(account.expect("it can be named"));
            (received, sent)
        };
        assert_eq!((of(&meters, one), of(&meters, other)), ((5, 7), (9, 6)));
        meters.end(&proxy);
        assert_eq!(of(&meters, other), (2, 1));
        meters.end(&second);
        meters.end(&user);
        assert_eq!((of(&meters, one), of(&meters, other)), ((0, 0), (0, 0)));
        assert_eq!(of(&meters, AccountId::new(99)), (0, 0));
    }
}
