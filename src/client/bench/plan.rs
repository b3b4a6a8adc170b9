//! What a run does: from the options, valid by construction.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::cli::BenchArguments;
use crate::client::amount;
use crate::client::source::Source;
use crate::client::target::Target;
use crate::config::one_line;

/// What a message is when nothing is said.
const MESSAGE_SIZE: usize = 64;
/// Nanoseconds from one new connection to the next where messages have their own times: no echo
/// tells then how fast the server accepts.
const OPEN_LOOP_CONNECT_INTERVAL: f64 = 2e5;
/// A name must be resolved in this time.
const RESOLVE: Duration = Duration::from_secs(5);

/// When a connection sends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Traffic {
    /// When an echo has come back: so many messages are under way, 1 or more.
    Closed {
        /// Messages under way.
        pipeline: u32,
    },
    /// At given times, so many nanoseconds apart.
    Open {
        /// From one message to the next.
        interval: f64,
    },
    /// Always, in both directions; there are no messages.
    Stream,
}

/// A run.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// The server as it was named.
    pub target: Target,
    /// The server as it is met.
    pub address: SocketAddr,
    /// Connections to keep open, 1 or more.
    pub connections: u32,
    /// The threads that share them; none is without a connection.
    pub threads: u32,
    /// From one new connection to the next, in nanoseconds, all threads together; `None`: as fast as
    /// the server has them.
    pub connect_interval: Option<f64>,
    /// A connection is closed after so long; zero: after the messages of its first turn.
    pub lifetime: Option<Duration>,
    /// The run takes so long; what is under way then is waited for.
    pub duration: Duration,
    /// Addresses to connect from, in turn; none: the system decides.
    pub sources: Vec<IpAddr>,
    /// When to send.
    pub traffic: Traffic,
    /// What to send.
    pub source: Source,
    /// Bytes of a message, 1 or more.
    pub message: u64,
    /// Whether each connection has bytes of its own.
    pub patterned: bool,
}

/// Why there is no plan.
#[derive(Debug)]
pub(super) enum PlanError {
    /// An option is wrong.
    Usage(String),
    /// The server's name cannot be resolved.
    Target(String),
}

impl Plan {
    /// Puts a plan together; reads the message file and resolves the server's name.
    ///
    /// # Errors
    /// One line each: the file cannot be read or is empty, the name is not known, an address to
    /// connect from is of another family than the server's.
    pub(super) fn new(options: &BenchArguments) -> Result<Self, PlanError> {
        let (source, message) = content(options)?;
        let target = options.target.clone().unwrap_or_default();
        let address = target
            .address(RESOLVE)
            .map_err(|error| PlanError::Target(format!("{target}: {error}")))?;
        if let Some(wrong) = options.source_ip.iter().find(|ip| ip.is_ipv4() != address.is_ipv4()) {
            let text = format!("--source-ip {wrong}: not of the same family as {address}");
            return Err(PlanError::Usage(text));
        }
        let lifetime = options.channel_lifetime.map(|span| span.get());
        if lifetime == Some(Duration::ZERO) && options.message_rate.is_some() {
            let text = "--channel-lifetime 0 leaves no time for --message-rate";
            return Err(PlanError::Usage(text.to_owned()));
        }
        let connections = options.connections.get();
        Ok(Self {
            target,
            address,
            connections,
            threads: options.threads.get().min(connections),
            connect_interval: match options.connect_rate {
                Some(rate) => Some(rate.interval()),
                None => options.message_rate.map(|_| OPEN_LOOP_CONNECT_INTERVAL),
            },
            lifetime,
            duration: options.duration.get(),
            sources: options.source_ip.clone(),
            traffic: match (options.message_rate, options.stream) {
                (Some(rate), _) => Traffic::Open { interval: rate.interval() },
                (None, true) => Traffic::Stream,
                (None, false) => {
                    Traffic::Closed { pipeline: options.pipeline.map_or(1, |number| number.get()) }
                }
            },
            source,
            message,
            patterned: options.message.is_none() && options.message_file.is_none(),
        })
    }

