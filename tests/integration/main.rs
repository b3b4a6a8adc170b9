//! The integration tests: real processes, real sockets, everything over loopback.
//!
//! Each file covers one promise of the daemon. The helpers are in [`support`]; its
//! `Server` guard makes sure that no test leaves a process behind. `TCP_ECHO_BIN=/path/to/binary`
//! runs the suite against another build.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

mod crowd;
mod drain;
mod echo;
mod flags;
mod limits;
mod listen;
mod logs;
mod nc;
mod orphans;
mod pidfile;
mod pidone;
mod processes;
mod refusals;
mod signals;
mod supervision;
mod timeouts;
