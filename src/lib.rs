//! tcp-echo, a prefork TCP echo daemon. This is the map; ARCHITECTURE.md has the picture.
//!
//! | module | what it is |
//! |---|---|
//! | [`cli`] | what was typed |
//! | [`config`] | what it means |
//! | [`client`] | `check` and `bench`: the other end of the connection |
//! | [`doctor`] | `doctor`: whether this machine suits the daemon |
//! | [`controller`] | forks, supervises, replaces |
//! | [`worker`] | accepts and serves |
//! | [`admin`] | shows all figures over HTTP |
//! | [`assignment`], `protocol`, [`ids`] | what the controller gives them, and what they say to each other |
//! | [`connections`] | one socket each, and all of them |
//! | [`service`] | what to do with bytes: the echo |
//! | [`event_loop`] | waiting, for every role |
//! | [`stats`] | the numbers that all processes share |
//! | [`logging`], [`access_log`], [`exit`] | how it speaks and how it ends |
//! | [`process`] | everything Unix, and every `unsafe` |
//!
//! Arrows point one way: `main` → `controller`, `worker`, `admin`, `client` → `connections` →
//! `event_loop`, `service`, `stats` → `process`, `config`. The controller never imports the worker or
//! the admin process, nor the other way round. The doctor asks the controller what it needs.
#![deny(unsafe_code)]

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
compile_error!("tcp-echo needs a 64-bit Linux");

pub mod access_log;
pub mod admin;
pub mod assignment;
pub mod cli;
pub mod client;
pub mod config;
pub mod connections;
pub mod controller;
pub mod doctor;
pub mod event_loop;
pub mod exit;
pub mod ids;
pub mod logging;
pub mod process;
mod protocol;
pub mod service;
pub mod stats;
pub mod worker;
