//! Exit codes.

use std::io;
use std::process::ExitCode;

use crate::sys::output;
use crate::text::reason;

/// Exit code of a process of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Success, or an orderly stop.
    Ok = 0,
    /// Failure: an address cannot be listened on, no worker becomes ready, a check fails, …
    Failure = 1,
    /// Invalid command line, environment variable or configuration file.
    Usage = 2,
    /// Failure of a worker that it would repeat, so that the controller does not replace it.
    DoNotRespawn = 3,
}

impl Exit {
    /// Returns the number for exit(3).
    pub fn code(self) -> u8 {
        self as u8
    }

    /// Returns the result of a command. If the command could not print, reports that on standard error.
    pub fn after_printing(result: io::Result<Self>) -> Self {
        result.unwrap_or_else(|error| {
            let reason = reason(&error);
            output::print_error(format_args!(
                "tcp-echo: cannot write to standard output: {reason}"
            ));
            Self::Failure
        })
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}
