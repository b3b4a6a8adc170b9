//! What was typed behind `tcp-echo doctor`.

use std::path::PathBuf;

use clap::Args;

use super::Settings;

/// The command's name.
pub(super) const NAME: &str = "doctor";

pub(super) const USAGE: &str = "tcp-echo doctor [OPTIONS] [OPTIONS OF THE DAEMON]";

pub(super) const HELP: &str = "\
Behind doctor stand the options that the daemon is to run with (see tcp-echo --help); the
environment and the file count as they do for the daemon. Run it where the daemon is to run, and
as the same user: limits, namespaces and privileges are those of the process that asks.
Nothing is changed. Each address is bound for a moment to see whether it is free.

ok     it is as it should be
note   nothing is wrong; good to know, for load tests above all
warn   the daemon runs, and something does less than was asked for, or may end badly
wrong  the daemon would not start, or cannot do what it is told to

Exit code: 0 nothing is wrong, 1 something is, 2 wrong option.

Example: tcp-echo doctor --config /etc/tcp-echo.toml";

/// The options of `doctor`, with those of the daemon.
#[derive(Args, Clone, Debug, PartialEq)]
#[command(about = None, long_about = None)]
pub struct DoctorArguments {
    /// Print the result as one JSON object
    #[arg(long)]
    pub json: bool,

    /// Read the daemon's settings from this TOML file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// The daemon's settings
    #[command(flatten)]
    settings: Settings,
}

impl DoctorArguments {
    /// Takes out what is the daemon's: its settings and its file.
    pub(super) fn take_settings(&mut self) -> (Settings, Option<PathBuf>) {
        (std::mem::take(&mut self.settings), self.config.take())
    }
}
