//! The daemon's settings: one list for the command line, the environment and the file.

use clap::{Arg, Args, Command};
use serde::{Deserialize, Serialize};

use crate::config::admin::{self, AdminAddress, HostName};
use crate::config::choice::{AccessLog, Balance, LogFormat, LogLevel, Splice};
use crate::config::listen::{self, ListenSpec};
use crate::config::value::{FilePath, KeepaliveDelay, Number, Size, Span, switch};

const LISTENING: &str = "Listening";
const CONNECTIONS: &str = "Connections";
const WORKERS: &str = "Workers";
const SHUTDOWN: &str = "Shutdown";
const LOGGING: &str = "Logging";
const STATISTICS: &str = "Statistics";
const PROCESS: &str = "Process";

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

    /// Start although another tcp-echo has the port
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

    /// auto or off: pass bulk on without copying it
    #[arg(long, value_name = "WHEN", help_heading = CONNECTIONS)]
    pub splice: Option<Splice>,

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

    /// Spin so long before sleeping
    #[arg(long, value_name = "MICROSECONDS", help_heading = WORKERS)]
    pub busy_poll: Option<Number<u64, 0, 1_000_000>>,

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

    /// Connections it tells of: off, errors or all
    #[arg(long, value_name = "WHICH", help_heading = LOGGING)]
    pub access_log: Option<AccessLog>,

    /// Write these lines to this file
    #[arg(long, value_name = "PATH", help_heading = LOGGING)]
    pub access_log_file: Option<FilePath>,

    /// Also for connections that sent nothing
    #[arg(long, value_name = "BOOL", value_parser = switch, help_heading = LOGGING)]
    pub log_empty: Option<bool>,

    /// Statistics over HTTP here, or at unix:/PATH
    #[arg(long, value_name = "[ADDR:]PORT", help_heading = STATISTICS)]
    pub admin: Option<AdminAddress>,

    /// Answer --admin requests for this host name; repeatable
    #[arg(long, value_name = "NAME", value_delimiter = ',', help_heading = STATISTICS)]
    #[serde(deserialize_with = "admin::hosts")]
    pub admin_host: Option<Vec<HostName>>,

    /// Ready with so many healthy workers
    #[arg(long, value_name = "N", help_heading = STATISTICS)]
    pub min_healthy: Option<Number<u32, 1, 1024>>,

    /// Keep the totals in this file
    #[arg(long, value_name = "PATH", help_heading = STATISTICS)]
    pub state_file: Option<FilePath>,

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
            splice: self.splice.or(lower.splice),
            workers: self.workers.or(lower.workers),
            max_connections: self.max_connections.or(lower.max_connections),
            max_concurrent_connections: self
                .max_concurrent_connections
                .or(lower.max_concurrent_connections),
            worker_timeout: self.worker_timeout.or(lower.worker_timeout),
            cpu_affinity: self.cpu_affinity.or(lower.cpu_affinity),
            balance: self.balance.or(lower.balance),
            busy_poll: self.busy_poll.or(lower.busy_poll),
            graceful_timeout: self.graceful_timeout.or(lower.graceful_timeout),
            shutdown_delay: self.shutdown_delay.or(lower.shutdown_delay),
            drain_timeout: self.drain_timeout.or(lower.drain_timeout),
            drain_spread: self.drain_spread.or(lower.drain_spread),
            log_level: self.log_level.or(lower.log_level),
            log_format: self.log_format.or(lower.log_format),
            enable_log_timestamps: self.enable_log_timestamps.or(lower.enable_log_timestamps),
            access_log: self.access_log.or(lower.access_log),
            access_log_file: self.access_log_file.or(lower.access_log_file),
            log_empty: self.log_empty.or(lower.log_empty),
            admin: self.admin.or(lower.admin),
            admin_host: self.admin_host.or(lower.admin_host),
            min_healthy: self.min_healthy.or(lower.min_healthy),
            state_file: self.state_file.or(lower.state_file),
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
