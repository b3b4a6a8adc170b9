//! The fleet against a simulated kernel and simulated processes.
//!
//! What the daemon runs decides here, too: [`Fleet`](super::fleet::Fleet) gets its events from a
//! simulated runtime and has its actions carried out there. Random events come from a seed; after each
//! turn of the controller invariants are checked; in the end the faults stop, and everything must
//! recover. There is no clock and no fork, and the same seed gives the same trace.

mod actions;
mod chaos;
mod coverage;
mod image;
mod invariants;
mod kernel;
mod manager;
mod process;
mod random;
pub(crate) mod runner;
mod schedule;
mod settled;
#[cfg(test)]
mod tests;
mod world;
