//! Edge-triggered readiness of a stream socket.

use mio::event::Event;

/// Readiness of a stream socket that is registered edge-triggered.
///
/// An event sets the flags; they stay set until a system call shows that the socket is not ready any
/// more, because the kernel reports a state only when it changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// `true` if a receive may return data, the end of file, or an error.
    pub readable: bool,
    /// `true` if a send may succeed or return an error.
    pub writable: bool,
    /// `true` if more than data may follow: the end of file, an error, or an urgent byte. No further
    /// event announces it, so a receive has to follow even a receive that left the buffer partly empty.
    pub read_on: bool,
}

impl Readiness {
    /// Readiness of a socket that may be read and written, whatever events have reported.
    pub const UNKNOWN: Self = Self { readable: true, writable: true, read_on: false };

    /// Adds the readiness that another event has reported.
    pub fn add(&mut self, other: Self) {
        self.readable |= other.readable;
        self.writable |= other.writable;
        self.read_on |= other.read_on;
    }

    /// Notes that a receive has returned `count` bytes into a buffer of `capacity` bytes.
    pub fn received(&mut self, count: usize, capacity: usize) {
        // A partly filled buffer means that the socket is empty (epoll(7), question 9).
        self.readable = count == capacity || count == 0 || self.read_on;
    }

    /// Notes that a receive would have blocked.
    pub fn receive_blocked(&mut self) {
        self.readable = false;
        self.read_on = false;
    }

    /// Notes that a send has taken `count` of `length` bytes: fewer means that the socket buffer is full.
    pub fn sent(&mut self, count: usize, length: usize) {
        self.writable &= count == length;
    }

    /// Notes that a send would have blocked.
    pub fn send_blocked(&mut self) {
        self.writable = false;
    }
}

impl From<&Event> for Readiness {
    /// The readiness that `event` reports. An error is pending for both directions.
    fn from(event: &Event) -> Self {
        let failed = event.is_error();
        let closed = event.is_read_closed();
        let urgent = event.is_priority();
        Self {
            readable: event.is_readable() || closed || urgent || failed,
            writable: event.is_writable() || failed,
            read_on: closed || urgent || failed,
        }
    }
}
