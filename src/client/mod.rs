//! The client: `tcp-echo check` says whether a server echoes exactly, `tcp-echo bench` loads one and
//! measures. Both compare every byte that comes back, and work with any echo server.
//!
//! | module | what it is |
//! |---|---|
//! | [`target`] | the server, as it was named and as it is reached |
//! | `source` | the bytes to send, and the comparison |
//! | `check` | a list of cases, each an exchange with an exact end |
//! | `bench` | many connections at once, and what was measured |
//! | `socket` | how it connects |
//! | `amount` | bytes, times and counts for people |

pub(crate) mod amount;
mod bench;
mod check;
mod socket;
mod source;
pub mod target;

use std::io::Write;

use crate::cli::ClientCommand;
use crate::exit::Exit;

/// Runs a command of the client to its end. Prints the result: on standard output, or on standard
/// error when there is none.
pub fn run(command: ClientCommand) -> Exit {
    match command {
        ClientCommand::Check(arguments) => check::run(arguments),
        ClientCommand::Bench(arguments) => bench::run(arguments),
    }
}

/// Prints a line on standard output.
fn say(line: &str) {
    // A reader that has gone away (`| head`) is no reason to fail.
    let _ = writeln!(std::io::stdout(), "{line}");
}
