//! Command line of `tcp-echo check`.

use clap::Args;

use crate::config::value::{Number, Size, Span, positive};
use crate::tools::target::Target;

/// Text after the options in `--help`.
pub(crate) const AFTER_HELP: &str = "\
HOST is a name, an IPv4 address, or an IPv6 address in brackets. The default of PORT is 8090.
DUR is in seconds, or 250ms, 1.5s, 2m. SIZE is in bytes, or 64KiB, 1MiB.
Exit code: 0 exact echo, 1 wrong or missing echo, 2 invalid option.

Example: tcp-echo check --quick --timeout 2 echo.example:7";

/// The options of `check`. The doc comments are the help texts.
#[derive(Args, Clone, Debug, PartialEq)]
pub struct CheckOptions {
    /// Server to check [default: 127.0.0.1:8090, or the port in TCP_ECHO_PORT]
    #[arg(value_name = "HOST[:PORT]")]
    pub target: Option<Target>,

    /// Send this many bytes in every case, instead of several sizes
    #[arg(long, value_name = "SIZE")]
    pub bytes: Option<Size<0, 1_073_741_824>>,

    /// Connections in the case with concurrent connections
    #[arg(long, value_name = "N", default_value = "4")]
    pub connections: Number<usize, 1, 10_000>,

    /// Keep the sending side open until the echo is complete
    #[arg(long)]
    pub no_half_close: bool,

    /// Read slowly in every case
    #[arg(long)]
    pub slow: bool,

    /// Write in pieces of random sizes in every case
    #[arg(long)]
    pub ragged: bool,

    /// Run one case of 1 KiB or --bytes, as a health check
    #[arg(long)]
    pub quick: bool,

    /// Fail if the whole check takes longer than this
    #[arg(long, value_name = "DUR", default_value = "5s", value_parser = positive)]
    pub timeout: Span,

    /// Print a line for each case, and continue after a failure
    #[arg(long, short)]
    pub verbose: bool,
}
