//! Changed options of what is published, as servers hear of them.

use super::*;

/// A Welcome of a server that takes changes, or of an older one.
fn welcome_of(takes_changes: bool) -> ControlFrame {
    let capabilities = if takes_changes { Capabilities::new(false) } else { Capabilities::default() };
    ControlFrame::Welcome(Welcome { capabilities, ..welcome() })
}

fn publish(number: u32, publication: &Publication) -> ControlFrame {
    let Publication { name, want, dial_time, share, probe, .. } = publication.clone();
    ControlFrame::Publish(Publish {
        number,
        name,
        want,
        transports: Transports::Tcp,
        dial_time,
        share,
        probe,
    })
}

/// The range, with another time to dial, and shared.
fn changed() -> Publication {
    Publication { dial_time: secs(9), share: true, ..range() }
}

#[test]
fn a_changed_option_is_said_under_the_number_that_stands_and_sessions_go_on() {
    let (old, new) = (config_of(&[range()]), config_of(&[changed()]));
    let (mut stage, _) = begin(old.clone());
    let control = stage.dialling(Dialled::Control);
    stage.connected(control);
    stage.hear(control, welcome_of(true));
    let message = stage.message(control, 1);
    stage.start(message, of(1, 1));
    stage.found(message);
    let outputs = stage.configure(&old, &new);
    assert_eq!((outputs.said(control), outputs.closes()), (vec![publish(1, &changed())], vec![]));
    // What the server does not need to know is not said.
    let moved = Publication { local: host("127.0.0.1:9000"), ..changed() };
    assert_eq!(stage.configure(&new, &config_of(from_ref(&moved))).said(control), []);
}

#[test]
fn what_changes_before_the_welcome_is_said_after_it() {
    let (old, new) = (config_of(&[range()]), config_of(&[changed()]));
    for takes_changes in [true, false] {
        let (mut stage, _) = begin(old.clone());
        let control = stage.dialling(Dialled::Control);
        stage.connected(control);
        assert_eq!(stage.configure(&old, &new).said(control), []);
        let said = stage.hear(control, welcome_of(takes_changes)).said(control);
        assert_eq!(said.contains(&publish(1, &changed())), takes_changes);
    }
}

#[test]
fn an_older_server_is_asked_anew_only_if_others_may_share_or_may_not_any_more() {
    let patient = Publication { dial_time: secs(9), ..range() };
    let old = config_of(&[range()]);
    let (mut stage, control) = linked(old.clone());
    assert_eq!(stage.configure(&old, &config_of(from_ref(&patient))).said(control), []);
    let outputs = stage.configure(&config_of(&[patient]), &config_of(&[changed()]));
    assert_eq!(outputs.said(control), [ControlFrame::Unpublish(1), publish(2, &changed())]);
}
