//! The integration tests: real processes, real sockets, everything over loopback.
//!
//! Each file tests one feature. The helpers are in [`support`]; its
//! `Server` guard makes sure that no test leaves a process behind. `TCP_ECHO_BIN=/path/to/binary`
//! runs the suite against another build.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

mod accept_errors;
mod access_log;
mod access_log_reasons;
mod admin;
mod admin_host;
mod admin_hostile;
mod admin_page;
mod admin_process;
mod admin_prometheus;
mod balance;
mod bench;
mod check;
mod config;
mod controller_death;
mod descriptors;
mod doctor;
mod dropped_addresses;
mod echo;
mod fd_store;
mod handoff;
mod handoff_reservations;
mod limits;
mod listen;
mod listen_errors;
mod log_order;
mod logs;
mod many_clients;
mod memory;
mod nc;
mod passed_sockets;
mod pid1;
mod pid_file;
mod processes;
mod program_name;
mod queue_ownership;
mod reload;
mod reload_addresses;
mod reload_again;
mod reload_config;
mod reload_drain;
mod reload_rejected;
mod reload_signals;
mod reload_timeouts;
mod scaling;
mod services;
mod shutdown;
mod signals;
mod socket_activation;
mod socket_options;
mod splice;
mod state_disk;
mod state_file;
mod state_file_save;
mod statistics;
mod steering;
mod steering_alone;
mod steering_errors;
mod supervision;
mod systemd;
mod takeover_release;
mod takeover_retry;
mod timeouts;
mod unprivileged;
mod upgrade;
mod write_timeout;
