//! What was typed behind `tcp-echo check` and `tcp-echo bench`.
//!
//! The names of `bench` are those of tcpkali where it has them.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};

use crate::client::target::Target;
use crate::config::rate::Rate;
use crate::config::value::{Number, Size, Span};

const LOAD: &str = "Load";
const MESSAGES: &str = "Messages";
const OUTPUT: &str = "Output";

const CHECK_HELP: &str = "\
DUR is in seconds, or 250ms, 1.5s, 2m. SIZE is in bytes, or 64KiB, 1MiB.
Exit code: 0 the server echoes exactly, 1 it does not, 2 wrong option.

Example: tcp-echo check --quick --timeout 2 echo.example:7";

const BENCH_HELP: &str = "\
DUR is in seconds, or 250ms, 1.5s, 2m. SIZE is in bytes, or 64KiB, 1MiB. RATE is a second: 0.5, 20k.
Every byte that comes back is compared with what was sent. MB is a million bytes.

Without --message-rate a connection sends when an echo has come back (closed loop): a server that
stands still is sent nothing meanwhile, and most of the wait goes unseen. With it, messages are due
at given times whatever the server does (open loop), and latency counts from when one was due.

Exit code: 0, or 1 when a byte was wrong or lost or nothing came back, 2 wrong option.

Example: tcp-echo bench -c 500 --connect-rate 300 --channel-lifetime 1 -m foo -r 2 localhost:8090";

/// The commands beside the daemon.
#[derive(Subcommand, Clone, Debug, PartialEq)]
pub enum ClientCommand {
    /// Check that a server echoes exactly
    #[command(after_help = CHECK_HELP, args_override_self = true,
              override_usage = "tcp-echo check [OPTIONS] [HOST:PORT]")]
    Check(CheckArguments),
    /// Load a server, verify every byte, and measure
    #[command(after_help = BENCH_HELP, args_override_self = true,
              override_usage = "tcp-echo bench [OPTIONS] [HOST:PORT]")]
    Bench(BenchArguments),
}

impl ClientCommand {
    /// Where no server was named it is on this machine, at the port of the daemon's variable if that
    /// has one.
    pub(super) fn default_target(&mut self, port: Option<u16>) {
        let target = match self {
            Self::Check(arguments) => &mut arguments.target,
            Self::Bench(arguments) => &mut arguments.target,
        };
        target.get_or_insert_with(|| port.map(Target::local).unwrap_or_default());
    }
}

/// The options of `check`. The first line of each comment is the help text.
#[derive(Args, Clone, Debug, PartialEq)]
pub struct CheckArguments {
    /// The server [default: 127.0.0.1:8090, or the port in TCP_ECHO_PORT]
    #[arg(value_name = "HOST:PORT")]
    pub target: Option<Target>,

    /// Echo so much in every case, not many sizes
    #[arg(long, value_name = "SIZE")]
    pub bytes: Option<Size<0, 1_073_741_824>>,

    /// Connections of the case with several at once
    #[arg(long, value_name = "N", default_value = "4")]
    pub connections: Number<usize, 1, 10_000>,

    /// Never close the sending side before all is back
    #[arg(long)]
    pub no_half_close: bool,

    /// Read slowly in every case
    #[arg(long)]
    pub slow: bool,

    /// Write in pieces of many sizes in every case
    #[arg(long)]
    pub ragged: bool,

    /// One echo of 1 KiB, or of --bytes, and no more: for health checks
    #[arg(long)]
    pub quick: bool,

    /// The whole check may take so long
    #[arg(long, value_name = "DUR", default_value = "5s", value_parser = some_time)]
    pub timeout: Span,

    /// Print a line for each case, and go on behind one that fails
    #[arg(long, short)]
    pub verbose: bool,
}

/// The options of `bench`. The first line of each comment is the help text.
#[derive(Args, Clone, Debug, PartialEq)]
pub struct BenchArguments {
    /// The server [default: 127.0.0.1:8090, or the port in TCP_ECHO_PORT]
    #[arg(value_name = "HOST:PORT")]
    pub target: Option<Target>,

    /// Connections to keep open
    #[arg(long, short, value_name = "N", default_value = "1", help_heading = LOAD)]
    pub connections: Number<u32, 1, 10_000_000>,

    /// Open so many a second at most [default: 5k with -r, or no limit]
    #[arg(long, value_name = "RATE", help_heading = LOAD)]
    pub connect_rate: Option<Rate>,

    /// Close a connection after so long, open another; 0 = after one echo
    #[arg(long, value_name = "DUR", help_heading = LOAD)]
    pub channel_lifetime: Option<Span>,

    /// Run for so long
    #[arg(long, short = 'T', value_name = "DUR", default_value = "10s", value_parser = some_time,
          help_heading = LOAD)]
    pub duration: Span,

    /// Threads, each with its share of the connections
    #[arg(long, value_name = "N", default_value = "1", help_heading = LOAD)]
    pub threads: Number<u32, 1, 1024>,

    /// Connect from this address, repeatable: in turn
    #[arg(long, value_name = "IP", value_delimiter = ',', help_heading = LOAD)]
    pub source_ip: Vec<IpAddr>,

    /// Send this text
    #[arg(long, short, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new(),
          conflicts_with_all = ["message_file", "message_size"], help_heading = MESSAGES)]
    pub message: Option<String>,

    /// Send what is in this file
    #[arg(long, short = 'f', value_name = "FILE", conflicts_with = "message_size",
          help_heading = MESSAGES)]
    pub message_file: Option<PathBuf>,

    /// Send so many bytes, none like the next [default: 64]
    #[arg(long, value_name = "SIZE", help_heading = MESSAGES)]
    pub message_size: Option<Size<1, 1_073_741_824>>,

    /// Messages a second on each connection (open loop)
    #[arg(long, short = 'r', value_name = "RATE", help_heading = MESSAGES)]
    pub message_rate: Option<Rate>,

    /// Messages under way on each connection (closed loop) [default: 1]
    #[arg(long, value_name = "N", conflicts_with = "message_rate", help_heading = MESSAGES)]
    pub pipeline: Option<Number<u32, 1, 65_536>>,

    /// No messages: both directions at full speed
    #[arg(long, conflicts_with_all = ["message_rate", "pipeline", "message_size"],
          help_heading = MESSAGES)]
    pub stream: bool,

    /// Print the result as one JSON object
    #[arg(long, help_heading = OUTPUT)]
    pub json: bool,

    /// No progress line
    #[arg(long, short, help_heading = OUTPUT)]
    pub quiet: bool,
}

/// A length of time in which something can happen.
fn some_time(text: &str) -> Result<Span, String> {
    match text.parse::<Span>() {
        Ok(span) if span.unless_zero().is_none() => Err(format!("'{text}' is no time at all")),
        span => span.map_err(|error| error.to_string()),
    }
}
