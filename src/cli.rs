//! What was typed: the command line, and the environment in its place.
//!
//! Nothing is decided here; [`crate::config`] says what the settings mean. A variable of the
//! environment is read as if its option had been typed, so both share names, types and messages.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Arg, Args, Command, CommandFactory, FromArgMatches, Parser};
use serde::{Deserialize, Serialize};

use crate::config::choice::{Balance, Fault, LogFormat, LogLevel};
use crate::config::listen::{self, ListenSpec};
use crate::config::value::{FilePath, KeepaliveDelay, Number, Size, Span, switch};

const LISTENING: &str = "Listening";
const CONNECTIONS: &str = "Connections";
const WORKERS: &str = "Workers";
const SHUTDOWN: &str = "Shutdown";
const LOGGING: &str = "Logging";
const PROCESS: &str = "Process";
const CONFIGURATION: &str = "Configuration";

const AFTER_HELP: &str = "\
DUR is in seconds, or 250ms, 1.5s, 2m, 1h. SIZE is in bytes, or 64KiB, 1MiB.
ADDR is 127.0.0.1, [::1] or *.
Every option with a value, and every switch, is also a variable: TCP_ECHO_IDLE_TIMEOUT=30.
The command line wins over the environment, that over --config FILE (TOML, the same names).

Signals: TERM, INT and QUIT drain and stop, a second one stops at once.
         USR1 logs how many connections each worker handles.

Example: tcp-echo --port 7 --workers 4 --idle-timeout 2m";

/// The command line, with the layer below it.
#[derive(Parser, Clone, Debug, PartialEq)]
#[command(name = "tcp-echo", version, about, after_help = AFTER_HELP, args_override_self = true)]
pub struct Cli {
    /// Settings from the command line
    #[command(flatten)]
    pub settings: Settings,

    /// Settings from the environment
    #[arg(skip)]
    pub environment: Settings,

    /// Read settings from this TOML file
    #[arg(long, value_name = "FILE", help_heading = CONFIGURATION)]
    pub config: Option<PathBuf>,

    /// Check the configuration and exit
    #[arg(long, help_heading = CONFIGURATION)]
    pub check_config: bool,

    /// Print the configuration as such a file and exit
    #[arg(long, help_heading = CONFIGURATION)]
    pub print_config: bool,

    /// Fail on purpose, for tests
    #[arg(long = "fault", value_name = "SPEC", hide = true)]
    pub faults: Vec<Fault>,
}

/// What can be set on the command line, in the environment and in the file; `None` where it was not.
///
/// The first line of each comment is the option's help text, so it has no full stop.
#[derive(Args, Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
#[command(about = None, long_about = None)]
pub struct Settings {
    /// Port, unless --listen has one; 0 = any free port
    #[arg(long, value_name = "N", help_heading = LISTENING)]
    pub port: Option<Number<u16, 0, 65535>>,

    /// Address, repeatable: IPv4, IPv6 or * for both
    #[arg(long, value_name = "ADDR[:PORT]", value_delimiter = ',', help_heading = LISTENING)]
    #[serde(deserialize_with = "listen::list")]
    pub listen: Option<Vec<ListenSpec>>,

    /// Connections that may wait to be accepted
    #[arg(long, value_name = "N", help_heading = LISTENING)]
    pub connection_backlog: Option<Number<u32, 1, 65535>>,

    /// Start although another process has the port
    #[arg(long, value_name = "BOOL", value_parser = switch, help_heading = LISTENING)]
    pub allow_shared_port: Option<bool>,

    /// Close a connection idle for so long; 0 = never
    #[arg(long, value_name = "DUR", help_heading = CONNECTIONS)]
    pub idle_timeout: Option<Span>,

    /// Send this before closing an idle connection
    #[arg(long, value_name = "TEXT", help_heading = CONNECTIONS)]
    pub idle_message: Option<String>,

    /// Reset idle connections
    #[arg(long, value_name = "BOOL", value_parser = switch, help_heading = CONNECTIONS)]
    pub enable_send_reset: Option<bool>,

