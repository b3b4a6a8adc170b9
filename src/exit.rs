//! Exit codes of both roles.

use std::process::ExitCode;

/// How a process of ours ends when nothing kills it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// All is well: stopped because it was asked to.
    Ok = 0,
    /// It cannot run: an address cannot be listened on, no worker gets ready, …
    Failure = 1,
    /// The command line, an environment variable or the configuration file is wrong.
    Usage = 2,
    /// A worker's word to the controller: trying again would fail the same way. Do not respawn.
    DoNotRespawn = 3,
}

impl Exit {
    /// The number that exit(3) takes.
    pub fn code(self) -> u8 {
        self as u8
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}
