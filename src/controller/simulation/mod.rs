//! The fleet against a simulated kernel and simulated processes.
//!
//! [`Fleet`](super::fleet::Fleet) is the code that the daemon runs. A simulated runtime feeds it
//! events and carries out its actions. Random events come from a seed. Invariants are checked after
//! each iteration of the controller's loop. At the end the faults stop, and the fleet must recover.
//! There is no clock and no fork, and a seed always gives the same trace.

mod actions;
mod chaos;
mod controller;
mod coverage;
mod image;
mod invariants;
mod kernel;
mod manager;
mod message;
mod process;
mod random;
mod recovery;
pub(crate) mod runner;
mod schedule;
mod setup;
#[cfg(test)]
mod tests;
mod watch;
mod world;
