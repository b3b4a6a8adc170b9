//! Values that are words, and faults for tests.

use std::fmt::{self, Display};
use std::str::FromStr;

use super::value::{Scalar, ValueError};

/// Defines an enum whose values are words, which are read in any case.
macro_rules! choice {
    ($(#[$attribute:meta])* $kind:ident($name:literal) {
        $($(#[$doc:meta])* $variant:ident = $word:literal,)+
    }) => {
        $(#[$attribute])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $kind {
            $($(#[$doc])* $variant,)+
        }

        impl FromStr for $kind {
            type Err = ValueError;

            fn from_str(text: &str) -> Result<Self, ValueError> {
                match text {
                    $(_ if text.eq_ignore_ascii_case($word) => Ok(Self::$variant),)+
                    _ => Err(ValueError(format!("'{text}' is not {}", alternatives(Self::CHOICES)))),
                }
            }
        }

        impl Display for $kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $(Self::$variant => $word,)+
                })
            }
        }

        impl Scalar for $kind {
            const NAME: &'static str = $name;
            const CHOICES: &'static [&'static str] = &[$($word),+];
        }
    };
}

choice! {
    /// Severity of a log line, the least severe first.
    #[derive(PartialOrd, Ord)]
    LogLevel("LEVEL") {
        /// Details, such as a line for each connection.
        Debug = "DEBUG",
        /// Normal events.
        Info = "INFO",
        /// Problems that the daemon handles.
        Warn = "WARN",
        /// Failures.
        Error = "ERROR",
        /// Failures that end the daemon.
        Fatal = "FATAL",
    }
}

choice! {
    /// Format of log lines.
    LogFormat("FORMAT") {
        /// For people: level, role, message, then `key=value`.
        Text = "text",
        /// For programs: one JSON object a line.
        Json = "json",
    }
}

choice! {
    /// Connections that the access log covers.
    AccessLog("WHICH") {
        /// No connections.
        Off = "off",
        /// Connections that did not end in order.
        Errors = "errors",
        /// All connections.
        All = "all",
    }
}

choice! {
    /// Use of splice(2), which forwards bulk data from socket to socket without copying it.
    Splice("WHEN") {
        /// Connections that send bulk data use it.
        Auto = "auto",
        /// No connection uses it.
        Off = "off",
    }
}

choice! {
    /// Choice of the worker that serves a new connection.
    Balance("HOW") {
        /// The kernel's hash of the addresses chooses.
        Hash = "hash",
        /// The worker with the fewest connections; others hand connections off to it.
        LeastConnections = "least-connections",
    }
}

/// Returns `a or b`, or `a, b, or c`.
fn alternatives(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [word] => (*word).to_owned(),
        [first, last] => format!("{first} or {last}"),
        [rest @ .., last] => format!("{}, or {last}", rest.join(", ")),
    }
}

/// A failure on purpose, for tests of the controller. The number is the slot; 0 is every slot.
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
    /// The controller attaches no steering program: the kernel's hash chooses the listener.
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
        fn check<T: Scalar>() {
            assert!(T::CHOICES.len() > 1);
            for word in T::CHOICES {
                let value = T::from_str(&word.to_uppercase()).expect(word);
                assert_eq!(value.to_string(), *word);
            }
        }
        check::<LogLevel>();
        check::<LogFormat>();
        check::<AccessLog>();
        check::<Splice>();
        check::<Balance>();
        let of_slots = [Fault::CrashAtBoot(0), Fault::CrashWhenReady(3), Fault::HangAtBoot(1)];
        for fault in of_slots.into_iter().chain([Fault::StopAtBoot(2), Fault::NoSteering]) {
            assert_eq!(fault.to_string().parse(), Ok(fault));
        }
    }

    #[test]
    fn levels_are_ordered_by_importance() {
        use LogLevel::{Debug, Error, Fatal, Info, Warn};
        assert!([Debug, Info, Warn, Error, Fatal].is_sorted());
    }

    #[test]
    fn a_fault_needs_a_known_name_and_a_slot() {
        let nonsense = ["", "crash-at-boot:", "crash-at-boot:x", "melt:1", ":1", "no-steering:1"];
        for text in nonsense.into_iter().chain(["crash-at-boot", "no-steering:"]) {
            assert!(text.parse::<Fault>().is_err(), "{text}");
        }
    }
}
