//! tcp-echo, a prefork TCP echo daemon. ARCHITECTURE.md explains how it works.
//!
//! | module | contents |
//! |---|---|
//! | [`cli`] | command line |
//! | [`tools`] | `check`, `bench`, `doctor` |
//! | [`daemon`] | controller, workers, admin process |
//! | [`config`] | settings, their layers, and the configuration that results |
//! | [`logging`], [`exit`] | log lines, exit codes |
//! | [`event_loop`] | waiting for descriptors and timers |
//! | `text` | formatting for people |
//! | [`sys`] | system calls, and every `unsafe` |
//!
//! Imports point down this list. `sys` and `text` import nothing of the others.
//!
//! In [`daemon`], the controller decides who runs ([`daemon::controller`]: `supervisor` for workers,
//! `queues` for accept queues, `reload` for a new image); a worker accepts, hands off, and drains
//! ([`daemon::worker`]); the bytes of its clients pass through [`daemon::connections`], by the protocols
//! of [`daemon::services`]; all count in [`daemon::stats`], which [`daemon::admin`] shows.
#![deny(unsafe_code)]

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
compile_error!("tcp-echo needs a 64-bit Linux");

pub mod cli;
pub mod config;
pub mod daemon;
pub mod event_loop;
pub mod exit;
pub mod logging;
pub mod sys;
mod text;
pub mod tools;
