//! Load: exchanges, streams, pings, and connecting clients in background threads.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use super::baseline::{Pings, bare_ping, with_baseline};
use super::client::{Client, is_reset, uninterrupted};
use super::flow::flow;
use super::pattern::{PERIOD, Pattern, Random};
use super::server::Server;
use super::{ms, proc};

/// How an exchange is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Writes {
    /// One call for everything.
    AtOnce,
    /// Pieces of many sizes.
    Ragged,
}

/// How an exchange is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reads {
    /// At full speed.
    Eager,
    /// After 200 ms, in small reads with pauses.
    Slow,
    /// Through a receive buffer of a few KiB.
    TinyBuffer,
}

/// Sends `total` bytes, half-closes, and expects all bytes back and then the FIN.
pub(crate) fn exchange(address: SocketAddr, total: usize, writes: Writes, reads: Reads) {
    let mut client = match reads {
        Reads::TinyBuffer => Client::over(connect_with_tiny_buffer(address, total).into()).unwrap(),
        Reads::Eager | Reads::Slow => Client::connect(address),
    };
    let pattern = Pattern::new(total as u64);
    let writer = client.stream().try_clone().expect("a socket can be duplicated");
    let data = pattern.start(total);
    thread::scope(|scope| {
        scope.spawn(move || {
            write_all(&writer, &data, writes);
            writer.shutdown(Shutdown::Write).expect("the server has not reset the connection");
        });
        read_all(&client, pattern, total, reads);
    });
    client.expect_fin();
}

fn write_all(mut stream: &std::net::TcpStream, data: &[u8], writes: Writes) {
    let mut random = Random::new(data.len() as u64);
    let mut rest = data;
    while !rest.is_empty() {
        let take = match writes {
            Writes::AtOnce => rest.len(),
            // Mostly small, now and then larger than any buffer.
            Writes::Ragged => {
                let most = 1 << (4 + random.below(16));
                1 + random.below(most) as usize
            }
        };
        let (now, later) = rest.split_at(take.min(rest.len()));
        stream.write_all(now).expect("the server takes everything");
        rest = later;
    }
}

fn read_all(client: &Client, pattern: Pattern, total: usize, reads: Reads) {
    let mut stream = client.stream();
    // A slow reader reads in 200 steps, independent of the total.
    let step = if reads == Reads::Slow { total / 200 + 1 } else { 256 * 1024 };
    let mut chunk = vec![0; step];
    let mut received = 0;
    if reads == Reads::Slow {
        thread::sleep(ms(200));
    }
    while received < total {
        let length = uninterrupted(|| stream.read(&mut chunk)).expect("the echo continues");
        assert!(length > 0, "closed after {received} of {total} bytes");
        pattern.check(received as u64, &chunk[..length]).unwrap();
        received += length;
        if reads == Reads::Slow {
            thread::sleep(ms(3));
        }
    }
    assert_eq!(received, total, "not a byte more");
}

/// Connects with a receive buffer that was small before the first window announcement. With the minimum
/// (2304 bytes) the kernel sometimes sends one small segment every 200 ms, independent of the server, so
/// the buffer is a little larger.
fn connect_with_tiny_buffer(address: SocketAddr, total: usize) -> Socket {
    let bytes = if total > 16 << 20 { 16 * 1024 } else { 2048 };
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP));
    let socket = socket.expect("a socket");
    socket.set_recv_buffer_size(bytes).expect("a receive buffer can be set");
    socket.connect(&address.into()).expect("the server accepts");
    socket
}

