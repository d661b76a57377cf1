//! What holds for sessions beside their bytes: the rate that they share, and how long they may be idle.

use super::*;

use skyorg::base::id::RateId;
use skyorg::base::rate::Rate;
use skyorg::config::policy::{Policy, Services, UserRules};

fn rate(text: &str) -> Rate {
    text.parse().expect("a rate")
}

/// A server with the keys `office` and `shop`, and the rate of each.
fn begin_with_rates(office: Option<Rate>, shop: Option<Rate>) -> (Stage, Vec<(RateId, Option<Rate>)>) {
    let mut config = config(limits());
    config.keys.push(Key { name: name("shop"), secret: Secret::new([8; 32]) });
    let policy = |rate| Policy { services: Services::All, rate, ..Policy::default() };
    let policies = [(name("office"), policy(office)), (name("shop"), policy(shop))];
    config.policies = Policies::Each(policies.into());
    let (stage, outputs) = begin_telling(config);
    (stage, outputs.rates())
}

impl Stage {
    /// The rate that is shared by the session of a user that comes while only a client with this key serves it.
    fn shared(&mut self, key: KeyId, instance: u8, port: u16) -> Option<RateId> {
        let service = if port == WEB { "web" } else { "ssh" };
        let (mut client, _) = self.greet_with(key, hello(instance));
        self.hear(client.control, publish(1, service));
        self.bring(&mut client);
        let (_, outputs) = self.user_at(port);
        let terms = outputs.terms();
        assert_eq!(terms.len(), 1, "its session begins");
        terms[0].rate
    }
}

#[test]
fn a_session_shares_the_rate_of_the_key_of_the_link_that_serves_it() {
    let (mut stage, rates) = begin_with_rates(Some(rate("8 Mbit/s")), Some(rate("1 Mbit/s")));
    let [(of_office, Some(eight)), (of_shop, Some(one))] = rates[..] else { panic!("{rates:?}") };
    assert_eq!((eight, one), (rate("8 Mbit/s"), rate("1 Mbit/s")));
    assert_ne!(of_office, of_shop);
    assert_eq!(stage.shared(key_id(&Secret::new([8; 32])), 1, SSH), Some(of_shop));
    assert_eq!(stage.shared(office(), 2, WEB), Some(of_office));
}

#[test]
fn links_of_one_key_share_one_rate() {
    let (mut stage, rates) = begin_with_rates(Some(rate("8 Mbit/s")), None);
    let [(of_office, _)] = rates[..] else { panic!("{rates:?}") };
    assert_eq!(stage.shared(office(), 1, WEB), Some(of_office));
    assert_eq!(stage.shared(office(), 2, SSH), Some(of_office));
}

#[test]
fn a_key_without_a_rate_shares_none_that_is_set_and_can_get_one() {
    let (mut stage, rates) = begin_with_rates(None, None);
    assert_eq!(rates, []);
    assert!(stage.shared(office(), 1, WEB).is_some(), "a rate that it gets holds for the session");
}

#[test]
fn a_session_may_be_idle_as_long_as_its_service_says() {
    let mut config = config(limits());
    config.services[0].rules = UserRules { idle: Some(secs(30)), ..UserRules::default() };
    let mut stage = begin_as(config);
    let (mut client, _) = stage.greet(hello(1));
    stage.hear(client.control, publish(1, "web"));
    stage.hear(client.control, publish(2, "ssh"));
    let mut idle = [WEB, SSH].into_iter().map(|port| {
        stage.bring(&mut client);
        stage.user_at(port).1.terms()[0].idle
    });
    assert_eq!((idle.next(), idle.next()), (Some(Some(secs(30))), Some(None)));
}
