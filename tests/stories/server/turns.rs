//! Whose turn it is to be probed, where there is more to be probed than fifty in a second.

use std::collections::HashSet;

use super::*;

/// Between two looks of the story at what was said.
const STEP: Duration = Duration::from_millis(10);

/// A server of so many services, and clients each of which either serves all that it is asked for or nothing.
struct Crowd {
    stage: Stage,
    clients: Vec<Client>,
    /// The message connections of those that serve nothing.
    refusing: HashSet<ConnId>,
    /// Somebody looks again and again.
    is_looked_at: bool,
    /// When each publication of the client that came last was first probed.
    probed: Vec<Instant>,
    /// The message connections of the client that came last.
    last: HashSet<ConnId>,
}

fn crowd(services: u16) -> Crowd {
    let service = |place| Service::new(name(&format!("s{place}")), Listen::Any(10_000 + place));
    let services = (0..services).map(service).collect();
    let limits = Limits { pool: 10, ..Limits::default() };
    Crowd {
        stage: begin_as(ServerConfig { services, ..config(limits) }),
        clients: Vec::new(),
        refusing: HashSet::new(),
        is_looked_at: false,
        probed: Vec::new(),
        last: HashSet::new(),
    }
}

impl Crowd {
    /// A client comes that serves what it is asked for, or not.
    fn greet(&mut self, serves: bool) -> ConnId {
        let (mut client, _) = self.stage.greet(hello(self.clients.len() as u8 + 1));
        let messages: Vec<ConnId> = (0..10).map(|_| self.stage.bring(&mut client).0).collect();
        self.last = messages.iter().copied().collect();
        if !serves {
            self.refusing.extend(messages);
        }
        let control = client.control;
        self.stage.hear(control, ControlFrame::Pong);
        self.clients.push(client);
        control
    }

    /// A client publishes these services, under numbers behind this one.
    fn publish(&mut self, control: ConnId, services: std::ops::Range<u32>, behind: u32) {
        for place in services {
            let frame = publish(behind + place + 1, &format!("s{place}"));
            let ControlFrame::Publish(publish) = frame else { panic!("it is a Publish") };
            let outputs = self.stage.hear(control, ControlFrame::Publish(Publish { probe: true, ..publish }));
            self.answer(outputs);
        }
    }

    fn answer(&mut self, outputs: Outputs) {
        let mut outputs = VecDeque::from(outputs.0);
        while let Some(output) = outputs.pop_front() {
            let more = match output {
                Output::Ping(id) => self.stage.session(id, SessionEvent::Pong),
                Output::Send { id, frame: ControlFrame::Ping } => self.stage.hear(id, ControlFrame::Pong),
                Output::Probe { message, .. } => {
                    if self.last.contains(&message) {
                        self.probed.push(self.stage.now);
                    }
                    let mut more = self.stage.session(message, SessionEvent::Accepted);
                    let event = match self.refusing.contains(&message) {
                        true => SessionEvent::ProbeAborted(AbortReason::Refused),
                        false => SessionEvent::Started,
                    };
                    more.0.extend(self.stage.session(message, event).0);
                    more.0.extend(self.stage.idle(message).0);
                    more
                }
                _ => continue,
            };
            outputs.extend(more.0);
        }
    }

    fn step(&mut self) {
        let outputs = self.stage.wait(STEP);
        self.answer(outputs);
        if self.is_looked_at {
            let outputs = self.stage.tell(Input::Look);
            self.answer(outputs);
        }
    }

    fn run(&mut self, time: Duration) {
        let until = self.stage.now + time;
        while self.stage.now < until {
            self.step();
        }
    }

    /// The last proofs of these services.
    fn proofs(&self, services: std::ops::Range<usize>) -> Vec<Option<Instant>> {
        let services = &self.stage.snapshot().services[services];
        services.iter().map(|service| service.publications.first().and_then(|it| it.proof)).collect()
    }