    /// Reset a client not reading for so long; 0 = never
    #[arg(long, value_name = "DUR", help_heading = CONNECTIONS)]
    pub write_timeout: Option<Span>,

    /// Wait so long for the client's FIN after ours
    #[arg(long, value_name = "DUR", help_heading = CONNECTIONS)]
    pub linger_timeout: Option<Span>,

    /// TCP keepalive after so many seconds; 0 = off
    #[arg(long, value_name = "DUR", help_heading = CONNECTIONS)]
    pub keepalive_delay: Option<KeepaliveDelay>,

    /// Send small packets at once (TCP_NODELAY)
    #[arg(long, value_name = "BOOL", value_parser = switch, help_heading = CONNECTIONS)]
    pub enable_nodelay: Option<bool>,

    /// Receive buffer, and most that is kept unsent
    #[arg(long, value_name = "SIZE", help_heading = CONNECTIONS)]
    pub buffer_size: Option<Size<4096, 16_777_216>>,

    /// Worker processes; 0 = one per usable CPU
    #[arg(long, value_name = "N", help_heading = WORKERS)]
    pub workers: Option<Number<u32, 0, 1024>>,

    /// Recycle a worker after so many; 0 = never
    #[arg(long, value_name = "N", help_heading = WORKERS)]
    pub max_connections: Option<Number<u64, 0, { i64::MAX as u64 }>>,

    /// Connections at once per worker; 0 = no limit
    #[arg(long, value_name = "N", help_heading = WORKERS)]
    pub max_concurrent_connections: Option<Number<u32, 0, { u32::MAX as u64 }>>,

    /// Replace a worker hung for so long; 0 = never
    #[arg(long, value_name = "DUR", help_heading = WORKERS)]
    pub worker_timeout: Option<Span>,

    /// Pin each worker to a CPU
    #[arg(long, value_name = "BOOL", value_parser = switch, help_heading = WORKERS)]
    pub cpu_affinity: Option<bool>,

    /// hash or least-connections
    #[arg(long, value_name = "HOW", help_heading = WORKERS)]
    pub balance: Option<Balance>,

    /// Connections may take so long to finish
    #[arg(long, value_name = "DUR", help_heading = SHUTDOWN)]
    pub graceful_timeout: Option<Span>,

    /// Keep accepting for so long first
    #[arg(long, value_name = "DUR", help_heading = SHUTDOWN)]
    pub shutdown_delay: Option<Span>,

    /// The same for a worker that was replaced
    #[arg(long, value_name = "DUR", help_heading = SHUTDOWN)]
    pub drain_timeout: Option<Span>,

    /// Spread its goodbyes to idle clients over this
    #[arg(long, value_name = "DUR", help_heading = SHUTDOWN)]
    pub drain_spread: Option<Span>,

    /// DEBUG, INFO, WARN, ERROR or FATAL
    #[arg(long, value_name = "LEVEL", help_heading = LOGGING)]
    pub log_level: Option<LogLevel>,

    /// text or json
    #[arg(long, value_name = "FORMAT", help_heading = LOGGING)]
    pub log_format: Option<LogFormat>,

    /// Begin lines with the time (UTC)
    #[arg(long, value_name = "BOOL", value_parser = switch, help_heading = LOGGING)]
    pub enable_log_timestamps: Option<bool>,

    /// Run in the background
    #[arg(long, value_name = "BOOL", value_parser = switch, help_heading = PROCESS)]
    pub daemon: Option<bool>,

    /// Write the controller's pid to this file
    #[arg(long, value_name = "PATH", help_heading = PROCESS)]
    pub pid_file: Option<FilePath>,
}

