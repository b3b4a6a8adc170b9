//! Command line of `tcp-echo bench`. Options that tcpkali also has share its names. Those of oha, wrk,
//! and fortio are hidden aliases if they have the same meaning.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use crate::config::rate::Rate;
use crate::config::value::{Number, Size, Span, positive};
use crate::tools::target::Target;

const LOAD: &str = "Load";
const MESSAGES: &str = "Messages";
const OUTPUT: &str = "Output";

/// Text after the options in `--help`.
pub(crate) const AFTER_HELP: &str = "\
HOST is a name, an IPv4 address, or an IPv6 address in brackets. The default of PORT is 8090.
DUR is in seconds, or 250ms, 1.5s, 2m. SIZE is in bytes, or 64KiB, 1MiB.
RATE is per second: 0.5, 20k. Every byte of the echo is verified. MB is a million bytes.

Without --message-rate, a connection sends the next message after an echo (closed loop): while the
server stalls, nothing is sent, and the latency figures hide most of the stall. With --message-rate,
messages are due at fixed times (open loop), and latency counts from the time a message was due.

Exit code: 0 exact echo, 1 wrong or lost bytes or no echo at all, 2 invalid option.

Example: tcp-echo bench -c 500 --connect-rate 300 --channel-lifetime 1 -m foo -r 2 localhost:8090";

/// The options of `bench`. The doc comments are the help texts.
#[derive(Args, Clone, Debug, PartialEq)]
pub struct BenchOptions {
    /// Server to load [default: 127.0.0.1:8090, or the port in TCP_ECHO_PORT]
    #[arg(value_name = "HOST[:PORT]")]
    pub target: Option<Target>,

    /// Connections to keep open
    #[arg(long, short, alias = "concurrency", value_name = "N", default_value = "1",
          help_heading = LOAD)]
    pub connections: Number<u32, 1, 10_000_000>,

    /// Open at most this many per second [default: 5k with -r]
    #[arg(long, value_name = "RATE", help_heading = LOAD)]
    pub connect_rate: Option<Rate>,

    /// Replace connections after this time; 0 = after one echo
    #[arg(long, value_name = "DUR", help_heading = LOAD)]
    pub channel_lifetime: Option<Span>,

    /// Stop after this time
    #[arg(long, short = 'T', short_aliases = ['d', 'z'], value_name = "DUR", default_value = "10s", value_parser = positive,
          help_heading = LOAD)]
    pub duration: Span,

    /// Distribute the connections over this many threads
    #[arg(long, value_name = "N", default_value = "1", help_heading = LOAD)]
    pub threads: Number<u32, 1, 1024>,

    /// Connect from this address; repeat to alternate
    #[arg(long, value_name = "IP", value_delimiter = ',', help_heading = LOAD)]
    pub source_ip: Vec<IpAddr>,

    /// Send this text
    #[arg(long, short, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new(),
          conflicts_with_all = ["message_file", "message_size"], help_heading = MESSAGES)]
    pub message: Option<String>,

    /// Send the content of this file
    #[arg(long, short = 'f', value_name = "FILE", conflicts_with = "message_size",
          help_heading = MESSAGES)]
    pub message_file: Option<PathBuf>,

    /// Send messages of this many random bytes [default: 64]
    #[arg(long, value_name = "SIZE", help_heading = MESSAGES)]
    pub message_size: Option<Size<1, 1_073_741_824>>,

    /// Messages per second on each connection (open loop)
    #[arg(long, short = 'r', value_name = "RATE", help_heading = MESSAGES)]
    pub message_rate: Option<Rate>,

    /// Messages in flight per connection (closed loop) [default: 1]
    #[arg(long, value_name = "N", conflicts_with = "message_rate", help_heading = MESSAGES)]
    pub pipeline: Option<Number<u32, 1, 65_536>>,

    /// Send without pause in both directions, without messages
    #[arg(long, conflicts_with_all = ["message_rate", "pipeline", "message_size"],
          help_heading = MESSAGES)]
    pub stream: bool,

    /// Print the result as one JSON object
    #[arg(long, help_heading = OUTPUT)]
    pub json: bool,

    /// Do not show a progress line
    #[arg(long, short, help_heading = OUTPUT)]
    pub quiet: bool,
}
