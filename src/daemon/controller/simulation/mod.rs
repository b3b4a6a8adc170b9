//! The simulation: the fleet against a simulated kernel and simulated processes.
//!
//! [`Fleet`](super::fleet::Fleet) is the code that the daemon runs. A simulated runtime feeds it
//! events and carries out its actions. Random events come from a seed. Invariants are checked after
//! each iteration of the controller's loop. At the end the faults stop, and the fleet must recover.
//! There is no clock and no fork, and a seed always gives the same trace.
//!
//! | module | contents |
//! |---|---|
//! | `world`, `controller`, `actions`, `reload` | the simulated controller, as `runtime`, `sockets`, `children`, and `reload` |
//! | `kernel`, `process`, `manager` | sockets and groups, workers and admin process, service manager |
//! | `chaos`, `setup`, `schedule` | random events and configurations, simulated time |
//! | `history`, `watch`, `invariants`, `recovery` | checks of each loop iteration and of the final state |
//! | `coverage`, `runner` | reached points, and reduction of a failing sequence |
//!
//! A new restart policy, takeover rule, or order of replacement is checked here without change. A
//! change of what the controller does with an action, or of how a worker answers, needs the same
//! change here.

mod actions;
mod chaos;
mod controller;
mod coverage;
mod history;
mod invariants;
mod kernel;
mod manager;
mod message;
mod process;
mod random;
mod recovery;
mod reload;
pub(crate) mod runner;
mod schedule;
mod setup;
#[cfg(test)]
mod tests;
mod watch;
mod world;
