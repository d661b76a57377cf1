//! What is counted of sessions, and what is shown of it.

use std::net::IpAddr;

use super::*;
use skyorg::machine::Traffic;
use skyorg::machine::status::{CAUSES, ENDS, Figures};

/// Counts that are not zero, by their words.
fn counted(figures: &Figures) -> Vec<(&'static str, u64)> {
    let ended = ENDS.into_iter().zip(figures.ended);
    let refused = CAUSES.into_iter().zip(figures.refused);
    let counts: Vec<_> = ended.chain(refused).filter(|(_, count)| *count > 0).collect();
    let gone: u64 = counts.iter().map(|(_, count)| count).sum();
    assert_eq!(figures.total, figures.users + gone, "{figures:?}");
    counts
}

impl Stage {
    fn web(&self) -> Figures {
        self.service("web").figures
    }

    /// A session begins, and its local server takes the connection.
    fn serve(&mut self, message: ConnId, sid: u64) -> ConnId {
        self.start(message, start(sid, 0));
        let proxy = self.dialling(Dialled::Proxy(message));
        self.connected(proxy);
        proxy
    }
}

#[test]
fn a_session_is_counted_while_it_is_there_and_then_by_its_end_as_its_user_would() {
    let (mut stage, _, message) = ready(config());
    let proxy = stage.serve(message, 1);
    let figures = stage.web();
    assert_eq!((figures.users, figures.peak, counted(&figures)), (1, 1, vec![]));
    stage.idle(message);
    assert_eq!(stage.web().users, 1, "its last bytes are on their way");
    let traffic = Traffic { received: 20, sent: 10 };
    stage.tell(Input::Closed { id: proxy, reason: CloseReason::Finished, traffic });
    let figures = stage.web();
    assert_eq!((figures.users, counted(&figures)), (0, vec![("finished", 1)]));
    assert_eq!(figures.traffic, Traffic { received: 10, sent: 20 });
    for (sid, reason) in [(2, CloseReason::Aborted(AbortReason::Reset)), (3, CloseReason::LinkLost)] {
        let proxy = stage.serve(message, sid);
        stage.gone(proxy, reason);
        stage.idle(message);
    }
    let ends = [("finished", 1), ("user_reset", 1), ("link_lost", 1)];
    assert_eq!((counted(&stage.web()), stage.web().peak), (ends.to_vec(), 1));
    assert_eq!(stage.service("ssh").figures, Figures::default(), "that is another publication");
}

#[test]
fn sessions_that_no_local_server_takes_are_counted_by_cause_and_once() {
    let limits = Limits { proxies_spare: 0, ..Limits::default() };
    let (mut stage, _, message) = ready(ClientConfig { limits, ..config() });
    stage.start(message, start(1, 0));
    let proxy = stage.dialling(Dialled::Proxy(message));
    stage.gone(proxy, REFUSED);
    stage.idle(message);
    // The server aborts a session whose local server is sought.
    stage.start(message, start(2, 0));
    let sought = stage.dialling(Dialled::Proxy(message));
    stage.idle(message);
    // As many proxy connections as may be are there.
    stage.start(message, start(3, 0));
    let other = stage.dialling(Dialled::Proxy(message));
    stage.idle(message);
    stage.start(message, start(4, 0));
    stage.idle(message);
    let _ = [sought, other].map(|id| stage.gone(id, CloseReason::Retired));
    let causes = [("local_refused", 1), ("full", 1), ("left", 2)];
    assert_eq!(counted(&stage.web()), causes);
    assert_eq!((stage.web().users, stage.web().total), (0, 4));
}

#[test]
fn a_session_that_is_lost_with_its_message_connection_is_counted_once() {
    let (mut stage, control, message) = ready(config());
    stage.start(message, start(1, 0));
    let sought = stage.dialling(Dialled::Proxy(message));
    let outputs = stage.gone(message, CloseReason::PeerClosed);
    assert_eq!(outputs.closes(), [(sought, CloseReason::Truncated, Manner::Reset)]);
    stage.gone(sought, CloseReason::Truncated);
    assert_eq!(counted(&stage.web()), [("no_client", 1)]);
    let message = stage.message(control, 2);
    let proxy = stage.serve(message, 2);
    stage.gone(message, CloseReason::PeerClosed);
    stage.gone(proxy, CloseReason::Truncated);
    assert_eq!(counted(&stage.web()), [("link_lost", 1), ("no_client", 1)]);
}