impl Settings {
    /// These settings, and where one is missing, that of the layer below.
    #[must_use]
    pub fn or(self, lower: Self) -> Self {
        Self {
            port: self.port.or(lower.port),
            listen: self.listen.or(lower.listen),
            connection_backlog: self.connection_backlog.or(lower.connection_backlog),
            allow_shared_port: self.allow_shared_port.or(lower.allow_shared_port),
            idle_timeout: self.idle_timeout.or(lower.idle_timeout),
            idle_message: self.idle_message.or(lower.idle_message),
            enable_send_reset: self.enable_send_reset.or(lower.enable_send_reset),
            write_timeout: self.write_timeout.or(lower.write_timeout),
            linger_timeout: self.linger_timeout.or(lower.linger_timeout),
            keepalive_delay: self.keepalive_delay.or(lower.keepalive_delay),
            enable_nodelay: self.enable_nodelay.or(lower.enable_nodelay),
            buffer_size: self.buffer_size.or(lower.buffer_size),
            workers: self.workers.or(lower.workers),
            max_connections: self.max_connections.or(lower.max_connections),
            max_concurrent_connections: self
                .max_concurrent_connections
                .or(lower.max_concurrent_connections),
            worker_timeout: self.worker_timeout.or(lower.worker_timeout),
            cpu_affinity: self.cpu_affinity.or(lower.cpu_affinity),
            balance: self.balance.or(lower.balance),
            graceful_timeout: self.graceful_timeout.or(lower.graceful_timeout),
            shutdown_delay: self.shutdown_delay.or(lower.shutdown_delay),
            drain_timeout: self.drain_timeout.or(lower.drain_timeout),
            drain_spread: self.drain_spread.or(lower.drain_spread),
            log_level: self.log_level.or(lower.log_level),
            log_format: self.log_format.or(lower.log_format),
            enable_log_timestamps: self.enable_log_timestamps.or(lower.enable_log_timestamps),
            daemon: self.daemon.or(lower.daemon),
            pid_file: self.pid_file.or(lower.pid_file),
        }
    }

    /// The names of all settings, in the order of the help text.
    pub fn keys() -> Vec<String> {
        let command = Self::augment_args(Command::new("settings"));
        command.get_arguments().filter_map(Arg::get_long).map(str::to_owned).collect()
    }

    /// The settings that have a value, by name.
    pub fn to_table(&self) -> toml::Table {
        toml::Table::try_from(self).expect("every value has a form in TOML")
    }
}

/// Why there is nothing to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EarlyExit {
    /// The text of `--help` or `--version`, for stdout: exit code 0.
    Text(String),
    /// One line that names the option or the variable, for stderr: exit code 2.
    Usage(String),
}

impl Cli {
    /// Reads this process's command line and environment.
    ///
    /// # Errors
    /// Help and version texts, unknown options and values that are not valid.
    pub fn from_process() -> Result<Self, EarlyExit> {
        Self::parse_from(std::env::args_os().skip(1).collect(), |name| std::env::var_os(name))
    }

    /// Reads a command line (without the program's name), and the environment through `variable`.
    ///
    /// # Errors
    /// Help and version texts, unknown options and values that are not valid.
    pub fn parse_from(
        arguments: Vec<OsString>,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, EarlyExit> {
        let arguments = join_negative_values(arguments);
        let mut cli = Self::try_arguments(&arguments).map_err(|error| match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                EarlyExit::Text(error.render().to_string())
            }
            ErrorKind::InvalidUtf8 => EarlyExit::Usage(not_utf8(&arguments)),
            _ => EarlyExit::Usage(format!("{} (see --help)", first_paragraph(&error))),
        })?;

        let mut names = Settings::keys();
        names.push("config".to_owned());
        for long in names {
            let name = format!("TCP_ECHO_{}", long.to_uppercase().replace('-', "_"));
            let Some(value) = variable(&name).filter(|value| !is_unset(&name, value)) else {
                continue;
            };
            let mut argument = OsString::from(format!("--{long}="));
            argument.push(value);
            let lower = Self::try_arguments(&[argument])
                .map_err(|error| EarlyExit::Usage(in_variable(&error, &name, &long)))?;
            cli.environment = cli.environment.or(lower.settings);
            cli.config = cli.config.or(lower.config);
        }
        Ok(cli)
    }

    fn try_arguments(arguments: &[OsString]) -> Result<Self, clap::Error> {
        let command = command().no_binary_name(true);
        Self::from_arg_matches(&command.try_get_matches_from(arguments)?)
    }
}

