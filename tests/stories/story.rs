//! A machine that hears one thing after another. What it asks for is recorded, and nothing is answered by itself.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use skyorg::base::id::{ConnId, RateId};
use skyorg::base::name::Name;
use skyorg::base::rate::Rate;
use skyorg::machine::status::{ServiceStatus, Snapshot};
use skyorg::machine::{
    CloseReason, Fact, Input, Machine, Manner, Measured, Output, Place, SessionEvent, Surroundings, Survey,
    Terms, Traffic, drive, drive_timeout,
};
use skyorg::wire::control::ControlFrame;
use skyorg::wire::frame::{AbortReason, Start};

/// What a machine asked for since it was told something.
#[derive(Debug, Default)]
pub struct Outputs(pub Vec<Output>);

#[derive(Default)]
struct Record {
    inputs: VecDeque<Input>,
    outputs: Outputs,
    /// What the system says that takes to be sent again: the one question that is answered by itself.
    again: Duration,
    /// When something was said last on each control connection. The peer's system acknowledges it at once.
    said: HashMap<ConnId, Instant>,
    now: Option<Instant>,
}

impl Surroundings for Record {
    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Measure(id) => {
                let said = self.said.get(&id).zip(self.now).map_or(Duration::ZERO, |(at, now)| now - *at);
                let it = Measured { again: self.again, acknowledged: said, said };
                self.inputs.push_back(Input::Measured { id, it });
            }
            output => {
                if let (&Output::Send { id, .. }, Some(now)) = (&output, self.now) {
                    self.said.insert(id, now);
                }
                self.outputs.0.push(output);
            }
        }
    }

    fn next_input(&mut self) -> Option<Input> {
        self.inputs.pop_front()
    }
}

/// A machine and its clock.
pub struct Story<M> {
    pub machine: M,
    pub now: Instant,
    record: Record,
    connections: u32,
}

pub fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

pub fn secs(count: u64) -> Duration {
    Duration::from_secs(count)
}

pub fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

impl<M: Machine> Story<M> {
    /// A story of this machine, which has said nothing yet.
    pub fn new(machine: M, now: Instant) -> Story<M> {
        Story { machine, now, record: Record::default(), connections: 0 }
    }

    /// What was not acknowledged is sent again, and answered, in this time.
    pub fn sends_again_in(&mut self, again: Duration) {
        self.record.again = again;
    }

    /// A new connection.
    pub fn id(&mut self) -> ConnId {
        self.connections += 1;
        ConnId::new(self.connections, self.connections.into()).expect("it can be named")
    }

    /// The machine hears something and does what is due now.
    pub fn tell(&mut self, input: Input) -> Outputs {
        self.record.inputs.push_back(input);
        self.record.now = Some(self.now);
        drive(&mut self.machine, &mut self.record, self.now);
        self.wait(Duration::ZERO)
    }

    /// Time passes; the machine is called whenever it wants to be.
    pub fn wait(&mut self, time: Duration) -> Outputs {
        let until = self.now + time;
        self.record.now = Some(self.now);
        drive(&mut self.machine, &mut self.record, self.now);
        while let Some(at) = self.machine.poll_timeout().filter(|&at| at <= until) {
            self.now = self.now.max(at);
            self.record.now = Some(self.now);
            drive_timeout(&mut self.machine, &mut self.record, self.now);
        }
        self.now = until;
        std::mem::take(&mut self.record.outputs)
    }

    /// What the machine shows to somebody who looks now, gathered a row at a time.
    pub fn snapshot(&self) -> Snapshot {
        let mut survey = Survey::new(self.now);
        while survey.place != Place::Over {
            self.machine.survey(&mut survey, 1);
        }
        survey.snapshot
    }

    /// What it shows of a service.
    pub fn service(&self, service: &str) -> ServiceStatus {
        let mut services = self.snapshot().services.into_iter().filter(|it| it.name == name(service));
        let found = services.next().expect("it is shown");
        assert_eq!(services.next(), None, "it is shown once");
        found
    }

    pub fn hear(&mut self, id: ConnId, frame: ControlFrame) -> Outputs {
        self.tell(Input::Control { id, frame })
    }

    pub fn session(&mut self, id: ConnId, event: SessionEvent) -> Outputs {
        self.tell(Input::Session { id, event })
    }

    pub fn idle(&mut self, id: ConnId) -> Outputs {
        self.session(id, SessionEvent::Idle { settled: true })
    }

