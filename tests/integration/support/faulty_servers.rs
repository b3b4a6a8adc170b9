//! Echo servers for tests of the client tools: correct ones that count, and faulty ones.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::ms;

/// Behavior of a server toward a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Behavior {
    /// Echoes exactly.
    Honest,
    /// Holds back what comes after 40 960 bytes for a moment, and throws it away when the client
    /// closes its sending side meanwhile.
    LosesAtHalfClose,
    /// Swaps bytes 500 and 501.
    Swaps,
    /// Drops byte 500.
    Drops,
    /// Sends bytes 0 to 499 twice.
    Repeats,
    /// Echoes 100 bytes and then nothing.
    Stalls,
    /// Resets the connection after 1000 bytes.
    Resets,
    /// Sends one byte after the last.
    Adds,
    /// Never closes.
    NeverCloses,
    /// Closes after 1000 bytes.
    ClosesEarly,
    /// Serves one connection at a time.
    OneAtATime,
    /// Pauses once for 200 ms, half a second after the first connection.
    PausesOnce,
}

/// Counters of a server.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Connections accepted.
    pub(crate) connections: AtomicU64,
    /// Bytes received.
    pub(crate) bytes: AtomicU64,
    /// Source addresses, each once.
    pub(crate) peers: Mutex<Vec<IpAddr>>,
    /// Times of the first and the last received bytes.
    pub(crate) span: Mutex<Option<(Instant, Instant)>>,
    /// First bytes of the first connection.
    pub(crate) beginning: Mutex<Vec<u8>>,
    began: Mutex<Option<Instant>>,
}

/// Server on a free port; dropping it stops accepting.
#[derive(Debug)]
pub(crate) struct TestServer {
    address: SocketAddr,
    seen: Arc<Seen>,
    over: Arc<AtomicBool>,
}

impl TestServer {
    /// Starts a server with this behavior.
    pub(crate) fn start(behavior: Behavior) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (seen, over) = (Arc::new(Seen::default()), Arc::new(AtomicBool::new(false)));
        let other = Self { address, seen: seen.clone(), over: over.clone() };
        thread::spawn(move || {
            for stream in listener.incoming() {
                if over.load(Ordering::SeqCst) {
                    break;
                }
                let stream = stream.expect("it can accept");
                seen.note(&stream);
                let seen = seen.clone();
                // A client may end a connection as it likes.
                let serve = move || drop(serve(stream, behavior, &seen));
                if behavior == Behavior::OneAtATime {
                    serve();
                } else {
                    thread::spawn(serve);
                }
            }
        });
        other
    }

    /// Returns HOST:PORT.
    pub(crate) fn target(&self) -> String {
        self.address.to_string()
    }

    /// Returns the counters.
    pub(crate) fn seen(&self) -> &Seen {
        &self.seen
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        // Wakes the accepting thread. An error means that it has ended already.
        let _ = TcpStream::connect(self.address);
    }
}

/// Returns HOST:PORT of a port without a listener.
pub(crate) fn closed_port() -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("it is bound").to_string()
}

impl Seen {
    fn note(&self, stream: &TcpStream) {
        self.connections.fetch_add(1, Ordering::SeqCst);
        self.began.lock().unwrap().get_or_insert_with(Instant::now);
        let mut peers = self.peers.lock().unwrap();
        if let Some(peer) = stream.peer_addr().ok().filter(|peer| !peers.contains(&peer.ip())) {
            peers.push(peer.ip());
        }
    }

    fn count(&self, got: &[u8]) {
        self.bytes.fetch_add(got.len() as u64, Ordering::SeqCst);
        let now = Instant::now();
        self.span.lock().unwrap().get_or_insert((now, now)).1 = now;
        let mut beginning = self.beginning.lock().unwrap();
        let room = 64_usize.saturating_sub(beginning.len()).min(got.len());
        beginning.extend_from_slice(&got[..room]);
    }

