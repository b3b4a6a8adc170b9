//! What the settings mean: [`Config`], valid by construction.
//!
//! The layers are, highest first: command line, environment, file, default.

pub mod choice;
pub mod file;
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
use std::thread;
use std::time::Duration;

pub use self::choice::{Balance, Fault, LogFormat, LogLevel};
use self::file::File;
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
}

/// The process as the system sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessConfig {
    /// Run in the background.
    pub daemon: bool,
    /// The controller's pid is written to this file.
    pub pid_file: Option<PathBuf>,
}

/// The shortest `worker-timeout`.
const SHORTEST_WORKER_TIMEOUT: Duration = Duration::from_secs(1);

/// The defaults, as the file would say them. What has none is off: `idle-message`, `pid-file`.
const DEFAULTS: &str = r#"
port = 8090
listen = ["*"]
connection-backlog = 128
allow-shared-port = false
idle-timeout = "10s"
enable-send-reset = false
write-timeout = "1m"
linger-timeout = "10s"
keepalive-delay = 0
enable-nodelay = true
buffer-size = "256KiB"
workers = 0
max-connections = 0
max-concurrent-connections = 0
worker-timeout = "30s"
cpu-affinity = false
balance = "hash"
busy-poll = 0
graceful-timeout = "8s"
shutdown-delay = 0
drain-timeout = "1h"
drain-spread = "5s"
log-level = "INFO"
log-format = "text"
enable-log-timestamps = false
daemon = false
"#;

/// The lowest layer: every setting has a value but `idle-message` and `pid-file`.
pub fn defaults() -> Settings {
    toml::from_str(DEFAULTS).expect("the defaults are valid settings")
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

/// The layers before they are put together.
struct Layers<'a> {
    cli: &'a Cli,
    file: File,
}

impl<'a> Layers<'a> {
    fn read(cli: &'a Cli) -> Result<Self, ConfigError> {
        let file = cli.config.as_deref().map(file::read).transpose()?.unwrap_or_default();
        Ok(Self { cli, file })
    }

    /// The settings that win.
    fn effective(&self) -> Settings {
        let Cli { settings, environment, .. } = self.cli.clone();
        settings.or(environment).or(self.file.settings.clone()).or(defaults())
    }

    /// Which layer a setting is from.
    fn origin(&self, key: &str) -> &'static str {
        let has = |settings: &Settings| settings.to_table().contains_key(key);
        if has(&self.cli.settings) {
            "command line"
        } else if has(&self.cli.environment) {
            "environment"
        } else if has(&self.file.settings) {
            "file"
        } else {
            "default"
        }
    }

    fn config(&self) -> Result<Config, ConfigError> {
        let settings = self.effective();
        self.check(&settings)?;
        Ok(Config {
            listen: self.listen(&settings)?,
            fleet: fleet(&settings),
            connection: connection(&settings),
            log: LogConfig {
                level: filled(settings.log_level),
                format: filled(settings.log_format),
                timestamps: filled(settings.enable_log_timestamps),
            },
            process: ProcessConfig {
                daemon: filled(settings.daemon),
                pid_file: settings.pid_file.clone().map(|path| path.get()),
            },
            faults: self.cli.faults.clone(),
            settings,
        })
    }

    fn listen(&self, settings: &Settings) -> Result<ListenConfig, ConfigError> {
        let specs = filled(settings.listen.as_ref());
        let endpoints = listen::endpoints(specs, filled(settings.port).get())
            .map_err(|message| ConfigError::Invalid { place: self.place_of("listen"), message })?;
        Ok(ListenConfig {
            endpoints,
            backlog: filled(settings.connection_backlog).get(),
            share_port: filled(settings.allow_shared_port),
            nodelay: filled(settings.enable_nodelay),
            keepalive: filled(settings.keepalive_delay)
                .unless_zero()
                .map(|delay| Keepalive::new(delay, filled(settings.write_timeout).unless_zero())),
        })
    }

    /// What to point at when a setting is wrong.
    fn place_of(&self, key: &str) -> String {
        match (self.origin(key), &self.cli.config) {
            ("environment", _) => format!("TCP_ECHO_{}", key.to_uppercase().replace('-', "_")),
            ("file", Some(path)) => {
                let line = self.file.lines.get(key).copied().unwrap_or(1);
                one_line(&format!("{}:{line}: {key}", path.display()))
            }
            _ => format!("--{key}"),
        }
    }

    fn check(&self, settings: &Settings) -> Result<(), ConfigError> {
        match filled(settings.worker_timeout).unless_zero() {
            // A worker gives a sign of life three times in that time.
            Some(limit) if limit < SHORTEST_WORKER_TIMEOUT => Err(ConfigError::Invalid {
                place: self.place_of("worker-timeout"),
                message: "less than a second is too short (0 = off)".into(),
            }),
            _ => Ok(()),
        }
    }
}

fn fleet(settings: &Settings) -> FleetConfig {
    FleetConfig {
        workers: NonZeroU32::new(filled(settings.workers).get()).unwrap_or_else(usable_cpus),
        worker_timeout: filled(settings.worker_timeout).unless_zero(),
        graceful_timeout: filled(settings.graceful_timeout).get(),
        shutdown_delay: filled(settings.shutdown_delay).get(),
        drain_timeout: filled(settings.drain_timeout).get(),
        drain_spread: filled(settings.drain_spread).get(),
        pin_cpus: filled(settings.cpu_affinity),
        balance: filled(settings.balance),
        busy_poll: NonZeroU64::new(filled(settings.busy_poll).get())
            .map(|microseconds| Duration::from_micros(microseconds.get())),
    }
}

fn connection(settings: &Settings) -> ConnectionConfig {
    ConnectionConfig {
        buffer_size: filled(settings.buffer_size).get(),
        idle_timeout: filled(settings.idle_timeout).unless_zero(),
        write_timeout: filled(settings.write_timeout).unless_zero(),
        linger_timeout: filled(settings.linger_timeout).get(),
        idle_close: if filled(settings.enable_send_reset) {
            IdleClose::Reset
        } else {
            IdleClose::Fin
        },
        idle_message: settings.idle_message.clone().filter(|text| !text.is_empty()),
        max_connections: NonZeroU64::new(filled(settings.max_connections).get()),
        max_concurrent_connections: NonZeroU32::new(
            filled(settings.max_concurrent_connections).get(),
        ),
    }
}

/// A setting that has a default, once the defaults are below it.
fn filled<T>(setting: Option<T>) -> T {
    setting.expect("the lowest layer has a value for this setting")
}

/// One worker for each CPU this process may use (affinity and quota count), 1..=1024.
fn usable_cpus() -> NonZeroU32 {
    let cpus = thread::available_parallelism().map_or(1, |cpus| cpus.get().min(1024));
    u32::try_from(cpus).ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MIN)
}

/// A system error without the "(os error 2)" that Rust appends.
fn reason(error: &io::Error) -> String {
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
