//! Options of the daemon, defined once each.
//!
//! The command line, the environment, the file, `--print-config`, the manual page and the completions
//! are all made from [`OPTIONS`]. The keys of a listener are the options under "Connections", and
//! those of [`SERVICE_KEYS`] that its service takes.

use toml::Value as Toml;
use toml::de::DeValue;

use super::MAX_WORKERS;
use super::admin::{AdminAddress, HostName};
use super::choice::{AccessLog, Balance, LogFormat, LogLevel, Splice};
use super::listen::ListenSpec;
use super::service::ServiceName;
use super::template::Template;
use super::value::{FilePath, Form, KeepaliveDelay, Number, Size, Span, Value, ValueError};

/// Definition of an option.
#[derive(Debug)]
pub struct OptionDefinition {
    /// Name behind `--`, which is also the key in the file.
    pub name: &'static str,
    /// Heading above the option in `--help`.
    pub heading: &'static str,
    /// Help line: at most 60 characters, readable without any other line.
    pub help: &'static str,
    /// Placeholder of the value in `--help`.
    pub value_name: &'static str,
    /// Default, as text. `None`: without a value, what the option is about is off.
    pub default: Option<&'static str>,
    /// Form of the value in the file and on the command line.
    pub form: Form,
    /// Words that are valid values; empty if the values are not words.
    pub choices: &'static [&'static str],
    parse: fn(&str) -> Result<Settings, ValueError>,
    text: fn(&Settings) -> Option<String>,
}

/// Heading of the options that are also keys of every listener.
const CONNECTIONS: &str = "Connections";