    /// How many connections this thread, counted from 0, keeps open.
    pub(super) fn share(&self, thread: u32) -> u32 {
        (self.connections - thread).div_ceil(self.threads)
    }

    /// The run in a line.
    pub(super) fn describe(&self) -> String {
        let message = amount::bytes(self.message);
        let messages = match self.traffic {
            Traffic::Closed { pipeline: 1 } => format!("messages of {message}, one at a time"),
            Traffic::Closed { pipeline } => format!("messages of {message}, {pipeline} at a time"),
            Traffic::Open { interval } => {
                format!("messages of {message}, {} a second", amount::rate(1e9 / interval))
            }
            Traffic::Stream => "a stream".to_owned(),
        };
        let connections = match self.connections {
            1 => "1 connection".to_owned(),
            count => format!("{} connections", amount::count(u64::from(count))),
        };
        format!("{}: {connections}, {messages} on each", self.target)
    }
}

/// What to send, and how much of it is a message.
fn content(options: &BenchArguments) -> Result<(Source, u64), PlanError> {
    if let Some(text) = &options.message {
        return Ok((Source::repeat(text.as_bytes()), text.len() as u64));
    }
    if let Some(path) = &options.message_file {
        let wrong = |reason: &str| {
            let text = format!("--message-file {}: {reason}", path.display());
            PlanError::Usage(one_line(&text))
        };
        let bytes = fs::read(path).map_err(|error| wrong(&error.to_string()))?;
        if bytes.is_empty() {
            return Err(wrong("the file is empty"));
        }
        return Ok((Source::repeat(&bytes), bytes.len() as u64));
    }
    let size = options.message_size.map_or(MESSAGE_SIZE, |size| size.get());
    Ok((Source::pattern(), size as u64))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;
    use crate::cli::{Cli, ClientCommand, SideCommand};

    fn plan(options: &str) -> Result<Plan, PlanError> {
        let line = format!("bench {options}");
        let words = line.split_whitespace().map(OsString::from).collect();
        match Cli::parse_from(words, |_| None).expect(options).command {
            Some(SideCommand::Client(ClientCommand::Bench(arguments))) => Plan::new(&arguments),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn connections_are_shared_by_the_threads() {
        for (options, shares) in [
            ("-c 10 --threads 3", &[4, 3, 3][..]),
            ("-c 2 --threads 8", &[1, 1]),
            ("-c 1000000 --threads 2", &[500_000, 500_000]),
        ] {
            let plan = plan(options).expect(options);
            let found: Vec<u32> = (0..plan.threads).map(|thread| plan.share(thread)).collect();
            assert_eq!(found, shares, "{options}");
        }
    }

    #[test]
    fn a_run_is_described_in_a_line() {
        for (options, text) in [
            ("", "127.0.0.1:8090: 1 connection, messages of 64 bytes, one at a time on each"),
            (
                "-c 5000 -m foo --pipeline 8 [::1]:7",
                "[::1]:7: 5 000 connections, messages of 3 bytes, 8 at a time on each",
            ),
            (
                "-c 2 --message-size 1MiB -r 0.5",
                "127.0.0.1:8090: 2 connections, messages of 1 MiB, 0.5 a second on each",
            ),
            ("-c 3 --stream", "127.0.0.1:8090: 3 connections, a stream on each"),
        ] {
            assert_eq!(plan(options).expect(options).describe(), text);
        }
    }

    #[test]
    fn what_does_not_fit_is_a_usage_error() {
        for (options, names) in [
            ("--source-ip ::1", &["--source-ip", "::1", "127.0.0.1:8090"][..]),
            ("--channel-lifetime 0 -r 1", &["--channel-lifetime", "--message-rate"]),
            ("-f /no/such/file", &["--message-file", "/no/such/file", "No such file"]),
            ("-f /dev/null", &["--message-file", "/dev/null", "empty"]),
        ] {
            let Err(PlanError::Usage(text)) = plan(options) else { panic!("{options}") };
            assert!(names.iter().all(|name| text.contains(name)), "{text}");
        }
        assert!(matches!(plan("no-such-host.invalid:7"), Err(PlanError::Target(_))));
    }
}
