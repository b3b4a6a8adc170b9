//! Servers in this process that the client is tried with: honest ones that count, and wrong ones.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::support::ms;

/// What a server does with the bytes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Echoes exactly.
    Honest,
    /// Holds back what comes after 40 960 bytes for a moment, and throws it away when the client
    /// closes its sending side meanwhile.
    LosesAtHalfClose,
    /// Exchanges bytes 500 and 501.
    Swaps,
    /// Leaves out byte 500.
    Drops,
    /// Sends bytes 0 to 499 twice.
    Repeats,
    /// Echoes 100 bytes and then nothing.
    Stalls,
    /// Resets the connection after 1000 bytes.
    Resets,
    /// Puts one byte behind the last.
    Adds,
    /// Never closes.
    NeverCloses,
    /// Closes after 1000 bytes.
    ClosesEarly,
    /// Serves one connection at a time.
    OneAtATime,
    /// Once, half a second after the first connection, stands still for 200 ms.
    StandsStillOnce,
}

/// What a server has seen.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Connections accepted.
    pub(crate) connections: AtomicU64,
    /// Bytes received.
    pub(crate) bytes: AtomicU64,
    /// Where the connections came from, each once.
    pub(crate) peers: Mutex<Vec<IpAddr>>,
    /// When the first and the last bytes came.
    pub(crate) span: Mutex<Option<(Instant, Instant)>>,
    /// The first bytes of the first connection.
    pub(crate) beginning: Mutex<Vec<u8>>,
    began: Mutex<Option<Instant>>,
}

/// A server on a port of its own; it takes no further connection once it is dropped.
#[derive(Debug)]
pub(crate) struct Other {
    address: SocketAddr,
    seen: Arc<Seen>,
    over: Arc<AtomicBool>,
}

impl Other {
    /// Starts one.
    pub(crate) fn start(manner: Manner) -> Self {
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
                let serve = move || drop(serve(stream, manner, &seen));
                if manner == Manner::OneAtATime {
                    serve();
                } else {
                    thread::spawn(serve);
                }
            }
        });
        other
    }

    /// HOST:PORT, as it is typed.
    pub(crate) fn target(&self) -> String {
        self.address.to_string()
    }

    /// What it has seen.
    pub(crate) fn seen(&self) -> &Seen {
        &self.seen
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        // Wakes it; if it has gone already, all the better.
        let _ = TcpStream::connect(self.address);
    }
}

/// A port on which nobody listens.
pub(crate) fn nobody() -> String {
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

    /// Bytes received so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::SeqCst)
    }

    /// Connections accepted so far.
    pub(crate) fn connections(&self) -> u64 {
        self.connections.load(Ordering::SeqCst)
    }

    /// From the first byte to the last.
    pub(crate) fn span(&self) -> Duration {
        self.span.lock().unwrap().map_or(Duration::ZERO, |(first, last)| last - first)
    }
}

/// One connection, from its first byte to its end.
fn serve(mut stream: TcpStream, manner: Manner, seen: &Seen) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; 64 * 1024];
    let mut before = 0;
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            break;
        }
        seen.count(&buffer[..length]);
        if !answer(&mut stream, manner, before, &mut buffer[..length], seen)? {
            return Ok(());
        }
        before += length;
    }
    match manner {
        Manner::Adds => stream.write_all(b"!")?,
        // Longer than anybody waits.
        Manner::NeverCloses | Manner::Stalls => thread::sleep(Duration::from_secs(30)),
        _ => {}
    }
    Ok(())
}

/// Answers these bytes, which begin at `before`. Returns whether the connection goes on.
fn answer(
    stream: &mut TcpStream,
    manner: Manner,
    before: usize,
    got: &mut [u8],
    seen: &Seen,
) -> io::Result<bool> {
    let end = before + got.len();
    // How many of these bytes are among the first `most` of the connection.
    let among = |most: usize| most.clamp(before, end) - before;
    match manner {
        Manner::LosesAtHalfClose if end > 40_960 => {
            let (now, later) = got.split_at(among(40_960));
            stream.write_all(now)?;
            return hold_back(stream, later, seen);
        }
        Manner::Swaps if before <= 500 && end > 501 => {
            got.swap(500 - before, 501 - before);
        }
        Manner::Drops if before <= 500 && end > 500 => {
            stream.write_all(&got[..among(500)])?;
            stream.write_all(&got[among(501)..])?;
            return Ok(true);
        }
        Manner::Repeats if before == 0 && end >= 500 => stream.write_all(&got[..500])?,
        Manner::Stalls => {
            stream.write_all(&got[..among(100)])?;
            return Ok(true);
        }
        Manner::Resets if end >= 1000 => {
            SockRef::from(&*stream).set_linger(Some(Duration::ZERO))?;
            return Ok(false);
        }
        Manner::ClosesEarly if end >= 1000 => {
            stream.write_all(&got[..among(1000)])?;
            stream.shutdown(Shutdown::Write)?;
            io::copy(stream, &mut io::sink())?;
            return Ok(false);
        }
        Manner::StandsStillOnce => stand_still(seen),
        _ => {}
    }
    stream.write_all(got)?;
    Ok(true)
}

/// Waits whether the client closes its sending side: then these bytes and all others are lost.
/// Otherwise they are sent. Returns whether the connection goes on.
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

/// Between 500 and 700 ms after the first connection nothing is echoed.
fn stand_still(seen: &Seen) {
    let began = seen.began.lock().unwrap().expect("a connection has been accepted");
    let into = began.elapsed();
    if (ms(500)..ms(700)).contains(&into) {
        thread::sleep(ms(700) - into);
    }
}