#[test]
fn a_session_whose_name_leads_nowhere_is_counted_and_a_copy_is_not() {
    let (mut stage, control, message) = ready(config_with_local("db.lan:80"));
    let outputs = stage.start(message, start(1, 0));
    let [name] = outputs.resolves()[..] else { panic!("{outputs:?}") };
    stage.resolved(name, &[]);
    stage.wait(secs(1));
    stage.idle(message);
    assert_eq!(counted(&stage.web()), [("local_refused", 1)]);
    let copy = stage.message(control, 2);
    stage.start(copy, start(2, 1));
    stage.idle(copy);
    assert_eq!(counted(&stage.web()), [("local_refused", 1)]);
}

#[test]
fn a_probe_is_no_user_and_the_banner_that_it_meets_is_counted_nowhere() {
    let (mut stage, _, message) = ready(config());
    let outputs = stage.start(message, Start::probe(1, 1, 0));
    assert!(matches!(outputs.dials()[..], [(Dial::Proxy(_, _, None), _)]), "{outputs:?}");
    let proxy = stage.dialling(Dialled::Proxy(message));
    stage.connected(proxy);
    let link = &stage.snapshot().links[0];
    assert_eq!((link.idle, link.busy), (0, 1));
    let traffic = Traffic { received: 20, sent: 0 };
    stage.tell(Input::Closed { id: proxy, reason: CloseReason::Finished, traffic });
    stage.idle(message);
    assert_eq!(stage.web(), Figures::default());
    let outputs = stage.start(message, start(2, 0));
    assert!(matches!(outputs.dials()[..], [(Dial::Proxy(_, _, Some(_)), _)]), "{outputs:?}");
}

#[test]
fn counts_live_as_long_as_the_name() {
    let (mut stage, _, message) = ready(config());
    let proxy = stage.serve(message, 1);
    let moved = config_with_local("127.0.0.1:8080");
    stage.configure(&config(), &moved);
    stage.gone(proxy, CloseReason::Finished);
    stage.idle(message);
    let outputs = stage.start(message, start(2, 0));
    assert_eq!(outputs.proxies(), [(message, address("127.0.0.1:8080"))]);
    let proxy = stage.dialling(Dialled::Proxy(message));
    stage.connected(proxy);
    assert_eq!((counted(&stage.web()), stage.web().total), (vec![("finished", 1)], 2));
    let nothing = ClientConfig { publications: vec![], ..config() };
    stage.configure(&moved, &nothing);
    stage.gone(proxy, CloseReason::Removed);
    assert!(stage.snapshot().services.is_empty());
    stage.configure(&nothing, &moved);
    assert_eq!(stage.web(), Figures::default(), "that is another one of this name");
}

#[test]
fn what_is_shown_says_where_users_connect_and_to_which_server() {
    let (mut stage, control, _) = ready(config());
    let any = |ip: IpAddr| GrantedAddress { ip, ports: Ports::one(443) };
    let addresses = vec![any([0, 0, 0, 0].into()), any([0u16; 8].into()), any([192, 0, 2, 7].into())];
    stage.hear(control, ControlFrame::Granted { number: 1, addresses, is_probed: false });
    let web = stage.service("web");
    assert_eq!(web.addresses, ["192.0.2.1:443", "192.0.2.7:443"]);
    assert_eq!(
        (&web.publications[0].key, web.publications[0].client),
        (&name("office"), Some(address("192.0.2.1:33335")))
    );
    assert!(stage.service("ssh").addresses.is_empty());
    let [link] = &stage.snapshot().links[..] else { panic!("{:?}", stage.snapshot()) };
    assert_eq!((link.since.is_some(), link.idle, link.busy, link.coming), (true, 1, 0, 0));
    stage.gone(control, CloseReason::PeerClosed);
    let [link] = &stage.snapshot().links[..] else { panic!("{:?}", stage.snapshot()) };
    assert_eq!((link.since, link.address), (None, Some(address("192.0.2.1:33335"))));
    assert!(link.reason.is_some());
}