/// Runs `background` in a thread while `act` runs. The flag becomes `true` when `act` returns or panics.
pub(crate) fn with_background<A, B: Send>(
    background: impl FnOnce(&AtomicBool) -> B + Send,
    act: impl FnOnce() -> A,
) -> (A, B) {
    struct Raise<'a>(&'a AtomicBool);
    impl Drop for Raise<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let raise = Raise(&over);
        let thread = scope.spawn(|| background(&over));
        let result = act();
        drop(raise);
        match thread.join() {
            Ok(seen) => (result, seen),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Runs `count` copies of `body` in parallel threads and collects what they return.
pub(crate) fn in_parallel<T: Send>(count: usize, body: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let body = &body;
    thread::scope(|scope| {
        let spawn = |index| scope.spawn(move || body(index));
        let threads: Vec<_> = (0..count).map(spawn).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, T>| match thread.join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        threads.into_iter().map(join).collect()
    })
}

/// Results of the connecting load.
#[derive(Debug, Default)]
pub(crate) struct LoadStats {
    /// Connections that received their full echo.
    pub(crate) served: usize,
    /// Established connections that were reset or closed early.
    pub(crate) broken: usize,
    /// TestServer failures: refused, timed out, wrong bytes.
    pub(crate) failures: Vec<String>,
    /// The longest time from connect to the last byte.
    pub(crate) slowest: Duration,
}

impl LoadStats {
    /// Fails unless every connection was served.
    #[track_caller]
    pub(crate) fn assert_all_served(&self) {
        assert!(self.served > 0, "the load was real: {self:?}");
        assert_eq!((self.broken, self.failures.len()), (0, 0), "{self:?}");
    }
}

/// Runs `act` while four threads connect, echo and close, at most some thousand times a second.
pub(crate) fn under_connecting_load<A>(
    address: SocketAddr,
    act: impl FnOnce() -> A,
) -> (A, LoadStats) {
    let load = Mutex::new(LoadStats::default());
    let background = |over: &AtomicBool| {
        in_parallel(4, |_| {
            while !over.load(Ordering::SeqCst) {
                connect_and_count(address, &load);
                // Keeps the machine from running out of ephemeral ports.
                thread::sleep(ms(1));
            }
        });
    };
    let (result, ()) = with_background(background, act);
    (result, load.into_inner().expect("no client panics"))
}

/// Connects, echoes 100 bytes, closes, and counts the result.
pub(crate) fn connect_and_count(address: SocketAddr, load: &Mutex<LoadStats>) {
    let begin = Instant::now();
    let connected = Client::try_connect(address);
    let refused = connected.is_err();
    let result = connected.and_then(|mut client| {
        client.try_send(100)?;
        client.try_expect(100)
    });
    let took = begin.elapsed();
    let mut load = load.lock().expect("no client panics");
    match result {
        Ok(()) => load.served += 1,
        Err(error) if refused => load.failures.push(format!("connect: {error}")),
        Err(error) if is_reset(&error) || error.kind() == ErrorKind::UnexpectedEof => {
            load.broken += 1;
        }
        Err(error) => load.failures.push(format!("after {took:?}: {error}")),
    }
    load.slowest = load.slowest.max(took);
}

/// Streams and verifies at full speed in both directions until `over`; returns the bytes received.
pub(crate) fn stream_until(address: SocketAddr, over: &AtomicBool) -> u64 {
    let client = Client::connect(address);
    let pattern = Pattern::new(u64::from(client.stream().local_addr().unwrap().port()));
    let (mut writer, mut reader) = (client.stream(), client.stream());
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut sent = 0;
            while !over.load(Ordering::SeqCst) {
                let data = pattern.bytes(sent, 64 * 1024);
                sent += flow(writer, || writer.write(data)) as u64;
            }
            writer.shutdown(Shutdown::Write).expect("the connection is open");
        });
        let mut chunk = vec![0; PERIOD.min(256 * 1024)];
        let mut received = 0;
        loop {
            let length = flow(reader, || reader.read(&mut chunk));
            if length == 0 {
                return received;
            }
            pattern.check(received, &chunk[..length]).unwrap();
            received += length as u64;
        }
    })
}

/// Echoes 64 bytes every `pause` for `span` on one connection, and measures the baseline.
#[track_caller]
pub(crate) fn ping(server: &Server, span: Duration, pause: Duration) -> Pings {
    let mut client = server.connect();
    let worker = server.worker_of(&client);
    // The scheduler favors the baseline, which mostly sleeps, over a busy worker: waiting for a
    // processor is subtracted separately.
    let waited = || proc::waiting_time(worker) + proc::own_waiting_time();
    let ((worst, own), baseline) = with_baseline(bare_ping(), pause, || {
        let end = Instant::now() + span;
        let (mut worst, mut own) = (Duration::ZERO, Duration::ZERO);
        while Instant::now() < end {
            let before = waited();
            let took = client.echo(64);
            worst = worst.max(took);
            own = own.max(took.saturating_sub(waited().saturating_sub(before)));
            thread::sleep(pause);
        }
        (worst, own)
    });
    client.finish();
    Pings { worst, own, baseline: baseline.worst() }
}