/// Defines [`Settings`] and tables of [`OptionDefinition`]. An entry is the help line as a doc
/// comment, then `name: type = "default"`. The type stands for the range and the placeholder.
macro_rules! options {
    ($($(#[$attribute:meta])* $table:ident {
        $($heading:literal {
            $(#[doc = $help:literal] $field:ident: $kind:ty $(= $default:literal)?,)*
        })*
    })*) => {
        /// Settings of one layer, or of one listener. `None`: they say nothing about this option.
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct Settings {
            $($($(#[doc = $help] pub(crate) $field: Option<$kind>,)*)*)*
        }

        impl Settings {
            /// Returns these settings, with those that are missing taken from `lower`.
            #[must_use]
            pub(crate) fn or(self, lower: Self) -> Self {
                Self { $($($($field: self.$field.or(lower.$field),)*)*)* }
            }
        }

        $($(#[$attribute])* pub static $table: &[OptionDefinition] = &[$($(OptionDefinition {
            name: {
                const NAME: [u8; stringify!($field).len()] = hyphenated(stringify!($field));
                match std::str::from_utf8(&NAME) {
                    Ok(name) => name,
                    Err(_) => panic!("not an ASCII name"),
                }
            },
            heading: $heading,
            help: $help.trim_ascii_start(),
            value_name: <$kind as Value>::NAME,
            default: {
                let default: &[&'static str] = &[$($default)?];
                default.first().copied()
            },
            form: <$kind as Value>::FORM,
            choices: <$kind as Value>::CHOICES,
            parse: |text| Ok(Settings { $field: Some(Value::parse(text)?), ..Settings::default() }),
            text: |settings| settings.$field.as_ref().map(Value::text),
        },)*)*];)*
    };
}

options! {
    /// Definitions of all options, in the order of `--help`.
    OPTIONS {
        "Listening" {
            /// Port if --listen names none; 0 picks a free port
            port: Number<u16, 0, 65535> = "8090",
            /// IPv4 or IPv6 address, or * for both; repeatable
            listen: Vec<ListenSpec> = "*",
            /// Protocol of listeners that name none
            service: ServiceName = "echo",
            /// Length of each accept queue
            connection_backlog: Number<u32, 1, 65535> = "128",
            /// Start even if another tcp-echo uses the port
            allow_shared_port: bool = "false",
        }
        "Connections" {
            /// Close connections idle for this long; 0 disables
            idle_timeout: Span = "10s",
            /// Send this text before closing an idle connection
            idle_message: String,
            /// Close idle connections with RST, not with FIN
            enable_send_reset: bool = "false",
            /// Reset non-reading clients after this; 0 disables
            write_timeout: Span = "1m",
            /// Wait this long for the client's FIN; 0 disables
            linger_timeout: Span = "10s",
            /// TCP keepalive after this idle time; 0 disables
            keepalive_delay: KeepaliveDelay = "0s",
            /// Send small packets at once (TCP_NODELAY)
            enable_nodelay: bool = "true",
            /// Receive buffer and limit of unsent data
            buffer_size: Size<4096, 16_777_216> = "256KiB",
            /// Forward bulk data without copying: auto or off
            splice: Splice = "auto",
        }
        "Workers" {
            /// Worker processes; 0 starts one per usable CPU
            workers: Number<u32, 0, { MAX_WORKERS as u64 }> = "0",
            /// Replace workers after N connections; 0 disables
            max_connections: Number<u64, 0, { i64::MAX as u64 }> = "0",
            /// Open connections per worker; 0 is unlimited
            max_concurrent_connections: Number<u32, 0, { u32::MAX as u64 }> = "0",
            /// Replace workers hung this long; 0 disables
            worker_timeout: Span = "30s",
            /// Pin each worker to a CPU
            cpu_affinity: bool = "false",
            /// Choose workers by hash or least-connections
            balance: Balance = "hash",
            /// Microseconds of busy polling before sleeping
            busy_poll: Number<u64, 0, 1_000_000> = "0",
        }
        "Shutdown" {
            /// On TERM, let connections finish for this long
            graceful_timeout: Span = "8s",
            /// On TERM, keep accepting for this long before draining
            shutdown_delay: Span = "0s",
            /// Let replaced workers drain for this long
            drain_timeout: Span = "1h",
            /// Spread closing of idle connections over this time
            drain_spread: Span = "5s",
        }
        "Logging" {
            /// Minimum: DEBUG, INFO, WARN, ERROR, or FATAL
            log_level: LogLevel = "INFO",
            /// Format of log lines: text or json
            log_format: LogFormat = "text",
            /// Start log lines with the time in UTC
            enable_log_timestamps: bool = "false",
            /// Log finished connections: off, errors, or all
            access_log: AccessLog = "off",
            /// Write the access log to this file
            access_log_file: FilePath,
            /// Include connections that sent no data
            log_empty: bool = "false",
        }
        "Statistics" {
            /// Serve statistics over HTTP here, or at unix:/PATH
            admin: AdminAddress,
            /// Accept this host name in admin requests; repeatable
            admin_host: Vec<HostName>,
            /// Healthy workers needed to report ready
            min_healthy: Number<u32, 1, { MAX_WORKERS as u64 }> = "1",
            /// Keep statistics totals in this file
            state_file: FilePath,
        }
        "Process" {
            /// Run in the background
            daemon: bool = "false",
            /// Write the controller's PID to this file
            pid_file: FilePath,
        }
    }
    /// Definitions of the keys that services take, and only at their listeners.
    SERVICE_KEYS {
        "Services" {
            /// Send this text before each line
            prefix: Template = "",
            /// End the connection at a line "quit"
            quit: bool = "false",
            /// Longest line, in bytes
            max_line: Size<1, 16_777_216> = "64KiB",
        }
    }
}

/// Returns `name` with hyphens in place of underscores.
const fn hyphenated<const LENGTH: usize>(name: &str) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    let mut index = 0;
    while index < LENGTH {
        let byte = name.as_bytes()[index];
        bytes[index] = if byte == b'_' { b'-' } else { byte };
        index += 1;
    }
    bytes
}

impl OptionDefinition {
    /// Returns the option with this name.
    pub fn find(name: &str) -> Option<&'static Self> {
        OPTIONS.iter().find(|option| option.name == name)
    }

    /// Returns the options that are also keys of every listener.
    pub fn of_connections() -> impl Iterator<Item = &'static Self> {
        OPTIONS.iter().filter(|option| option.heading == CONNECTIONS)
    }

    /// Returns the name of the environment variable: `TCP_ECHO_IDLE_TIMEOUT` for `idle-timeout`.
    pub fn variable(&self) -> String {
        format!("TCP_ECHO_{}", self.name.to_uppercase().replace('-', "_"))
    }

    /// Returns settings in which only this option has a value.
    ///
    /// # Errors
    /// The text is not valid for the option.
    pub fn parse(&self, text: &str) -> Result<Settings, ValueError> {
        (self.parse)(text)
    }

    /// Returns `true` if these settings have a value for this option.
    pub(super) fn is_in(&self, settings: &Settings) -> bool {
        (self.text)(settings).is_some()
    }

    /// Returns the text that [`Self::parse`] reads back, if these settings have a value for this option.
    pub(super) fn text_in(&self, settings: &Settings) -> Option<String> {
        (self.text)(settings)
    }

    /// Like [`Self::parse`], for a value of the file. The error names no key.
    pub(super) fn parse_toml(&self, value: &DeValue<'_>) -> Result<Settings, String> {
        let text = match (self.form, value) {
            (Form::Switch, DeValue::Boolean(switch)) => switch.to_string(),
            (Form::Switch, _) => return Err(unexpected(value, "true or false")),
            (Form::List, DeValue::Array(items)) => {
                let items = items.iter().map(|item| string(item.get_ref(), "a string"));
                items.collect::<Result<Vec<_>, _>>()?.join(",")
            }
            (Form::List, _) => string(value, "a string or an array of strings")?,
            (Form::Text, _) => string(value, "a string")?,
            (Form::Scalar | Form::Number, _) => scalar(value)?,
        };
        self.parse(&text).map_err(|error| error.to_string())
    }

    /// Returns the value that these settings have for this option, as the file has it.
    pub fn to_toml(&self, settings: &Settings) -> Option<Toml> {
        let text = (self.text)(settings)?;
        Some(match self.form {
            Form::Switch => Toml::Boolean(text == "true"),
            Form::Number => text.parse().map_or(Toml::String(text), Toml::Integer),
            Form::List if text.is_empty() => Toml::Array(Vec::new()),
            Form::List => text.split(',').map(Toml::from).collect::<Vec<_>>().into(),
            Form::Scalar | Form::Text => Toml::String(text),
        })
    }
}

