//! Configuration of the daemon: options, layers of settings, and the valid [`Config`] that they make.

mod admin;
mod choice;
mod environment;
mod file;
mod layers;
mod listen;
mod options;
pub mod print;
pub mod rate;
mod scaled;
mod service;
pub mod template;
#[cfg(test)]
mod tests;
pub mod value;

use std::io;
use std::num::{NonZeroU32, NonZeroU64};
use std::path::PathBuf;
use std::time::Duration;

pub use self::admin::{AdminAddress, HostName};
pub use self::choice::{AccessLog, Balance, Fault, LogFormat, LogLevel, Splice};
pub use self::layers::Layers;
use self::layers::Sources;
pub use self::listen::{Endpoint, ListenSpec, Scope};
pub use self::options::{OPTIONS, OptionDefinition, SERVICE_KEYS, Settings};
pub(crate) use self::service::services;
pub use self::service::{ServiceConfig, ServiceName};
use crate::text;

/// Largest number of workers.
pub const MAX_WORKERS: u32 = 1024;

/// Configuration of the daemon, in one part for each component.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Listening sockets.
    pub listen: ListenConfig,
    /// Workers, as the controller manages them.
    pub fleet: FleetConfig,
    /// Connections of listeners without settings.
    pub connection: ConnectionConfig,
    /// Limits of connections.
    pub limits: LimitsConfig,
    /// Admin process.
    pub admin: AdminConfig,
    /// Log and access log.
    pub log: LogConfig,
    /// Process and its files.
    pub process: ProcessConfig,
    /// Failures on purpose, for tests.
    pub faults: Vec<Fault>,
    /// Settings that the other fields are made from; a reload hands them to the next program.
    pub settings: Settings,
}

/// Configuration of the listening sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenConfig {
    /// Listeners: at least one, and no addresses overlap. All with port 0 share one free port.
    pub listeners: Vec<ListenerConfig>,
    /// Length of each accept queue, 1..=65535.
    pub backlog: u32,
    /// Start even if another tcp-echo listens on the port.
    pub share_port: bool,
}

/// Configuration of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerConfig {
    /// Address to listen on.
    pub endpoint: Endpoint,
    /// Protocol of its connections.
    pub service: ServiceConfig,
    /// Its connections.
    pub connection: ConnectionConfig,
    /// Set TCP_NODELAY on connections.
    pub nodelay: bool,
    /// TCP keepalive. `None`: no probes.
    pub keepalive: Option<Keepalive>,
}

/// Configuration of TCP keepalive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Silence before the first probe, in whole seconds, 1..=32767.
    pub delay: Duration,
    /// Time without an acknowledgment after which the kernel drops the connection. It also applies to
    /// peers that read nothing, so it is at least the write timeout, and `None` without one.
    pub give_up: Option<Duration>,
}

impl Keepalive {
    /// Time between two probes.
    pub const INTERVAL: Duration = Duration::from_secs(10);
    /// Number of probes without an answer before the connection is dropped.
    pub const PROBES: u32 = 3;

    fn new(delay: Duration, write_timeout: Option<Duration>) -> Self {
        let unanswered = delay + Self::INTERVAL * Self::PROBES;
        Self { delay, give_up: write_timeout.map(|limit| limit.max(unanswered)) }
    }
}

/// Configuration of the workers, as the controller manages them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetConfig {
    /// Number of worker processes, 1..=[`MAX_WORKERS`].
    pub workers: NonZeroU32,
    /// Time without a heartbeat after which a worker counts as hung. `None`: never.
    pub worker_timeout: Option<Duration>,
    /// Time for connections to finish at shutdown.
    pub graceful_timeout: Duration,
    /// Time to keep accepting before shutdown begins to drain.
    pub shutdown_delay: Duration,
    /// Time for the connections of a retired worker to finish.
    pub drain_timeout: Duration,
    /// Time over which a retired worker closes its idle connections.
    pub drain_spread: Duration,
    /// Pin each worker to a CPU.
    pub pin_cpus: bool,
    /// Choice of the worker that serves a new connection.
    pub balance: Balance,
    /// Time to poll for events before sleeping, at most a second. `None`: sleep at once.
    pub busy_poll: Option<Duration>,
}

