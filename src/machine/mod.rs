//! The seam between the reactor and the machines: what may be said across it, and in which direction.
//!
//! The reactor owns every socket and the clock and does not know what a pool is. A [`Machine`] knows what everything
//! means and never touches a socket, a clock or a random source. Bytes of sessions do not pass here: the relay moves
//! them. There are four kinds of call and no callbacks, and [`drive`] alone makes them.

mod agenda;
mod close;
mod drive;
mod ending;
mod fact;
mod fault;
mod fields;
mod input;
mod name_fault;
mod outcome;
mod output;
mod proving;
mod reason;
mod reload_fault;
mod silence;
pub mod status;
mod survey;
mod tally;
mod throttle;
mod words;

use std::time::Instant;

pub use agenda::Agenda;
pub use close::{CloseReason, Manner};
pub use drive::{Surroundings, drive, drive_timeout};
pub use ending::Ending;
pub use fact::Fact;
pub use fault::{Advised, Fault, Needed, OptionFailed};
pub use fields::Fields;
pub use input::{Configuration, Input, LINK_RANDOM_BYTES, Lookup, Proof, SessionEvent, Traffic};
pub use name_fault::NameFault;
pub use outcome::{Cause, End, HelloCause, Outcome};
pub use output::{Dial, Dialled, Door, Greeting, Output, Terms};
pub use proving::{PROBE_TIME, Proving, end_of_proof};
pub use reason::Reason;
pub use reload_fault::{CannotListen, ReloadFault};
pub use silence::{Measured, SILENT_AFTER, Silence, Verdict, longest, quiet_for};
pub use survey::{Place, Survey};
pub use tally::Tally;
pub use throttle::Throttle;

/// The half that decides. See the module.
pub trait Machine {
    /// Takes what happened.
    fn handle(&mut self, input: Input, now: Instant);
    /// Takes that the time of [`Machine::poll_timeout`] has come.
    fn handle_timeout(&mut self, now: Instant);
    /// What to do next, until there is nothing more.
    fn poll_output(&mut self) -> Option<Output>;
    /// When to call [`Machine::handle_timeout`].
    fn poll_timeout(&self) -> Option<Instant>;
    /// Adds no more than about so many rows to a survey, for somebody who looks.
    fn survey(&self, survey: &mut Survey, rows: usize);
}
