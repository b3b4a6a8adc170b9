//! The daemon: one controller, its workers, and the admin process.
//!
//! | module | contents |
//! |---|---|
//! | [`controller`] | supervises processes, owns accept queues, reloads |
//! | [`worker`] | accepts connections and serves them |
//! | [`admin`] | publishes statistics over HTTP |
//! | `protocol`, [`assignment`], [`ids`] | messages between processes, and what a process starts with |
//! | [`connections`] | a connection, and the table of all connections of a worker |
//! | [`services`] | protocols that a worker speaks |
//! | [`stats`] | counters in shared memory |
//! | [`listeners`], [`admin_socket`] | listening sockets |
//! | [`access_log`] | one line per finished connection |
//!
//! The controller imports neither the worker nor the admin process, and they do not import the
//! controller.

pub mod access_log;
pub mod admin;
pub mod admin_socket;
pub mod assignment;
pub mod connections;
pub mod controller;
pub mod ids;
pub mod listeners;
mod protocol;
pub mod services;
pub mod stats;
pub mod worker;
