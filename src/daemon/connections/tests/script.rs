//! A simulated kernel: a socket and a pipe whose answers a test decides, and the events that
//! edge-triggered epoll(7) would report.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use nix::errno::Errno;

use crate::daemon::connections::transport::{SplicePipe, Transport};
use crate::event_loop::Readiness;

/// A system call of the connection: the bytes that it moved, or its error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Receive(Result<usize, Errno>),
    Send(Result<usize, Errno>),
    SpliceFrom(Result<usize, Errno>),
    SpliceTo(Result<usize, Errno>),
    Shutdown,
    ResetOnClose,
}

/// The socket of a connection, as the kernel has it.
#[derive(Debug, Default)]
pub(super) struct Socket {
    /// Bytes from the client, the first of which the connection has received.
    input: Vec<u8>,
    received: usize,
    /// Position in the input of an urgent byte.
    urgent: Option<usize>,
    fin_received: bool,
    error: Option<Errno>,
    /// Bytes of the connection that the kernel has taken.
    pub(super) sent: Vec<u8>,
    /// Of these, bytes that the client has acknowledged; all of them if `None`.
    pub(super) acknowledged: Option<usize>,
    /// Free space of the send buffer.
    room: usize,
    /// `true` if a send or epoll_ctl(2) found no space, so that an event reports when there is some.
    pub(super) wants_room: bool,
    /// Readiness that the next event reports.
    event: Option<Readiness>,
    /// Bytes that the next calls of splice(2) move at most, one entry a call.
    pub(super) splice_limits: VecDeque<usize>,
    /// Error of the call with this number, from 0. Only a receive and a send can be interrupted: the
    /// pipe repeats its calls, and shutdown(2) does not wait.
    pub(super) fail_at: Option<(usize, Errno)>,
    pub(super) calls: Vec<Call>,
    pub(super) fin_sent: bool,
    pub(super) reset: bool,
    pub(super) closed: bool,
}

/// A connection's handle of a [`Socket`]. The test has another one.
#[derive(Debug, Default)]
pub(super) struct Wire(pub(super) Rc<RefCell<Socket>>);

impl Drop for Wire {
    fn drop(&mut self) {
        self.0.borrow_mut().closed = true;
    }
}

impl Socket {
    /// The client sends `bytes`.
    pub(super) fn client_sends(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
        self.report(Readiness { readable: true, ..Readiness::default() });
    }

    /// The client sends one urgent byte.
    pub(super) fn client_sends_urgent(&mut self, byte: u8) {
        self.urgent = Some(self.input.len());
        self.input.push(byte);
        self.report(Readiness { readable: true, read_on: true, ..Readiness::default() });
    }

    /// The client sends its FIN.
    pub(super) fn client_finishes(&mut self) {
        self.fin_received = true;
        self.report(Readiness { readable: true, read_on: true, ..Readiness::default() });
    }

    /// The client resets the connection: what it has not received is lost.
    pub(super) fn client_resets(&mut self) {
        self.error = Some(Errno::ECONNRESET);
        self.input.truncate(self.received);
        self.report(Readiness { readable: true, writable: true, read_on: true });
    }

    /// The send buffer gets space for `count` more bytes. An event reports that only if a send has
    /// found too little.
    pub(super) fn add_room(&mut self, count: usize) {
        self.room = self.room.saturating_add(count);
        if self.room > 0 && std::mem::take(&mut self.wants_room) {
            self.report(Readiness { writable: true, ..Readiness::default() });
        }
    }

    /// Discards the event, as if the batch of events had been full.
    pub(super) fn hide_event(&mut self) {
        self.event = None;
    }

    /// Takes the event that epoll_wait(2) reports.
    pub(super) fn take_event(&mut self) -> Option<Readiness> {
        self.event.take()
    }

    /// Returns `true` if there is an event to report.
    pub(super) fn has_event(&self) -> bool {
        self.event.is_some()
    }

    /// Returns `true` if the client sends no more.
    pub(super) fn is_finished(&self) -> bool {
        self.fin_received || self.closed
    }

    /// Returns the number of bytes that the connection has received.
    pub(super) fn received(&self) -> usize {
        self.received
    }

    /// Returns the number of bytes that the connection has not received.
    pub(super) fn unread(&self) -> usize {
        self.input.len() - self.received
    }

    /// Returns all that the client has sent.
    pub(super) fn input(&self) -> &[u8] {
        &self.input
    }

    fn report(&mut self, readiness: Readiness) {
        self.event.get_or_insert_default().add(readiness);
    }

    /// Fails the call if the script or a reset says so.
    fn check(&mut self, may_be_interrupted: bool) -> Result<(), Errno> {
        match self.fail_at {
            Some((_, Errno::EINTR)) if !may_be_interrupted => {}
            Some((call, errno)) if call == self.calls.len() => {
                self.fail_at = None;
                return Err(errno);
            }
            _ => {}
        }
        // The kernel reports an error once.
        self.error.take().map_or(Ok(()), Err)
    }