    /// Returns the number of bytes received.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::SeqCst)
    }

    /// Returns the number of connections accepted.
    pub(crate) fn connections(&self) -> u64 {
        self.connections.load(Ordering::SeqCst)
    }

    /// Returns the time from the first to the last received byte.
    pub(crate) fn span(&self) -> Duration {
        self.span.lock().unwrap().map_or(Duration::ZERO, |(first, last)| last - first)
    }
}

/// Serves one connection.
fn serve(mut stream: TcpStream, behavior: Behavior, seen: &Seen) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; 64 * 1024];
    let mut before = 0;
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            break;
        }
        seen.count(&buffer[..length]);
        if !answer(&mut stream, behavior, before, &mut buffer[..length], seen)? {
            return Ok(());
        }
        before += length;
    }
    match behavior {
        Behavior::Adds => stream.write_all(b"!")?,
        // Longer than the timeout of any client.
        Behavior::NeverCloses | Behavior::Stalls => thread::sleep(Duration::from_secs(30)),
        _ => {}
    }
    Ok(())
}

/// Answers these bytes, which begin at `before`. Returns `true` if the connection continues.
fn answer(
    stream: &mut TcpStream,
    behavior: Behavior,
    before: usize,
    got: &mut [u8],
    seen: &Seen,
) -> io::Result<bool> {
    let end = before + got.len();
    // The number of these bytes among the first `most` of the connection.
    let among = |most: usize| most.clamp(before, end) - before;
    match behavior {
        Behavior::LosesAtHalfClose if end > 40_960 => {
            let (now, later) = got.split_at(among(40_960));
            stream.write_all(now)?;
            return hold_back(stream, later, seen);
        }
        Behavior::Swaps if before <= 500 && end > 501 => {
            got.swap(500 - before, 501 - before);
        }
        Behavior::Drops if before <= 500 && end > 500 => {
            stream.write_all(&got[..among(500)])?;
            stream.write_all(&got[among(501)..])?;
            return Ok(true);
        }
        Behavior::Repeats if before == 0 && end >= 500 => stream.write_all(&got[..500])?,
        Behavior::Stalls => {
            stream.write_all(&got[..among(100)])?;
            return Ok(true);
        }
        Behavior::Resets if end >= 1000 => {
            SockRef::from(&*stream).set_linger(Some(Duration::ZERO))?;
            return Ok(false);
        }
        Behavior::ClosesEarly if end >= 1000 => {
            stream.write_all(&got[..among(1000)])?;
            stream.shutdown(Shutdown::Write)?;
            io::copy(stream, &mut io::sink())?;
            return Ok(false);
        }
        Behavior::PausesOnce => pause_once(seen),
        _ => {}
    }
    stream.write_all(got)?;
    Ok(true)
}

/// Waits for the client to close its sending side: if it does, these and all later bytes are dropped,
/// otherwise they are sent. Returns `true` if the connection continues.
fn hold_back(stream: &mut TcpStream, bytes: &[u8], seen: &Seen) -> io::Result<bool> {
    let mut held = bytes.to_vec();
    let mut more = vec![0; 64 * 1024];
    stream.set_read_timeout(Some(ms(50)))?;
    loop {
        match stream.read(&mut more) {
            Ok(0) => return Ok(false),
            Ok(length) => {
                seen.count(&more[..length]);
                held.extend_from_slice(&more[..length]);
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                break;
            }
            Err(error) => return Err(error),
        }
    }
    stream.set_read_timeout(None)?;
    stream.write_all(&held)?;
    Ok(true)
}

/// Waits while the time is between 500 and 700 ms after the first connection.
fn pause_once(seen: &Seen) {
    let began = seen.began.lock().unwrap().expect("a connection has been accepted");
    let into = began.elapsed();
    if (ms(500)..ms(700)).contains(&into) {
        thread::sleep(ms(700) - into);
    }
}