    /// How old the oldest proof of these services becomes in this time.
    fn oldest(&mut self, services: std::ops::Range<usize>, time: Duration) -> Duration {
        let (until, mut oldest) = (self.stage.now + time, Duration::ZERO);
        while self.stage.now < until {
            self.run(secs(1));
            let proof = self.proofs(services.clone()).into_iter().min().flatten().expect("all are proved");
            oldest = oldest.max(self.stage.now - proof);
        }
        oldest
    }
}

#[test]
fn a_thousand_that_are_published_at_once_are_proved_in_twenty_seconds_while_somebody_looks() {
    let mut crowd = crowd(1_000);
    let client = crowd.greet(true);
    crowd.is_looked_at = true;
    crowd.publish(client, 0..1_000, 0);
    crowd.run(millis(20_500));
    let missing = crowd.proofs(0..1_000).iter().filter(|proof| proof.is_none()).count();
    assert_eq!(missing, 0);
}

#[test]
fn a_look_renews_a_thousand_proofs_in_twenty_seconds() {
    let mut crowd = crowd(1_000);
    let client = crowd.greet(true);
    crowd.publish(client, 0..1_000, 0);
    crowd.run(secs(27));
    let looked = crowd.stage.now;
    let outputs = crowd.stage.tell(Input::Look);
    crowd.answer(outputs);
    crowd.run(millis(20_500));
    let old = crowd.proofs(0..1_000).iter().filter(|&&proof| proof < Some(looked)).count();
    assert_eq!(old, 0);
}

#[test]
fn a_client_whose_publications_all_fail_makes_no_proof_of_another_old() {
    let mut crowd = crowd(2_024);
    let client = crowd.greet(true);
    crowd.publish(client, 0..1_000, 0);
    crowd.run(secs(25));
    let failing = crowd.greet(false);
    crowd.publish(failing, 1_000..2_024, 0);
    let oldest = crowd.oldest(0..1_000, secs(120));
    assert!(oldest < secs(50), "{oldest:?}");
    crowd.is_looked_at = true;
    crowd.run(secs(30));
    let oldest = crowd.oldest(0..1_000, secs(60));
    assert!(oldest < secs(30), "{oldest:?}");
    // Those that fail are tried all the same.
    let tried = crowd.probed.len();
    crowd.run(secs(60));
    assert!(crowd.probed.len() - tried > 500, "{}", crowd.probed.len() - tried);
}

#[test]
fn a_client_that_publishes_and_withdraws_all_the_time_makes_no_proof_of_another_old() {
    let mut crowd = crowd(2_024);
    let client = crowd.greet(true);
    crowd.publish(client, 0..1_000, 0);
    crowd.run(secs(25));
    let failing = crowd.greet(false);
    crowd.publish(failing, 1_000..1_500, 0);
    let hostile = crowd.greet(false);
    let mut number = 0;
    let mut oldest = Duration::ZERO;
    for _ in 0..120 {
        for _ in 0..10 {
            crowd.publish(hostile, 1_500..1_510, number);
            crowd.run(millis(100));
            for place in 1_500..1_510 {
                let outputs = crowd.stage.hear(hostile, ControlFrame::Unpublish(number + place + 1));
                crowd.answer(outputs);
            }
            number += 10;
        }
        let proof = crowd.proofs(0..1_000).into_iter().min().flatten().expect("all are proved");
        oldest = oldest.max(crowd.stage.now - proof);
    }
    assert!(oldest < secs(50), "{oldest:?}");
    // What another client publishes is probed soon.
    let other = crowd.greet(true);
    crowd.publish(hostile, 1_500..2_000, number);
    let published = crowd.stage.now;
    crowd.publish(other, 2_023..2_024, 0);
    crowd.run(secs(1));
    let waited = crowd.probed.first().map(|&at| at - published);
    assert!(waited.is_some_and(|waited| waited <= millis(200)), "{waited:?}");
}