    pub fn gone(&mut self, id: ConnId, reason: CloseReason) -> Outputs {
        self.tell(Input::Closed { id, reason, traffic: Traffic::default() })
    }
}

impl Outputs {
    fn pick<'a, T>(&'a self, what: impl Fn(&'a Output) -> Option<T>) -> Vec<T> {
        self.0.iter().filter_map(what).collect()
    }

    /// What was said on a control connection.
    pub fn said(&self, to: ConnId) -> Vec<ControlFrame> {
        self.pick(|output| match output {
            Output::Send { id, frame } if *id == to => Some(frame.clone()),
            _ => None,
        })
    }

    /// How many message connections were asked for on a control connection: the first ticket and the count of each.
    pub fn asked(&self, of: ConnId) -> Vec<(u64, u32)> {
        self.pick(|output| match output {
            Output::Send { id, frame: ControlFrame::Open { first_ticket, count } } if *id == of => {
                Some((*first_ticket, *count))
            }
            _ => None,
        })
    }

    /// Sessions that began: the message connection, the user, and what the client is told.
    pub fn starts(&self) -> Vec<(ConnId, ConnId, Start)> {
        self.pick(|output| match output {
            Output::Start { message, user, start, .. } => Some((*message, *user, *start)),
            _ => None,
        })
    }

    /// Probes that began: the message connection, and what the client is told.
    pub fn probes(&self) -> Vec<(ConnId, Start)> {
        self.pick(|output| match output {
            Output::Probe { message, start } => Some((*message, *start)),
            _ => None,
        })
    }

    /// What holds for the sessions that began.
    pub fn terms(&self) -> Vec<Terms> {
        self.pick(|output| match output {
            Output::Start { terms, .. } => Some(*terms),
            _ => None,
        })
    }

    /// Rates that were set, changed or taken away.
    pub fn rates(&self) -> Vec<(RateId, Option<Rate>)> {
        self.pick(|output| match output {
            Output::Rate { id, rate } => Some((*id, *rate)),
            _ => None,
        })
    }

    /// The message connections and users of sessions that began.
    pub fn pairs(&self) -> Vec<(ConnId, ConnId)> {
        self.starts().into_iter().map(|(message, user, _)| (message, user)).collect()
    }

    pub fn closes(&self) -> Vec<(ConnId, CloseReason, Manner)> {
        self.pick(|output| match output {
            Output::Close { id, reason, manner } => Some((*id, *reason, *manner)),
            _ => None,
        })
    }

    pub fn aborts(&self) -> Vec<(ConnId, AbortReason)> {
        self.pick(|output| match output {
            Output::Abort { message, reason } => Some((*message, *reason)),
            _ => None,
        })
    }

    /// Copies of sessions that were taken, and by which users.
    pub fn takes(&self) -> Vec<(ConnId, ConnId)> {
        self.pick(|output| match output {
            Output::Take { message, user } => Some((*message, *user)),
            _ => None,
        })
    }

    /// Copies of sessions that were aborted alone.
    pub fn aborted_copies(&self) -> Vec<ConnId> {
        self.pick(|output| match output {
            Output::AbortCopy(message) => Some(*message),
            _ => None,
        })
    }

    /// Message connections that were pinged.
    pub fn pings(&self) -> Vec<ConnId> {
        self.pick(|output| match output {
            Output::Ping(id) => Some(*id),
            _ => None,
        })
    }

    /// Strangers that were answered.
    pub fn answered(&self) -> Vec<ConnId> {
        self.pick(|output| match output {
            Output::Answer { id, .. } => Some(*id),
            _ => None,
        })
    }

    /// The last limit of users that was set.
    pub fn users_limit(&self) -> Option<usize> {
        self.pick(|output| match output {
            Output::LimitUsers(most) => Some(*most),
            _ => None,
        })
        .pop()
    }

    /// Control connections that became links.
    pub fn admitted(&self) -> Vec<ConnId> {
        self.pick(|output| match output {
            Output::Admit(id) => Some(*id),
            _ => None,
        })
    }

    pub fn facts(&self) -> Vec<&Fact> {
        self.pick(|output| match output {
            Output::Fact(fact) => Some(fact),
            _ => None,
        })
    }

    pub fn exits(&self) -> bool {
        self.0.iter().any(|output| matches!(output, Output::Exit))
    }

    /// Nothing was asked for, and nobody told.
    pub fn is_silent(&self) -> bool {
        self.0.is_empty()
    }
}
