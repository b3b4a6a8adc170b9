//! The integration tests: real processes, real sockets, everything over loopback.
//!
//! Each file covers one promise of the daemon. The helpers are in [`support`]; its
//! `Server` guard makes sure that no test leaves a process behind. `TCP_ECHO_BIN=/path/to/binary`
//! runs the suite against another build.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod operator;
mod support;

mod accept_errors;
mod access_log;
mod access_log_reasons;
mod activation;
mod admin;
mod admin_host;
mod admin_hostile;
mod admin_life;
mod admin_page;
mod admin_prometheus;
mod announcements;
mod balance;
mod client_bench;
mod client_check;
mod client_servers;
mod commotion;
mod crowd;
mod descriptors;
mod doctor;
mod drain;
mod dropped_addresses;
mod echo;
mod elsewhere;
mod farewell;
mod flags;
mod handoff_drain;
mod handoff_loads;
mod hanging;
mod limits;
mod listen;
mod logs;
mod memory;
mod moving;
mod nc;
mod orphans;
mod passed_sockets;
mod pidfile;
mod pidone;
mod processes;
mod program_name;
mod queue_ownership;
mod refusals;
mod refused_reloads;
mod reload;
mod reload_again;
mod saving;
mod scaling;
mod settings;
mod signals;
mod socket_options;
mod splice;
mod state_disk;
mod state_file;
mod statistics;
mod steering;
mod steering_alone;
mod steering_kernels;
mod store_removal;
mod supervision;
mod systemd;
mod takeover_release;
mod takeover_retry;
mod timeouts;
mod upgrade;
mod write_timeout;
