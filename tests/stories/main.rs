//! Stories: a machine, a few inputs, its outputs. One rule is one sentence and one test.

mod client;
mod server;

use std::time::{Duration, Instant};

use skyorg::base::id::ConnId;
use skyorg::machine::{Fact, Input, Machine, Output, Surroundings, drive, drive_timeout};
use skyorg::wire::control::ControlFrame;

/// A machine that is told things, and what it said since it was last asked.
struct Story<M> {
    machine: M,
    now: Instant,
    said: Said,
    serial: u64,
}

/// What a machine says, kept and not carried out.
#[derive(Default)]
struct Said {
    inputs: Vec<Input>,
    outputs: Vec<Output>,
    facts: Vec<Fact>,
}

impl Surroundings for Said {
    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Fact(fact) => self.facts.push(fact),
            output => self.outputs.push(output),
        }
    }

    fn next_input(&mut self) -> Option<Input> {
        self.inputs.pop()
    }
}

impl<M: Machine> Story<M> {
    fn of(machine: M, now: Instant) -> Story<M> {
        Story { machine, now, said: Said::default(), serial: 0 }
    }

    /// The id of a connection that comes now.
    fn id(&mut self) -> ConnId {
        self.serial += 1;
        ConnId::new(self.serial as u32, self.serial).expect("it can be named")
    }

    /// Tells the machine; returns what it says then, facts aside.
    fn tell(&mut self, input: Input) -> Vec<Output> {
        self.said.inputs.push(input);
        drive(&mut self.machine, &mut self.said, self.now);
        drive_timeout(&mut self.machine, &mut self.said, self.now);
        std::mem::take(&mut self.said.outputs)
    }

    /// Lets time pass, with every deadline in between at its time; returns what the machine says meanwhile.
    fn wait(&mut self, time: Duration) -> Vec<Output> {
        let end = self.now + time;
        while let Some(due) = self.machine.poll_timeout().filter(|&at| at <= end) {
            self.now = self.now.max(due);
            drive_timeout(&mut self.machine, &mut self.said, self.now);
        }
        self.now = end;
        drive(&mut self.machine, &mut self.said, self.now);
        std::mem::take(&mut self.said.outputs)
    }

    /// What was told to people since the last call.
    fn facts(&mut self) -> Vec<Fact> {
        std::mem::take(&mut self.said.facts)
    }
}

/// The control frames among outputs.
fn frames(outputs: &[Output]) -> Vec<ControlFrame> {
    let frame = |output: &Output| match output {
        Output::Send { frame, .. } => Some(frame.clone()),
        _ => None,
    };
    outputs.iter().filter_map(frame).collect()
}

/// The connections that are closed, with reason and manner, in words.
fn closes(outputs: &[Output]) -> Vec<(ConnId, String)> {
    let close = |output: &Output| match output {
        Output::Close { id, reason, manner } => Some((*id, format!("{manner:?}: {reason}"))),
        _ => None,
    };
    outputs.iter().filter_map(close).collect()
}
