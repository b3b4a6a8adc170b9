//! Verifying client: compares every received byte with the byte sent.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::pattern::{PERIOD, Pattern};
use super::{ms, proc, secs, try_for};

/// Time limit of each read and write.
const IO_TIMEOUT: Duration = secs(10);

/// End of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The server sent a FIN.
    Fin,
    /// The server reset the connection.
    Reset,
    /// No end within the time limit.
    Open,
}

/// Connection with its pattern and the positions sent and received.
#[derive(Debug)]
pub(crate) struct Client {
    stream: TcpStream,
    pattern: Pattern,
    sent: u64,
    received: u64,
}

/// Returns `true` if the peer reset the connection.
pub(crate) fn is_reset(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}

/// Returns `true` if the error is a timeout.
pub(crate) fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// read(2) or write(2), again when a signal interrupts it: with a timeout on the socket the kernel
/// does not start them again by itself, and the end of any process of this suite is a signal.
pub(crate) fn uninterrupted(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

impl Client {
    /// Connects; fails the test on an error.
    #[track_caller]
    pub(crate) fn connect(address: SocketAddr) -> Self {
        match Self::try_connect(address) {
            Ok(client) => client,
            Err(error) => panic!("cannot connect to {address}: {error}"),
        }
    }

    /// Connects.
    pub(crate) fn try_connect(address: SocketAddr) -> io::Result<Self> {
        Self::over(TcpStream::connect_timeout(&address, IO_TIMEOUT)?)
    }

    /// Uses a connected socket.
    pub(crate) fn over(stream: TcpStream) -> io::Result<Self> {
        static SEED: AtomicU64 = AtomicU64::new(1);
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(IO_TIMEOUT))?;
        stream.set_write_timeout(Some(IO_TIMEOUT))?;
        let pattern = Pattern::new(SEED.fetch_add(1, Ordering::Relaxed));
        Ok(Self { stream, pattern, sent: 0, received: 0 })
    }

    /// Returns the socket.
    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Sends the next `length` bytes of the pattern.
    #[track_caller]
    pub(crate) fn send(&mut self, length: usize) {
        self.try_send(length).unwrap_or_else(|error| panic!("cannot send: {error}"));
    }

    /// Sends the next `length` bytes of the pattern; returns an error if the connection fails.
    pub(crate) fn try_send(&mut self, length: usize) -> io::Result<()> {
        let mut left = length;
        while left > 0 {
            let take = left.min(PERIOD);
            self.stream.write_all(self.pattern.bytes(self.sent, take))?;
            self.sent += take as u64;
            left -= take;
        }
        Ok(())
    }

    /// Sends the next byte of the pattern as urgent data (MSG_OOB).
    pub(crate) fn send_urgent_byte(&mut self) {
        let byte = self.pattern.bytes(self.sent, 1);
        let sent = SockRef::from(&self.stream).send_out_of_band(byte);
        assert_eq!(sent.expect("urgent data can be sent"), 1);
        self.sent += 1;
    }

    /// Writes without reading until the server accepts nothing for `calm` or `most` bytes are sent.
    /// Returns the number of bytes sent.
    pub(crate) fn send_until_stalled(&mut self, calm: Duration, most: usize) -> usize {
        self.stream.set_write_timeout(Some(calm)).expect("a timeout can be set");
        let before = self.sent;
        while ((self.sent - before) as usize) < most {
            let next = self.pattern.bytes(self.sent, 64 * 1024);
            match uninterrupted(|| self.stream.write(next)) {
                Ok(length) => self.sent += length as u64,
                Err(error) if is_timeout(&error) => break,
                Err(error) => panic!("the server does not close on a stalled client: {error}"),
            }
        }
        self.stream.set_write_timeout(Some(IO_TIMEOUT)).expect("a timeout can be set");
        (self.sent - before) as usize
    }

    /// Receives and verifies the next `length` bytes.
    #[track_caller]
    pub(crate) fn expect(&mut self, length: usize) {
        self.try_expect(length).unwrap_or_else(|error| panic!("no echo: {error}"));
    }

    /// Receives and verifies the next `length` bytes; an early end or a wrong byte is an error.
    pub(crate) fn try_expect(&mut self, length: usize) -> io::Result<()> {
        let mut chunk = vec![0; length.min(256 * 1024)];
        let mut left = length;
        while left > 0 {
            let most = left.min(chunk.len());
            let got = uninterrupted(|| self.stream.read(&mut chunk[..most]))?;
            if got == 0 {
                let text = format!("closed with {left} bytes missing");
                return Err(io::Error::new(ErrorKind::UnexpectedEof, text));
            }
            self.verify(&chunk[..got]).map_err(io::Error::other)?;
            left -= got;
        }
        Ok(())
    }

    /// Counts and verifies bytes that were received by other means.
    pub(crate) fn verify(&mut self, got: &[u8]) -> Result<(), String> {
        self.pattern.check(self.received, got)?;
        self.received += got.len() as u64;
        Ok(())
    }

    /// Sends `length` bytes, receives them, and returns the duration.
    #[track_caller]
    pub(crate) fn echo(&mut self, length: usize) -> Duration {
        let begin = Instant::now();
        self.send(length);
        self.expect(length);
        begin.elapsed()
    }

    /// Returns `true` if the server's end of the connection has a keepalive timer. Looks for 300 ms,
    /// because a retransmission timer hides it.
    pub(crate) fn has_keepalive(&self) -> bool {
        let port = self.stream.local_addr().expect("it is connected").port();
        let ours = |one: &proc::Socket| one.remote.port() == port && one.keepalive;
        try_for(ms(300), || proc::sockets().iter().any(ours).then_some(())).is_some()
    }

    /// Returns the number of bytes sent and not yet received.
    pub(crate) fn outstanding(&self) -> usize {
        (self.sent - self.received) as usize
    }

    /// Sends a FIN.
    pub(crate) fn half_close(&self) {
        self.stream.shutdown(Shutdown::Write).expect("the connection is open");
    }

    /// Half-closes, and expects the outstanding bytes and then the FIN.
    #[track_caller]
    pub(crate) fn finish(mut self) {
        self.half_close();
        self.expect(self.outstanding());
        self.expect_fin();
    }

    /// Expects a FIN and no further byte.
    #[track_caller]
    pub(crate) fn expect_fin(&mut self) {
        assert_eq!(self.end_within(IO_TIMEOUT), End::Fin, "how the server closes");
        let error = self.stream.take_error().expect("a socket tells its error");
        assert!(error.is_none(), "no error stands behind the FIN: {error:?}");
    }

    /// Waits for the end of the connection; a byte fails the test.
    #[track_caller]
    pub(crate) fn end_within(&mut self, limit: Duration) -> End {
        let (rest, end) = self.read_to_end(limit);
        assert!(rest.is_empty(), "{} bytes instead of the end: {end:?}", rest.len());
        end
    }

    /// Returns the bytes that arrive within `limit`, unverified, and the end of the connection.
    pub(crate) fn read_to_end(&mut self, limit: Duration) -> (Vec<u8>, End) {
        let deadline = Instant::now() + limit;
        let mut all = Vec::new();
        let mut chunk = vec![0; 64 * 1024];
        let end = loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break End::Open;
            }
            self.stream.set_read_timeout(Some(left)).expect("a timeout can be set");
            match uninterrupted(|| self.stream.read(&mut chunk)) {
                Ok(0) => break End::Fin,
                Ok(length) => all.extend_from_slice(&chunk[..length]),
                Err(error) if is_timeout(&error) => break End::Open,
                Err(error) if is_reset(&error) => break End::Reset,
                Err(error) => panic!("neither data nor an end: {error}"),
            }
        };
        self.stream.set_read_timeout(Some(IO_TIMEOUT)).expect("a timeout can be set");
        (all, end)
    }

    /// Closes the connection by RST.
    pub(crate) fn reset(self) {
        let linger = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
        linger.expect("linger can be set");
    }
}
