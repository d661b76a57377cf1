//! The one place that calls a machine.

use std::time::Instant;

use super::{Input, Machine, Output};

/// What a machine acts on: sockets and a clock, or a test.
pub trait Surroundings {
    /// Carries out one output. What follows from it waits until [`Surroundings::next_input`] is asked.
    fn carry_out(&mut self, output: Output);
    /// The next thing that the machine has not heard yet.
    fn next_input(&mut self) -> Option<Input>;
}

/// Takes a machine through all inputs that wait, and carries out all outputs, until there are none of either.
///
/// Nothing that an output causes reaches the machine deeper in the stack, so that depth never depends on load.
pub fn drive<M: Machine, S: Surroundings>(machine: &mut M, surroundings: &mut S, now: Instant) {
    loop {
        while let Some(output) = machine.poll_output() {
            surroundings.carry_out(output);
        }
        match surroundings.next_input() {
            Some(input) => machine.handle(input, now),
            None => return,
        }
    }
}

/// Tells a machine that its time has come, if it has, and drives it.
pub fn drive_timeout<M: Machine, S: Surroundings>(machine: &mut M, surroundings: &mut S, now: Instant) {
    if machine.poll_timeout().is_some_and(|at| at <= now) {
        machine.handle_timeout(now);
        drive(machine, surroundings, now);
    }
}
