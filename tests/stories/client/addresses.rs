//! Addresses of the server's name: those that are silent, that answer wrongly, that refuse, and that are new.

use super::*;

const ONE: &str = "192.0.2.1:33335";
const TWO: &str = "192.0.2.2:33335";
const REFUSAL: Refusal = Refusal::Plain(true);

/// A client whose server's name leads to these addresses; the first one is dialled.
fn seeking(addresses: &[&str]) -> (Stage, NameId, ConnId) {
    let (mut stage, outputs) = begin(ClientConfig { server: host("gw.example:33335"), ..config() });
    let [id] = outputs.resolves()[..] else { panic!("{outputs:?}") };
    assert_eq!(stage.resolved(id, addresses).controls(), [address(addresses[0])]);
    let control = stage.dialling(Dialled::Control);
    (stage, id, control)
}

#[test]
fn the_name_of_a_server_that_is_late_is_asked_for_again_and_where_it_leads_now_is_dialled_at_once() {
    let (mut stage, id, first) = seeking(&[ONE]);
    let outputs = stage.wait(Limits::default().late);
    assert_eq!((outputs.resolves(), outputs.controls()), (vec![], vec![address(ONE)]), "the answer is new");
    stage.wait(secs(1));
    stage.dialling(Dialled::Control);
    let outputs = stage.wait(secs(2));
    assert_eq!((outputs.resolves(), outputs.controls()), (vec![id], vec![address(ONE)]));
    let rival = stage.dialling(Dialled::Control);
    let outputs = stage.resolved(id, &[TWO]);
    assert_eq!(outputs.controls(), [address(TWO)]);
    assert_eq!(outputs.closes(), [(rival, CloseReason::Retired, Manner::Reset)]);
    let moved = stage.dialling(Dialled::Control);
    assert_eq!(stage.connected(moved).closes(), [(first, CloseReason::Retired, Manner::Reset)]);
}

#[test]
fn an_answer_that_says_the_same_hurries_nothing() {
    let (mut stage, id, _) = seeking(&[ONE, TWO]);
    stage.wait(secs(1));
    stage.dialling(Dialled::Control);
    for _ in 0..10 {
        if !stage.wait(millis(300)).resolves().is_empty() {
            assert_eq!(stage.resolved(id, &[TWO, ONE]).controls(), []);
        }
    }
}

#[test]
fn an_address_that_answers_wrongly_loses_only_itself() {
    // The others may be on their way, or still to be asked for, or not yet dialled.
    for reason in [CloseReason::PeerClosed, CloseReason::ProtocolError, CloseReason::HandshakeTimedOut] {
        let (mut stage, _, wrong) = seeking(&[ONE, TWO]);
        assert_eq!(stage.wait(Limits::default().late).controls(), [address(TWO)]);
        let right = stage.dialling(Dialled::Control);
        assert_eq!(stage.gone(wrong, reason).closes(), []);
        assert!(matches!(stage.connected(right).said(right)[0], ControlFrame::Hello(_)));

        let (mut stage, _, wrong) = seeking(&[ONE, TWO]);
        assert_eq!(stage.wait(Limits::default().late).controls(), [address(TWO)]);
        stage.gone(wrong, reason);
        stage.link();

        let (mut stage, _, wrong) = seeking(&[ONE, TWO]);
        assert_eq!(stage.gone(wrong, reason).controls(), [address(TWO)]);
        stage.link();
    }
}

#[test]
fn an_address_that_answered_wrongly_is_not_dialled_again_beside_one_that_is_silent() {
    let (mut stage, _, wrong) = seeking(&[ONE, TWO]);
    assert_eq!(stage.gone(wrong, CloseReason::PeerClosed).controls(), [address(TWO)]);
    let until = stage.now + secs(25);
    while stage.now < until {
        stage.dialling(Dialled::Control);
        let dialled = stage.wait(secs(20)).controls();
        assert!(dialled.iter().all(|&to| to == address(TWO)), "{dialled:?}");
    }
}

