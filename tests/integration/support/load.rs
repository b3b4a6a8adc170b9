//! Clients in numbers: whole exchanges, streams, pings, and a crowd that keeps connecting.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use super::bystander::{Pings, bare_ping, beside};
use super::client::{Client, is_reset, uninterrupted};
use super::pattern::{Dice, PERIOD, Pattern};
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
    /// As fast as it comes.
    Eager,
    /// Begins late, takes little at a time, and rests in between.
    Slow,
    /// Through a receive buffer of a few KiB.
    TinyBuffer,
}

/// Sends `total` bytes, half-closes right behind the last one, and wants all of them back and then
/// the FIN.
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
    let mut dice = Dice::new(data.len() as u64);
    let mut rest = data;
    while !rest.is_empty() {
        let take = match writes {
            Writes::AtOnce => rest.len(),
            // Mostly small, now and then larger than any buffer.
            Writes::Ragged => {
                let most = 1 << (4 + dice.below(16));
                1 + dice.below(most) as usize
            }
        };
        let (now, later) = rest.split_at(take.min(rest.len()));
        stream.write_all(now).expect("the server takes everything");
        rest = later;
    }
}

fn read_all(client: &Client, pattern: Pattern, total: usize, reads: Reads) {
    let mut stream = client.stream();
    // A slow reader takes two hundred bites, whatever the size of the meal.
    let bite = if reads == Reads::Slow { total / 200 + 1 } else { 256 * 1024 };
    let mut chunk = vec![0; bite];
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

/// A connection whose receive buffer was tiny before the window was first announced. Not the very
/// tiniest (2304 bytes): with that the kernel now and then falls into sending one scrap every 200 ms,
/// whatever the server does.
fn connect_with_tiny_buffer(address: SocketAddr, total: usize) -> Socket {
    let bytes = if total > 16 << 20 { 16 * 1024 } else { 2048 };
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP));
    let socket = socket.expect("a socket");
    socket.set_recv_buffer_size(bytes).expect("a receive buffer can be set");
    socket.connect(&address.into()).expect("the server accepts");
    socket
}

/// Runs `background` in a thread until `act` is done; it is told so by the flag, also when `act`
/// fails.
pub(crate) fn alongside<A, B: Send>(
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

/// What a connecting crowd has seen.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Connections that were echoed in full and closed in order.
    pub(crate) served: usize,
    /// Connections that broke off after they had been established.
    pub(crate) broken: usize,
    /// Everything else: refused, timed out, wrong bytes.
    pub(crate) failures: Vec<String>,
    /// The longest time from connect to the last byte.
    pub(crate) slowest: Duration,
}

impl Tally {
    /// Fails unless every single connection was served.
    #[track_caller]
    pub(crate) fn assert_unnoticed(&self) {
        assert!(self.served > 0, "the load was real: {self:?}");
        assert_eq!((self.broken, self.failures.len()), (0, 0), "{self:?}");
    }
}

/// Runs `act` while four threads connect, echo and close, at most some thousand times a second.
pub(crate) fn under_connecting_load<A>(address: SocketAddr, act: impl FnOnce() -> A) -> (A, Tally) {
    let tally = Mutex::new(Tally::default());
    let background = |over: &AtomicBool| {
        in_parallel(4, |_| {
            while !over.load(Ordering::SeqCst) {
                one_visit(address, &tally);
                // Keeps the machine's supply of ports from running dry.
                thread::sleep(ms(1));
            }
        });
    };
    let (result, ()) = alongside(background, act);
    (result, tally.into_inner().expect("no client panics"))
}

/// Connects, has 100 bytes echoed, closes, and writes down how it went.
pub(crate) fn one_visit(address: SocketAddr, tally: &Mutex<Tally>) {
    let begin = Instant::now();
    let connected = Client::try_connect(address);
    let refused = connected.is_err();
    let result = connected.and_then(|mut client| {
        client.try_send(100)?;
        client.try_expect(100)
    });
    let took = begin.elapsed();
    let mut tally = tally.lock().expect("no client panics");
    match result {
        Ok(()) => tally.served += 1,
        Err(error) if refused => tally.failures.push(format!("connect: {error}")),
        Err(error) if is_reset(&error) || error.kind() == ErrorKind::UnexpectedEof => {
            tally.broken += 1;
        }
        Err(error) => tally.failures.push(format!("after {took:?}: {error}")),
    }
    tally.slowest = tally.slowest.max(took);
}

/// Streams at full speed in both directions until told to stop, verifying; returns the bytes.
pub(crate) fn stream_until(address: SocketAddr, over: &AtomicBool) -> u64 {
    let client = Client::connect(address);
    let pattern = Pattern::new(u64::from(client.stream().local_addr().unwrap().port()));
    let (mut writer, mut reader) = (client.stream(), client.stream());
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut sent = 0;
            while !over.load(Ordering::SeqCst) {
                let data = pattern.bytes(sent, 64 * 1024);
                writer.write_all(data).expect("the stream flows");
                sent += data.len() as u64;
            }
            writer.shutdown(Shutdown::Write).expect("the connection is open");
        });
        let mut chunk = vec![0; PERIOD.min(256 * 1024)];
        let mut received = 0;
        loop {
            let length = uninterrupted(|| reader.read(&mut chunk)).expect("the stream flows");
            if length == 0 {
                return received;
            }
            pattern.check(received, &chunk[..length]).unwrap();
            received += length as u64;
        }
    })
}

/// Echoes 64 bytes every `pause` for `span` on one connection, beside a bystander that does the same
/// without the daemon.
#[track_caller]
pub(crate) fn ping(server: &Server, span: Duration, pause: Duration) -> Pings {
    let mut client = server.connect();
    let worker = server.worker_of(&client);
    // The scheduler favors the bystander, which mostly sleeps, over a busy worker.
    let waited = || proc::waiting_time(worker) + proc::own_waiting_time();
    let ((worst, own), bystander) = beside(bare_ping(), pause, || {
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
    Pings { worst, own, bystander: bystander.worst() }
}