/// The command with what the attributes above cannot say once for all options.
fn command() -> Command {
    let defaults = crate::config::defaults().to_table();
    Cli::command().mut_args(|arg| {
        let value_name = arg.get_value_names().and_then(<[_]>::first).map(|name| name.as_str());
        let arg = if value_name == Some("BOOL") {
            arg.num_args(0..=1).require_equals(true).default_missing_value("true")
        } else {
            arg
        };
        let default = arg.get_long().and_then(|long| defaults.get(long)).map(plain);
        match (arg.get_help().map(ToString::to_string), default) {
            (Some(help), Some(default)) => arg.help(format!("{help} [default: {default}]")),
            _ => arg,
        }
    })
}

/// Turns `--workers -1` into `--workers=-1`: no option begins with a digit, so this is a value, and
/// its parser refuses it in the name of the option.
fn join_negative_values(arguments: Vec<OsString>) -> Vec<OsString> {
    let is_negative = |argument: &OsStr| {
        let mut bytes = argument.as_encoded_bytes().iter();
        bytes.next() == Some(&b'-')
            && bytes.next().is_some_and(|b| b.is_ascii_digit() || *b == b'.')
    };
    let takes_value = |argument: &OsStr| {
        let bytes = argument.as_encoded_bytes();
        bytes.len() > 2 && bytes.starts_with(b"--") && !bytes.contains(&b'=')
    };
    let mut joined: Vec<OsString> = Vec::with_capacity(arguments.len());
    for argument in arguments {
        match joined.last_mut() {
            Some(option) if is_negative(&argument) && takes_value(option) => {
                option.push("=");
                option.push(argument);
            }
            _ => joined.push(argument),
        }
    }
    joined
}

/// A value of the file as it would be typed.
fn plain(value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) => text.clone(),
        toml::Value::Array(values) => values.iter().map(plain).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

/// Whether a variable does not count: an empty one, as compose files and scripts leave behind, and
/// the address that Kubernetes puts into TCP_ECHO_PORT when there is a service named tcp-echo.
fn is_unset(name: &str, value: &OsStr) -> bool {
    value.is_empty() || (name == "TCP_ECHO_PORT" && value.to_string_lossy().contains("://"))
}

/// The message about a variable; clap has only heard of the option.
fn in_variable(error: &clap::Error, name: &str, long: &str) -> String {
    if error.kind() == ErrorKind::InvalidUtf8 {
        return format!("the value of {name} is not UTF-8");
    }
    let text = first_paragraph(error);
    let option = format!("'--{long}");
    match text.rfind(&format!(" for {option}")) {
        Some(start) => {
            let (before, after) = text.split_at(start + " for ".len());
            let (_, after) = after[1..].split_once('\'').unwrap_or_default();
            format!("{before}'{name}'{after}")
        }
        None => format!("{name}: {text}"),
    }
}

/// Clap's message without its usage and its pointer to the help text, in one line.
fn first_paragraph(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let end = ["\n\nUsage:", "\n\nFor more information"].iter().filter_map(|mark| text.rfind(mark));
    let text = &text[..end.min().unwrap_or(text.len())];
    let mut line = String::new();
    for part in text.trim_start_matches("error:").lines().map(str::trim) {
        // There are no positional arguments, so this tip never helps.
        if part.is_empty() || part.starts_with("tip: to pass") {
            continue;
        }
        let gap = if line.is_empty() {
            ""
        } else if part.starts_with("tip:") {
            "; "
        } else {
            " "
        };
        line.push_str(gap);
        line.push_str(part);
    }
    crate::config::one_line(&line)
}

/// The message for a value that is not UTF-8, which clap gives without the option's name.
fn not_utf8(arguments: &[OsString]) -> String {
    let bad = arguments.iter().position(|argument| argument.to_str().is_none()).unwrap_or(0);
    let text = |index: usize| arguments.get(index).map(|a| a.to_string_lossy()).unwrap_or_default();
    let option = match text(bad).split_once('=') {
        Some((option, _)) => option.to_owned(),
        None => text(bad.saturating_sub(1)).into_owned(),
    };
    crate::config::one_line(&format!("the value of '{option}' is not UTF-8 (see --help)"))
}