#[test]
fn a_second_dial_of_an_address_that_answers_wrongly_gives_way_to_the_other_address() {
    let (mut stage, _, late) = seeking(&[ONE, TWO]);
    stage.wait(secs(1));
    stage.dialling(Dialled::Control);
    let again = stage.wait(secs(1)).controls();
    assert_eq!(again, [address(ONE)]);
    let rival = stage.dialling(Dialled::Control);
    let outputs = stage.gone(late, CloseReason::PeerClosed);
    assert_eq!(
        outputs.closes(),
        [(rival, CloseReason::Retired, Manner::Reset)],
        "it is not answered, either"
    );
    assert_eq!(outputs.controls(), [address(TWO)]);
    let other = stage.dialling(Dialled::Control);
    stage.gone(other, REFUSED).pause();
}

#[test]
fn a_refusal_is_the_word_of_one_address_and_the_next_one_may_admit() {
    let (mut stage, id, one) = seeking(&[ONE, TWO]);
    stage.connected(one);
    let outputs = stage.hear(one, ControlFrame::Refused(REFUSAL));
    assert_eq!((outputs.controls(), outputs.facts()), (vec![address(TWO)], vec![]));
    assert_eq!(outputs.closes(), [(one, CloseReason::Drained, Manner::Whole)]);
    assert!(stage.gone(one, CloseReason::Drained).is_silent());
    let two = stage.link();
    stage.wait(secs(1));
    let pause = stage.gone(two, CloseReason::PeerClosed).pause();
    stage.wait(pause);
    assert_eq!(stage.resolved(id, &[ONE, TWO]).controls(), [address(TWO)], "it has admitted");
}

#[test]
fn a_refusal_is_told_of_and_makes_a_long_pause_when_all_other_addresses_have_failed() {
    let told = Fact::Refused { refusal: REFUSAL };
    for other_refuses in [true, false] {
        let (mut stage, _, one) = seeking(&[ONE, TWO]);
        stage.connected(one);
        stage.hear(one, ControlFrame::Refused(REFUSAL));
        let two = stage.dialling(Dialled::Control);
        let outputs = if other_refuses {
            stage.connected(two);
            stage.hear(two, ControlFrame::Refused(REFUSAL))
        } else {
            stage.gone(two, REFUSED)
        };
        assert_eq!(outputs.facts().iter().filter(|fact| ***fact == told).count(), 1);
        assert!(outputs.pause() >= secs(1), "{outputs:?}");
        assert_eq!(outputs.controls(), []);
    }
}

#[test]
fn an_address_that_lost_to_one_that_refuses_is_dialled_again() {
    let (mut stage, _, slow) = seeking(&[ONE, TWO]);
    stage.wait(Limits::default().late);
    let refusing = stage.dialling(Dialled::Control);
    assert_eq!(stage.connected(refusing).closes(), [(slow, CloseReason::Retired, Manner::Reset)]);
    stage.gone(slow, CloseReason::Retired);
    let outputs = stage.hear(refusing, ControlFrame::Refused(REFUSAL));
    assert_eq!((outputs.controls(), outputs.facts()), (vec![address(ONE)], vec![]));
    stage.link();
}

#[test]
fn an_address_that_proves_itself_and_does_not_welcome_loses_only_itself() {
    let (mut stage, _, one) = seeking(&[ONE, TWO]);
    stage.connected(one);
    assert_eq!(stage.gone(one, CloseReason::PeerClosed).controls(), [address(TWO)]);
    stage.link();
}

#[test]
fn a_refusal_is_told_of_where_the_other_address_is_silent() {
    let (mut stage, _, one) = seeking(&[ONE, TWO]);
    stage.connected(one);
    stage.hear(one, ControlFrame::Refused(REFUSAL));
    let begun = stage.now;
    let mut told = 0;
    while stage.now < begun + secs(20) {
        stage.dialling(Dialled::Control);
        let outputs = stage.wait(millis(500));
        told += outputs.facts().iter().filter(|fact| matches!(fact, Fact::Refused { .. })).count();
    }
    assert_eq!(told, 1);
}
