//! One send to a client, and what its result means.

use std::io::{self, Write};
use std::net::TcpStream;

use crate::stats::Reason;

/// One send: how much the kernel took. Clears `writable` when it would take no more.
pub(super) fn send(
    stream: &mut TcpStream,
    bytes: &[u8],
    writable: &mut bool,
) -> Result<usize, Reason> {
    if bytes.is_empty() {
        return Ok(0);
    }
    let sent = taken(stream.write(bytes), writable)?;
    *writable &= sent == bytes.len();
    Ok(sent)
}

/// What the result of sending means. That less went than was there says only of a send that there is
/// no more room (and that an event will tell when there is): splice(2) stops short for other reasons.
pub(super) fn taken(result: io::Result<usize>, writable: &mut bool) -> Result<usize, Reason> {
    match result {
        Ok(count) => Ok(count),
        Err(error) => match error.kind() {
            io::ErrorKind::WouldBlock => {
                *writable = false;
                Ok(0)
            }
            // Nothing was sent; the next turn tries again.
            io::ErrorKind::Interrupted => Ok(0),
            _ => Err(Reason::ClientReset),
        },
    }
}
