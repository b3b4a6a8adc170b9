//! Settings whose values are words.

use std::fmt::{self, Display};
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer};
use serde::ser::{Serialize, Serializer};

use super::value::{ValueError, scalar, text_in_file};

/// How important a line of the log is; the least important comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// One line per connection, and other detail.
    Debug,
    /// What the daemon does.
    Info,
    /// Something is wrong, and the daemon handles it.
    Warn,
    /// Something failed.
    Error,
    /// The daemon cannot go on.
    Fatal,
}

impl LogLevel {
    const ALL: [Self; 5] = [Self::Debug, Self::Info, Self::Warn, Self::Error, Self::Fatal];

    /// The level's name, in capitals.
    pub fn name(self) -> &'static str {
        match self {
            Self::Debug => "DEBUG",
            Self::Info => "INFO",
            Self::Warn => "WARN",
            Self::Error => "ERROR",
            Self::Fatal => "FATAL",
        }
    }
}

impl FromStr for LogLevel {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        Self::ALL
            .into_iter()
            .find(|level| level.name().eq_ignore_ascii_case(text))
            .ok_or_else(|| ValueError(format!("'{text}' is not DEBUG, INFO, WARN, ERROR or FATAL")))
    }
}

impl Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

text_in_file!(LogLevel, "DEBUG, INFO, WARN, ERROR or FATAL");

/// How a line of the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people: level, role, message, then `key=value`.
    Text,
    /// For programs: one JSON object a line.
    Json,
}

impl FromStr for LogFormat {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text.to_ascii_lowercase().as_str() {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(ValueError(format!("'{text}' is neither text nor json"))),
        }
    }
}

impl Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

text_in_file!(LogFormat, "\"text\" or \"json\"");

/// Which connections the access log tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessLog {
    /// None.
    Off,
    /// Those that did not end in order.
    Errors,
    /// Every one.
    All,
}

impl FromStr for AccessLog {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text.to_ascii_lowercase().as_str() {
            "off" => Ok(Self::Off),
            "errors" => Ok(Self::Errors),
            "all" => Ok(Self::All),
            _ => Err(ValueError(format!("'{text}' is not off, errors or all"))),
        }
    }
}

impl Display for AccessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Errors => "errors",
            Self::All => "all",
        })
    }
}

text_in_file!(AccessLog, "\"off\", \"errors\" or \"all\"");

/// Whether bulk goes from socket to socket through a pipe, without being copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Splice {
    /// Where it pays.
    Auto,
    /// Never.
    Off,
}

impl FromStr for Splice {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text.to_ascii_lowercase().as_str() {
            "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Off),
            _ => Err(ValueError(format!("'{text}' is neither auto nor off"))),
        }
    }
}

impl Display for Splice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Off => "off",
        })
    }
}

text_in_file!(Splice, "\"auto\" or \"off\"");

/// Which worker serves a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balance {
    /// The one that the kernel's hash of the addresses picks.
    Hash,
    /// The one with the fewest: a worker that has more passes the connection on.
    LeastConnections,
}

impl FromStr for Balance {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text.to_ascii_lowercase().as_str() {
            "hash" => Ok(Self::Hash),
            "least-connections" => Ok(Self::LeastConnections),
            _ => Err(ValueError(format!("'{text}' is neither hash nor least-connections"))),
        }
    }
}

impl Display for Balance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hash => "hash",
            Self::LeastConnections => "least-connections",
        })
    }
}

text_in_file!(Balance, "\"hash\" or \"least-connections\"");

/// A failure on purpose, for tests of the controller. The number is the slot; 0 means every slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The worker dies before it is ready.
    CrashAtBoot(u32),
    /// The worker dies right after it has become ready.
    CrashWhenReady(u32),
    /// The worker never becomes ready.
    HangAtBoot(u32),
    /// The worker stops itself before it is ready, until SIGCONT.
    StopAtBoot(u32),
    /// The controller never steers: the kernel's hash picks the listener.
    NoSteering,
}

impl FromStr for Fault {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let (name, slot) = text.split_once(':').unwrap_or((text, ""));
        match (name, slot.parse()) {
            ("crash-at-boot", Ok(slot)) => Ok(Self::CrashAtBoot(slot)),
            ("crash-when-ready", Ok(slot)) => Ok(Self::CrashWhenReady(slot)),
            ("hang-at-boot", Ok(slot)) => Ok(Self::HangAtBoot(slot)),
            ("stop-at-boot", Ok(slot)) => Ok(Self::StopAtBoot(slot)),
            _ if text == "no-steering" => Ok(Self::NoSteering),
            _ => Err(ValueError(format!(
                "'{text}' is not crash-at-boot:SLOT, crash-when-ready:SLOT, hang-at-boot:SLOT, \
                 stop-at-boot:SLOT or no-steering"
            ))),
        }
    }
}

impl Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CrashAtBoot(slot) => write!(f, "crash-at-boot:{slot}"),
            Self::CrashWhenReady(slot) => write!(f, "crash-when-ready:{slot}"),
            Self::HangAtBoot(slot) => write!(f, "hang-at-boot:{slot}"),
            Self::StopAtBoot(slot) => write!(f, "stop-at-boot:{slot}"),
            Self::NoSteering => f.write_str("no-steering"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_in_any_case() {
        assert_eq!("warn".parse(), Ok(LogLevel::Warn));
        assert_eq!("Fatal".parse(), Ok(LogLevel::Fatal));
        assert_eq!("JSON".parse(), Ok(LogFormat::Json));
        assert!("verbose".parse::<LogLevel>().is_err());
        assert_eq!("Hash".parse(), Ok(Balance::Hash));
        assert!("".parse::<LogFormat>().is_err());
        assert!("random".parse::<Balance>().is_err());
    }

    #[test]
    fn what_is_written_is_read_back() {
        for level in LogLevel::ALL {
            assert_eq!(level.to_string().parse(), Ok(level));
        }
        for format in [LogFormat::Text, LogFormat::Json] {
            assert_eq!(format.to_string().parse(), Ok(format));
        }
        for balance in [Balance::Hash, Balance::LeastConnections] {
            assert_eq!(balance.to_string().parse(), Ok(balance));
        }
        let of_slots = [Fault::CrashAtBoot(0), Fault::CrashWhenReady(3), Fault::HangAtBoot(1)];
        for fault in of_slots.into_iter().chain([Fault::StopAtBoot(2), Fault::NoSteering]) {
            assert_eq!(fault.to_string().parse(), Ok(fault));
        }
    }

    #[test]
    fn levels_are_ordered_by_importance() {
        assert!(LogLevel::ALL.is_sorted());
    }

    #[test]
    fn a_fault_needs_a_known_name_and_a_slot() {
        let nonsense = ["", "crash-at-boot:", "crash-at-boot:x", "melt:1", ":1", "no-steering:1"];
        for text in nonsense.into_iter().chain(["crash-at-boot", "no-steering:"]) {
            assert!(text.parse::<Fault>().is_err(), "{text}");
        }
    }
}