impl Settings {
    /// Returns the lowest layer: the defaults of all options, and of the keys of services, that have one.
    pub fn defaults() -> Self {
        let all = OPTIONS.iter().chain(SERVICE_KEYS);
        let defaults = all.filter_map(|option| Some((option, option.default?)));
        defaults.fold(Self::default(), |settings, (option, text)| {
            settings.or(option.parse(text).expect("a default is valid for its option"))
        })
    }

    /// Returns the settings that have a value, as the text of a file.
    pub fn to_file(&self) -> String {
        let entries = OPTIONS.iter().filter_map(|option| {
            option.to_toml(self).map(|value| format!("{} = {value}\n", option.name))
        });
        entries.collect()
    }
}

/// Returns the text of a number, a switch or a string.
fn scalar(value: &DeValue<'_>) -> Result<String, String> {
    match value {
        // The program has no octal numbers, TOML does.
        DeValue::Integer(number) => Ok(i128::from_str_radix(number.as_str(), number.radix())
            .map_or_else(|_| number.to_string(), |number| number.to_string())),
        DeValue::Float(number) => Ok(number.as_str().to_owned()),
        DeValue::Boolean(switch) => Ok(switch.to_string()),
        _ => string(value, "a string or a number"),
    }
}

/// Returns the name that `word` probably means: a name with more than a third of its letters wrong is
/// no misspelling.
pub(super) fn nearest<'a>(word: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let (distance, name) =
        names.map(|name| (strsim::damerau_levenshtein(word, name), name)).min()?;
    (distance <= 1 + name.len() / 3).then_some(name)
}

pub(super) fn string(value: &DeValue<'_>, expected: &str) -> Result<String, String> {
    value.as_str().map(str::to_owned).ok_or_else(|| unexpected(value, expected))
}

pub(super) fn unexpected(value: &DeValue<'_>, expected: &str) -> String {
    let found = value.type_str();
    match value {
        DeValue::String(text) => format!("found {found} \"{text}\", expected {expected}"),
        DeValue::Integer(number) => format!("found {found} {number}, expected {expected}"),
        DeValue::Float(number) => format!("found {found} {number}, expected {expected}"),
        DeValue::Boolean(switch) => format!("found {found} {switch}, expected {expected}"),
        _ => format!("found {found}, expected {expected}"),
    }
}
