//! The workload of a run: derived from the options, valid by construction.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::options::BenchOptions;
use crate::text::{self, one_line};
use crate::tools::payload::Payload;
use crate::tools::target::Target;

/// Default size of a message in bytes.
const MESSAGE_SIZE: usize = 64;
/// Default nanoseconds between two new connections in an open loop, where the first echo does not show
/// how fast the server accepts.
const OPEN_LOOP_CONNECT_INTERVAL: f64 = 2e5;
/// Timeout of the name resolution.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Rule that decides when a connection sends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Traffic {
    /// Closed loop: after an echo, with `pipeline` messages in flight, at least 1.
    Closed { pipeline: u32 },
    /// Open loop: at fixed times, `interval` nanoseconds apart.
    Open { interval: f64 },
    /// Continuously, without messages.
    Stream,
}

/// The load that a run puts on a server.
#[derive(Clone, Debug)]
pub(super) struct Workload {
    pub target: Target,
    pub address: SocketAddr,
    /// Connections to keep open, at least 1.
    pub connections: u32,
    /// Threads that share the connections, at least one connection each.
    pub threads: u32,
    /// Nanoseconds between two new connections over all threads; `None` is as fast as the server
    /// accepts.
    pub connect_interval: Option<f64>,
    /// Lifetime of a connection; zero is one echo of all messages in the pipeline.
    pub lifetime: Option<Duration>,
    /// Time after which no further message starts.
    pub duration: Duration,
    /// Source addresses to use in turn; empty lets the system choose.
    pub source_ips: Vec<IpAddr>,
    pub traffic: Traffic,
    pub payload: Payload,
    /// Size of a message in bytes, at least 1.
    pub message_size: u64,
    /// `true` if connections start at different positions of the payload.
    pub varies_offset: bool,
}

/// Error that prevents a run, in one line.
#[derive(Debug)]
pub(super) enum WorkloadError {
    /// Invalid option value.
    Usage(String),
    /// Unresolvable server name.
    Target(String),
}

impl Workload {
    /// Derives the workload from the options. Reads the message file and resolves the server's name.
    ///
    /// # Errors
    /// An unreadable or empty file, an unknown name, or a source address of another family than the
    /// server's.
    pub(super) fn new(options: &BenchOptions) -> Result<Self, WorkloadError> {
        let (payload, message_size) = payload(options)?;
        let target = options.target.clone().unwrap_or_default();
        let address = target
            .address(RESOLVE_TIMEOUT)
            .map_err(|error| WorkloadError::Target(format!("{target}: {error}")))?;
        if let Some(wrong) = options.source_ip.iter().find(|ip| ip.is_ipv4() != address.is_ipv4()) {
            let text = format!(
                "invalid value '{wrong}' for --source-ip: not of the same family as {address}"
            );
            return Err(WorkloadError::Usage(text));
        }
        let lifetime = options.channel_lifetime.map(|span| span.get());
        if lifetime == Some(Duration::ZERO) && options.message_rate.is_some() {
            let text = "cannot combine --channel-lifetime 0 with --message-rate";
            return Err(WorkloadError::Usage(text.to_owned()));
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
            source_ips: options.source_ip.clone(),
            traffic: match (options.message_rate, options.stream) {
                (Some(rate), _) => Traffic::Open { interval: rate.interval() },
                (None, true) => Traffic::Stream,
                (None, false) => {
                    Traffic::Closed { pipeline: options.pipeline.map_or(1, |number| number.get()) }
                }
            },
            payload,
            message_size,
            varies_offset: options.message.is_none() && options.message_file.is_none(),
        })
    }

    /// Returns the number of connections of a thread, counted from 0.
    pub(super) fn share(&self, thread: u32) -> u32 {
        (self.connections - thread).div_ceil(self.threads)
    }

    /// Describes the workload in one line.
    pub(super) fn describe(&self) -> String {
        let size = text::bytes(self.message_size);
        let messages = match self.traffic {
            Traffic::Closed { pipeline: 1 } => format!("messages of {size}, one at a time"),
            Traffic::Closed { pipeline } => format!("messages of {size}, {pipeline} at a time"),
            Traffic::Open { interval } => {
                format!("messages of {size}, {} per second", text::rate(1e9 / interval))
            }
            Traffic::Stream => "a stream".to_owned(),
        };
        let connections = text::plural(self.connections.into(), "connection");
        format!("{}: {connections}, {messages} on each", self.target)
    }
}

/// Returns the payload and the size of a message in bytes.
fn payload(options: &BenchOptions) -> Result<(Payload, u64), WorkloadError> {
    if let Some(text) = &options.message {
        return Ok((Payload::repeat(text.as_bytes()), text.len() as u64));
    }
    if let Some(path) = &options.message_file {
        let invalid = |reason: &str| {
            let text = format!("cannot read --message-file {}: {reason}", path.display());
            WorkloadError::Usage(one_line(&text))
        };
        let bytes = fs::read(path).map_err(|error| invalid(&text::reason(&error)))?;
        if bytes.is_empty() {
            return Err(invalid("the file is empty"));
        }
        return Ok((Payload::repeat(&bytes), bytes.len() as u64));
    }
    let size = options.message_size.map_or(MESSAGE_SIZE, |size| size.get());
    Ok((Payload::pattern(), size as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::parse_options;

    fn workload(options: &str) -> Result<Workload, WorkloadError> {
        Workload::new(&parse_options(options))
    }

    #[test]
    fn connections_are_shared_by_the_threads() {
        for (options, shares) in [
            ("-c 10 --threads 3", &[4, 3, 3][..]),
            ("-c 2 --threads 8", &[1, 1]),
            ("-c 1000000 --threads 2", &[500_000, 500_000]),
        ] {
            let workload = workload(options).expect(options);
            let found: Vec<u32> =
                (0..workload.threads).map(|thread| workload.share(thread)).collect();
            assert_eq!(found, shares, "{options}");
        }
    }

    #[test]
    fn a_workload_is_described_in_one_line() {
        for (options, text) in [
            ("", "127.0.0.1:8090: 1 connection, messages of 64 bytes, one at a time on each"),
            (
                "-c 5000 -m foo --pipeline 8 [::1]:7",
                "[::1]:7: 5 000 connections, messages of 3 bytes, 8 at a time on each",
            ),
            (
                "-c 2 --message-size 1MiB -r 0.5",
                "127.0.0.1:8090: 2 connections, messages of 1 MiB, 0.5 per second on each",
            ),
            ("-c 3 --stream", "127.0.0.1:8090: 3 connections, a stream on each"),
        ] {
            assert_eq!(workload(options).expect(options).describe(), text);
        }
    }

    #[test]
    fn invalid_combinations_are_usage_errors() {
        for (options, names) in [
            ("--source-ip ::1", &["--source-ip", "::1", "127.0.0.1:8090"][..]),
            ("--channel-lifetime 0 -r 1", &["--channel-lifetime", "--message-rate"]),
            ("-f /no/such/file", &["--message-file", "/no/such/file", "No such file"]),
            ("-f /dev/null", &["--message-file", "/dev/null", "empty"]),
        ] {
            let Err(WorkloadError::Usage(text)) = workload(options) else { panic!("{options}") };
            assert!(names.iter().all(|name| text.contains(name)), "{text}");
        }
        assert!(matches!(workload("no-such-host.invalid:7"), Err(WorkloadError::Target(_))));
    }
}