    /// Takes at most `most` bytes of input: none beyond an urgent byte that comes later.
    fn take_input(&mut self, most: usize) -> &[u8] {
        let begin = self.received;
        let ahead = self.urgent.filter(|&at| at > begin).map_or(usize::MAX, |at| at - begin);
        let count = most.min(self.unread()).min(ahead);
        self.received += count;
        if self.urgent.is_some_and(|at| at < self.received) {
            self.urgent = None;
        }
        &self.input[begin..begin + count]
    }

    fn receive(&mut self, buffer: &mut [u8]) -> Result<usize, Errno> {
        self.check(true)?;
        if self.unread() == 0 {
            return if self.fin_received { Ok(0) } else { Err(Errno::EAGAIN) };
        }
        let bytes = self.take_input(buffer.len());
        buffer[..bytes.len()].copy_from_slice(bytes);
        Ok(bytes.len())
    }

    fn send(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
        self.check(true)?;
        assert!(!bytes.is_empty() && !self.fin_sent, "a send that means nothing");
        let count = self.room.min(bytes.len());
        self.wants_room |= count < bytes.len();
        self.take_output(&bytes[..count])
    }

    fn splice_from(&mut self, pipe: &mut ScriptedPipe) -> Result<usize, Errno> {
        self.check(false)?;
        assert!(pipe.bytes.is_empty());
        if self.unread() == 0 && !self.fin_received {
            return Err(Errno::EAGAIN);
        }
        if self.urgent == Some(self.received) {
            return Ok(0);
        }
        let bytes = self.take_input(pipe.capacity);
        pipe.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn splice_to(&mut self, pipe: &mut ScriptedPipe) -> Result<usize, Errno> {
        self.check(false)?;
        assert!(!pipe.bytes.is_empty() && !self.fin_sent, "a splice that means nothing");
        // Only `EAGAIN` promises an event: a call that moves fewer bytes does not.
        let limit = self.splice_limits.pop_front().unwrap_or(usize::MAX).max(1);
        let count = self.room.min(pipe.bytes.len()).min(limit);
        self.wants_room |= count == 0;
        let count = self.take_output(&pipe.bytes[..count])?;
        pipe.bytes.drain(..count);
        Ok(count)
    }

    fn take_output(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
        if bytes.is_empty() {
            return Err(Errno::EAGAIN);
        }
        self.room -= bytes.len();
        self.sent.extend_from_slice(bytes);
        Ok(bytes.len())
    }
}

impl Wire {
    fn call(
        &self,
        name: impl FnOnce(Result<usize, Errno>) -> Call,
        act: impl FnOnce(&mut Socket) -> Result<usize, Errno>,
    ) -> io::Result<usize> {
        let mut socket = self.0.borrow_mut();
        let result = act(&mut socket);
        socket.calls.push(name(result));
        result.map_err(io::Error::from)
    }
}

impl Transport for Wire {
    type Pipe = ScriptedPipe;

    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.call(Call::Receive, |socket| socket.receive(buffer))
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.call(Call::Send, |socket| socket.send(bytes))
    }

    fn splice_from(&mut self, pipe: &mut ScriptedPipe) -> io::Result<usize> {
        self.call(Call::SpliceFrom, |socket| socket.splice_from(pipe))
    }

    fn splice_to(&mut self, pipe: &mut ScriptedPipe) -> io::Result<usize> {
        self.call(Call::SpliceTo, |socket| socket.splice_to(pipe))
    }

    fn unsent(&self) -> u32 {
        let socket = self.0.borrow();
        (socket.sent.len() - socket.acknowledged.unwrap_or(socket.sent.len())) as u32
    }

    fn peer(&self) -> Option<SocketAddr> {
        Some(SocketAddr::from(([192, 0, 2, 1], 1234)))
    }

    fn local(&self) -> Option<SocketAddr> {
        Some(SocketAddr::from(([192, 0, 2, 2], 8090)))
    }

    fn shutdown_write(&mut self) -> io::Result<()> {
        let call = |socket: &mut Socket| {
            socket.check(false)?;
            assert!(!socket.fin_sent, "one FIN");
            socket.fin_sent = true;
            Ok(0)
        };
        self.call(|_| Call::Shutdown, call).map(drop)
    }

    fn reset_on_close(&mut self) {
        let mut socket = self.0.borrow_mut();
        socket.reset = true;
        socket.calls.push(Call::ResetOnClose);
    }
}

/// A pipe in memory.
#[derive(Debug)]
pub(super) struct ScriptedPipe {
    bytes: Vec<u8>,
    capacity: usize,
}

thread_local! {
    static REFUSE_PIPES: Cell<bool> = const { Cell::new(false) };
}

/// Lets the system refuse pipes to this thread, or not.
pub(super) fn refuse_pipes(refuse: bool) {
    REFUSE_PIPES.set(refuse);
}

impl SplicePipe for ScriptedPipe {
    fn open(capacity: usize) -> io::Result<Self> {
        if REFUSE_PIPES.get() {
            return Err(Errno::EMFILE.into());
        }
        Ok(Self { bytes: Vec::new(), capacity })
    }

    fn len(&self) -> usize {
        self.bytes.len()
    }
}
