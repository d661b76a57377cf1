//! Ports that several keys may ask for.

use super::*;

/// A server at which each of so many keys may ask for these ports.
fn begin_with_keys(count: u8, texts: &[&str]) -> (Stage, Vec<Client>) {
    let keys: Vec<Key> = (1..=count).map(|number| key(&format!("key-{number}"), number)).collect();
    let policies = Policies::Alike(rules(texts));
    let mut stage = begin_as(ServerConfig { policies, keys, ..config(limits()) });
    let clients = (1..=count).map(|number| stage.joins(key_id(&Secret::new([number; 32])), number)).collect();
    (stage, clients)
}

#[test]
fn of_ports_that_several_keys_may_ask_for_one_gets_three_quarters_and_the_last_quarter_is_for_others() {
    let (mut stage, clients) = begin_with_keys(2, &["20000-20099"]);
    let [one, two] = &clients[..] else { panic!("two") };
    let all = stage.ask(one, expose(1, "all", "20000-20099", false));
    assert_eq!((all.told(one), all.listens().len()), (vec![denied(1, Denial::Limit)], 0));
    for number in 2..77 {
        let told = stage.ask(one, expose(number, &format!("p{number}"), "any", false)).told(one);
        assert!(matches!(told[..], [ControlFrame::Granted { .. }]), "{told:?}");
    }
    assert_eq!(stage.ask(one, expose(77, "more", "any", false)).told(one), [denied(77, Denial::Limit)]);
    for number in 1..26 {
        let told = stage.ask(two, expose(number, &format!("p{number}"), "any", false)).told(two);
        assert!(matches!(told[..], [ControlFrame::Granted { .. }]), "{told:?}");
    }
    // What was denied is granted once there is room.
    for number in 1..26 {
        let outputs = stage.hear(two.control, ControlFrame::Unpublish(number));
        assert_eq!(stage.bind(outputs, &[]).told(one), [], "that is the others' still");
    }
    let outputs = stage.hear(one.control, ControlFrame::Unpublish(2));
    assert!(matches!(stage.bind(outputs, &[]).told(one)[..], [ControlFrame::Granted { number: 77, .. }]));
}

#[test]
fn a_key_has_all_ports_that_no_other_key_may_ask_for() {
    let (mut stage, clients) = begin_with_keys(1, &["20000-20099"]);
    let outputs = stage.ask(&clients[0], expose(1, "all", "20000-20099", false));
    assert_eq!(outputs.told(&clients[0]), [granted(1, "20000-20099")]);
    let each = [(name("office"), policy(&["20000-20099"])), (name("guest"), policy(&["20090-20189"]))];
    let mut stage = begin_with_policies(Policies::Each(each.into()), limits());
    let (client, other) = (stage.joins(office(), 1), stage.joins(guest(), 2));
    assert_eq!(
        stage.ask(&client, expose(1, "all", "20000-20099", false)).told(&client),
        [denied(1, Denial::Limit)]
    );
    assert_eq!(
        stage.ask(&client, expose(2, "own", "20000-20096", false)).told(&client),
        [granted(2, "20000-20096")]
    );
    assert_eq!(
        stage.ask(&other, expose(1, "own", "20097-20189", false)).told(&other),
        [granted(1, "20097-20189")]
    );
}

#[test]
fn any_is_a_port_of_the_key_s_own_once_it_gets_no_more_of_those_that_it_shares() {
    let each =
        [(name("office"), policy(&["20000-20003", "30000"])), (name("guest"), policy(&["20000-20003"]))];
    let mut stage = begin_with_policies(Policies::Each(each.into()), limits());
    let client = stage.joins(office(), 1);
    stage.ask(&client, expose(1, "three", "20000-20002", false));
    assert_eq!(stage.ask(&client, expose(2, "any", "any", false)).told(&client), [granted(2, "30000")]);
    assert_eq!(
        stage.ask(&client, expose(3, "more", "any", false)).told(&client),
        [denied(3, Denial::PortTaken)]
    );
}

#[test]
fn lent_ports_of_a_key_that_is_away_go_to_others_the_longest_away_first_once_all_are_taken() {
    let (mut stage, clients) = begin_with_keys(3, &["20000-20011"]);
    let [one, two, three] = &clients[..] else { panic!("three") };
    let second = stage.joins(key_id(&Secret::new([1; 32])), 9);
    stage.ask(&second, expose(1, "b", "20004-20008", false));
    stage.ask(one, expose(1, "a", "20000-20003", false));
    stage.ask(two, expose(1, "c", "20009-20011", false));
    // Those of a client that is there stay.
    let outputs = stage.ask(three, expose(1, "x", "any", false));
    assert_eq!(outputs.told(three), [denied(1, Denial::PortTaken)]);
    assert_eq!(stage.killed(two).told(three), [], "a quarter is sure");
    let outputs = stage.hear(one.control, ControlFrame::Drain);
    let told = stage.bind(outputs, &[]).told(three);
    let [ControlFrame::Granted { number: 1, ref addresses, .. }] = told[..] else { panic!("{told:?}") };
    assert!(ports("20000-20003").contains(addresses[0].ports.first), "{addresses:?}");
    // Now some are free, and the others stay with their keys for a day.
    stage.killed(&second);
    let outputs = stage.ask(three, expose(2, "y", "20004", false));
    assert_eq!(outputs.told(three), [denied(2, Denial::PortTaken)]);
}

#[test]
fn what_a_key_asks_for_in_vain_costs_others_next_to_nothing() {
    let mut limits = limits();
    limits.share_descriptors(100_000);
    let (policies, keys) = (Policies::Alike(rules(&["20000-29999"])), vec![key("office", 7)]);
    let mut stage = begin_as(ServerConfig { policies, keys, ..config(limits) });
    let clients: Vec<Client> = (1..=12).map(|instance| stage.joins(office(), instance)).collect();
    let mut names = (0..).map(|number| format!("p{number}"));
    let mut ask = |stage: &mut Stage, client, number| {
        let name = names.next().expect("endless");
        stage.ask(client, expose(number, &name, "any", false)).told(client)
    };
    for client in &clients[..10] {
        for number in 1..=1_000 {
            assert!(matches!(ask(&mut stage, client, number)[..], [ControlFrame::Granted { .. }]));
        }
    }
    let began = Instant::now();
    for client in &clients[10..] {
        for number in 1..=1_000 {
            assert_eq!(ask(&mut stage, client, number), [denied(number, Denial::PortTaken)]);
        }
    }
    // One port is free, and all are looked at again.
    let outputs = stage.hear(clients[0].control, ControlFrame::Unpublish(1));
    assert_eq!(stage.bind(outputs, &[]).told(&clients[10]).len(), 1);
    assert!(began.elapsed() < millis(250), "{:?}", began.elapsed());
}
