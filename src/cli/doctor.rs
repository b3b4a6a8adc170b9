//! Command line of `tcp-echo doctor`.

use clap::Args;

use crate::config::Layers;

pub(super) const NAME: &str = "doctor";

pub(super) const USAGE: &str = "tcp-echo doctor [OPTIONS] [OPTIONS OF THE DAEMON]";

pub(super) const HELP: &str = "\
The options of the daemon, the environment and the file describe the daemon to check (see
tcp-echo --help). Run doctor on the machine of the daemon and as its user: limits, namespaces and
privileges are those of this process. It changes nothing. It binds each address for a moment to
see if it is free.

ok     as it should be
note   correct; good to know, above all for load tests
warn   the daemon starts, but does less than its options say, or may fail later
wrong  the daemon does not start, or cannot do what its options say

Exit code: 0 nothing is wrong, 1 something is wrong, 2 invalid option.

Example: tcp-echo doctor --config /etc/tcp-echo.toml";

/// The options of `doctor`, with those of the daemon.
#[derive(Args, Clone, Debug, PartialEq)]
#[command(about = None, long_about = None)]
pub struct DoctorArguments {
    /// Print the result as one JSON object
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    pub(super) layers: Layers,
}
