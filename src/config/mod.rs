//! What the settings mean: [`Config`], valid by construction.
//!
//! The layers are, highest first: command line, environment, file, default.

pub mod admin;
pub mod choice;
mod defaults;
pub mod file;
mod layers;
mod list;
pub mod listen;
pub mod print;
pub mod rate;
#[cfg(test)]
mod tests;
pub mod value;

use std::fmt::Write;
use std::io;
use std::num::{NonZeroU32, NonZeroU64};
use std::path::PathBuf;
use std::time::Duration;

pub use self::admin::{AdminAddress, HostName};
pub use self::choice::{AccessLog, Balance, Fault, LogFormat, LogLevel, Splice};
pub use self::defaults::defaults;
use self::layers::Layers;
pub use self::listen::{Endpoint, Scope};
use crate::cli::{Cli, Settings};

/// All that the daemon is told, by who needs it.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The listening sockets.
    pub listen: ListenConfig,
    /// The workers as the controller sees them.
    pub fleet: FleetConfig,
    /// The treatment of a connection, and limits on their number.
    pub connection: ConnectionConfig,
    /// The admin process.
    pub admin: AdminConfig,
    /// The log.
    pub log: LogConfig,
    /// The process as the system sees it.
    pub process: ProcessConfig,
    /// Failures on purpose, for tests.
    pub faults: Vec<Fault>,
    /// The settings that all of this was made from, for the next image of a reload.
    pub settings: Settings,
}

/// The listening sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenConfig {
    /// Where to listen: at least one, and no two overlap. All with port 0 share one free port.
    pub endpoints: Vec<Endpoint>,
    /// Connections that may wait to be accepted, 1..=65535.
    pub backlog: u32,
    /// Start although another process listens on the port.
    pub share_port: bool,
    /// TCP_NODELAY.
    pub nodelay: bool,
    /// TCP keepalive. `None`: off.
    pub keepalive: Option<Keepalive>,
}

/// TCP keepalive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// A peer that is silent for so long is probed: whole seconds, 1..=32767.
    pub delay: Duration,
    /// A peer that acknowledges nothing for so long is given up. It also hits one that reads nothing,
    /// so it is never shorter than the write timeout, and `None` where there is none.
    pub give_up: Option<Duration>,
}

impl Keepalive {
    /// From probe to probe.
    pub const INTERVAL: Duration = Duration::from_secs(10);
    /// How many probes may go unanswered.
    pub const PROBES: u32 = 3;

    fn new(delay: Duration, write_timeout: Option<Duration>) -> Self {
        let unanswered = delay + Self::INTERVAL * Self::PROBES;
        Self { delay, give_up: write_timeout.map(|limit| limit.max(unanswered)) }
    }
}

/// The workers as the controller sees them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetConfig {
    /// Worker processes, 1..=1024; the number of usable CPUs unless told otherwise.
    pub workers: NonZeroU32,
    /// A worker without a sign of life for so long is hung. `None`: none ever is.
    pub worker_timeout: Option<Duration>,
    /// Connections may take so long to finish at shutdown.
    pub graceful_timeout: Duration,
    /// The daemon keeps accepting for so long before it shuts down.
    pub shutdown_delay: Duration,
    /// A retired worker may keep its connections for so long.
    pub drain_timeout: Duration,
    /// A retired worker's idle connections are closed at random points of this time.
    pub drain_spread: Duration,
    /// Pin each worker to a CPU.
    pub pin_cpus: bool,
    /// Which worker serves a new connection.
    pub balance: Balance,
    /// A worker with nothing to do looks again and again for so long before it sleeps, at most a
    /// second. `None`: it sleeps at once.
    pub busy_poll: Option<Duration>,
}

/// The treatment of a connection, and limits on their number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionConfig {
    /// Bytes of a worker's receive buffer, and the most kept for a client that does not read:
    /// 4 KiB..=16 MiB.
    pub buffer_size: usize,
    /// Whether bulk is passed on without being copied.
    pub splice: Splice,
    /// A connection that is idle for so long is closed. `None`: never.
    pub idle_timeout: Option<Duration>,
    /// A client that takes nothing for so long is reset. `None`: never.
    pub write_timeout: Option<Duration>,
    /// Input is discarded for so long after our FIN. Zero: close at once.
    pub linger_timeout: Duration,
    /// How an idle connection ends.
    pub idle_close: IdleClose,
    /// Sent before an idle connection is closed; not empty.
    pub idle_message: Option<String>,
    /// A worker is recycled after so many connections. `None`: never.
    pub max_connections: Option<NonZeroU64>,
    /// A worker handles at most so many at once. `None`: no limit.
    pub max_concurrent_connections: Option<NonZeroU32>,
}

/// The admin process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminConfig {
    /// Where it listens. `None`: there is none.
    pub address: Option<AdminAddress>,
    /// Names that its clients may call it by, beside `localhost` and IP addresses.
    pub hosts: Vec<HostName>,
    /// The daemon is ready with so many healthy workers, at least one.
    pub min_healthy: NonZeroU32,
}

/// How an idle connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdleClose {
    /// In order, with a FIN.
    Fin,
    /// With a RST.
    Reset,
}

/// The log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// Lines less important than this are left out.
    pub level: LogLevel,
    /// How a line is written.
    pub format: LogFormat,
    /// Lines of text begin with the time.
    pub timestamps: bool,
    /// Which connections have a line when they end.
    pub access: AccessLog,
    /// Where these lines go. `None`: to the log.
    pub access_file: Option<PathBuf>,
    /// Whether connections that sent nothing have one too.
    pub empty: bool,
}

/// The process as the system sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessConfig {
    /// Run in the background.
    pub daemon: bool,
    /// The controller's pid is written to this file.
    pub pid_file: Option<PathBuf>,
    /// The totals are kept in this file, beyond the end of the daemon.
    pub state_file: Option<PathBuf>,
}

/// Why there is no configuration. One line each.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{path}: {}", reason(source))]
    Unreadable {
        /// The file.
        path: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A setting is wrong, or does not go with another one.
    #[error("{place}: {message}")]
    Invalid {
        /// `FILE:LINE`, an option or a variable.
        place: String,
        /// What is wrong there.
        message: String,
    },
}

impl Config {
    /// Reads the file, if there is one, puts the layers together and says what they mean.
    ///
    /// # Errors
    /// The file cannot be read or is not valid; two addresses to listen on overlap.
    pub fn load(cli: &Cli) -> Result<Self, ConfigError> {
        Layers::read(cli)?.config()
    }

    /// The configuration of the image before a reload, from the text of its settings.
    ///
    /// # Errors
    /// The text is not valid for this version.
    pub fn restore(text: &str, cli: &Cli) -> Result<Self, ConfigError> {
        let invalid = |(line, message)| ConfigError::Invalid {
            place: format!("former configuration:{line}"),
            message,
        };
        let settings = file::parse(text).map_err(invalid)?.settings;
        let environment = Settings::default();
        Self::load(&Cli { settings, environment, config: None, ..cli.clone() })
    }
}

/// A system error without the "(os error 2)" that Rust appends.
pub(crate) fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

/// The text with control characters escaped, so that a message stays one line whatever was typed.
pub(crate) fn one_line(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut line, c| {
        // Writing to a String cannot fail.
        let _ = if c.is_control() {
            write!(line, "{}", c.escape_default())
        } else {
            line.write_char(c)
        };
        line
    })
}