/// Configuration of the connections of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionConfig {
    /// Size of a worker's receive buffer, and limit of the pending write of a connection, in bytes:
    /// 4 KiB..=16 MiB.
    pub buffer_size: usize,
    /// Use of splice(2) for bulk data.
    pub splice: Splice,
    /// Time after which an idle connection is closed. `None`: never.
    pub idle_timeout: Option<Duration>,
    /// Time after which a client that takes no data is reset. `None`: never.
    pub write_timeout: Option<Duration>,
    /// Time to discard input after sending FIN. Zero: close at once.
    pub linger_timeout: Duration,
    /// Way to close an idle connection.
    pub idle_close: IdleClose,
    /// Text to send before closing an idle connection; not empty.
    pub idle_message: Option<String>,
}

/// Limits of the connections of a worker, over all listeners.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitsConfig {
    /// Number of connections after which a worker is replaced. `None`: no limit.
    pub max_connections: Option<NonZeroU64>,
    /// Limit of open connections per worker. `None`: no limit.
    pub max_concurrent_connections: Option<NonZeroU32>,
}

/// Configuration of the admin process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminConfig {
    /// Address to listen on. `None`: there is no admin process.
    pub address: Option<AdminAddress>,
    /// Host names that requests may have, besides `localhost` and IP addresses.
    pub hosts: Vec<HostName>,
    /// Number of healthy workers at which the daemon reports ready.
    pub min_healthy: NonZeroU32,
}

/// Ways to close an idle connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdleClose {
    /// Close in order, with a FIN.
    Fin,
    /// Reset, with a RST.
    Reset,
}

/// Configuration of the log and the access log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// Lowest severity of lines that are written.
    pub level: LogLevel,
    /// Format of log lines.
    pub format: LogFormat,
    /// Begin lines of text with the time.
    pub timestamps: bool,
    /// Connections that have a line in the access log.
    pub access: AccessLog,
    /// File of the access log. `None`: its lines go to the log.
    pub access_file: Option<PathBuf>,
    /// Include connections that sent no data in the access log.
    pub empty: bool,
}

/// Configuration of the process and its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessConfig {
    /// Run in the background.
    pub daemon: bool,
    /// File for the controller's PID.
    pub pid_file: Option<PathBuf>,
    /// File for the statistics totals, which outlive the daemon in it.
    pub state_file: Option<PathBuf>,
}

/// Reason why there is no configuration. The text is one line.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{path}: {}", text::reason(source))]
    Unreadable {
        /// Path of the file.
        path: String,
        /// Error of the system.
        source: io::Error,
    },
    /// A setting is invalid, or contradicts another one.
    #[error("{place}: {message}")]
    Invalid {
        /// `FILE:LINE`, an option, or an environment variable.
        place: String,
        /// Reason, as one clause.
        message: String,
    },
}

impl Config {
    /// Reads the file, if there is one, and derives the configuration from all layers.
    ///
    /// # Errors
    /// The file cannot be read or is not valid, or two settings contradict each other.
    pub fn load(layers: &Layers) -> Result<Self, ConfigError> {
        Sources::read(layers)?.config()
    }

    /// Returns the configuration that the controller had before a reload, from the text of its settings.
    ///
    /// # Errors
    /// The text is not valid for this version.
    pub fn restore(text: &str, faults: &[Fault]) -> Result<Self, ConfigError> {
        let invalid = |(line, message)| ConfigError::Invalid {
            place: format!("former configuration:{line}"),
            message,
        };
        let command_line = file::parse(text).map_err(invalid)?.settings;
        Self::load(&Layers { command_line, faults: faults.to_vec(), ..Layers::default() })
    }
}
