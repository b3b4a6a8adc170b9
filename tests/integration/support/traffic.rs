//! Mixed traffic during operations: short exchanges, long transfers, and silent connections, with
//! statistics that must show no loss.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::baseline::{bare_ping, with_baseline};
use crate::support::client::uninterrupted;
use crate::support::load::in_parallel;
use crate::support::pattern::{Pattern, Random};
use crate::support::{Client, End, ms, secs, with_background};

/// Threads that repeat short exchanges. The pause after each keeps them below 2000 per second.
const EXCHANGE_THREADS: usize = 4;

/// Long transfers: half of them steady, the others with a slow reader.
pub(crate) const TRANSFERS: usize = 4;

/// Silent connections; every second one never sends a byte.
const IDLE: usize = 30;

/// Longest silence after which a client still expects service. A draining worker may close a connection
/// that was silent for a second, so a client that waited long for a processor gives up without a failure.
const MAX_SILENCE: Duration = ms(700);

/// Time limit of each read, write, and connect.
const IO_TIMEOUT: Duration = secs(10);

/// Timing of one exchange: connect, send, half-close, receive everything, receive the FIN.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Exchange {
    /// Time of the connection attempt.
    pub(crate) begin: Instant,
    /// Duration until the FIN.
    pub(crate) took: Duration,
}

/// Results of the traffic.
#[derive(Default)]
pub(crate) struct TrafficStats {
    /// Exchanges without an error.
    pub(crate) exchanges: Vec<Exchange>,
    /// Complete transfers.
    pub(crate) transfers: usize,
    /// Silent connections that received a FIN.
    pub(crate) closed: usize,
    /// Failures: refused, reset, short, wrong, stalled.
    pub(crate) losses: Vec<String>,
    /// Longest delay of the baseline's ping.
    pub(crate) baseline: Duration,
}

impl fmt::Debug for TrafficStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { exchanges, transfers, closed, losses, baseline } = self;
        let (count, worst, lost) = (exchanges.len(), self.worst_latency(), losses.len());
        write!(f, "{count} exchanges, worst {worst:?} (baseline {baseline:?}), ")?;
        write!(f, "{transfers} transfers, ")?;
        write!(
            f,
            "{closed} silent connections closed, {lost} losses: {:#?}",
            &losses[..lost.min(12)]
        )
    }
}

impl TrafficStats {
    /// Returns the duration of the longest exchange minus the delay of the baseline.
    pub(crate) fn worst_latency(&self) -> Duration {
        self.worst_of(&self.exchanges)
    }

    /// Returns the duration of the longest exchange that began at `start` or later, minus the delay of
    /// the baseline.
    pub(crate) fn worst_latency_since(&self, start: Instant) -> Duration {
        let later: Vec<Exchange> =
            self.exchanges.iter().filter(|exchange| exchange.begin >= start).copied().collect();
        assert!(later.len() > 20, "the exchanges went on: {self:?}");
        self.worst_of(&later)
    }

    fn worst_of(&self, exchanges: &[Exchange]) -> Duration {
        let longest = exchanges.iter().map(|exchange| exchange.took).max().unwrap_or_default();
        longest.saturating_sub(self.baseline)
    }

    /// Fails if any connection was refused, reset, or short.
    #[track_caller]
    pub(crate) fn assert_nothing_lost(&self) {
        println!("{self:?}");
        assert!(self.exchanges.len() > 100, "the load was real: {self:?}");
        assert!(self.losses.is_empty(), "nothing is lost: {self:?}");
    }

    fn note(&mut self, what: &str, begin: Instant, result: io::Result<()>) -> bool {
        let took = begin.elapsed();
        let text = |error| format!("{what}, {took:.3?} after its begin: {error}");
        let error = result.map_err(text).err();
        let good = error.is_none();
        self.losses.extend(error);
        good
    }
}

/// Runs `act` during short exchanges, four long transfers, and 30 silent connections.
pub(crate) fn under_traffic<A>(address: SocketAddr, act: impl FnOnce() -> A) -> (A, TrafficStats) {
    let silent = silent_connections(address);
    let background = |over: &AtomicBool, traffic: &Mutex<TrafficStats>| {
        in_parallel(EXCHANGE_THREADS + 1 + TRANSFERS, |index| match index {
            0..EXCHANGE_THREADS => exchange_until(address, over, traffic),
            EXCHANGE_THREADS => slow_exchange_until(address, over, traffic),
            _ if index % 2 == 0 => {
                transfer(traffic, "a steady transfer", || steady_transfer(address, over));
            }
            _ => transfer(traffic, "a slow transfer", || {
                slow_transfer(address, 24 << 20, secs(6), over)
            }),
        });
    };
    let (result, mut traffic) = with_traffic(background, act);
    silent.into_iter().for_each(|client| check_silent(client, &mut traffic));
    (result, traffic)
}

/// Runs `act` during short exchanges.
pub(crate) fn under_short_exchanges<A>(
    address: SocketAddr,
    act: impl FnOnce() -> A,
) -> (A, TrafficStats) {
    let background = |over: &AtomicBool, traffic: &Mutex<TrafficStats>| {
        in_parallel(EXCHANGE_THREADS + 1, |index| match index {
            0..EXCHANGE_THREADS => exchange_until(address, over, traffic),
            _ => slow_exchange_until(address, over, traffic),
        });
    };
    with_traffic(background, act)
}

/// Runs `act` during `background`, and measures the baseline.
fn with_traffic<A>(
    background: impl FnOnce(&AtomicBool, &Mutex<TrafficStats>) + Send,
    act: impl FnOnce() -> A,
) -> (A, TrafficStats) {
    let traffic = Mutex::new(TrafficStats::default());
    let background = |over: &AtomicBool| background(over, &traffic);
    let ((result, ()), baseline) = with_baseline(bare_ping(), ms(5), || {
        with_background(background, || with_lead_and_tail(act))
    });
    let mut traffic = traffic.into_inner().unwrap_or_else(PoisonError::into_inner);
    traffic.baseline = baseline.worst();
    (result, traffic)
}

/// Lets the traffic begin before `act` and continue after it.
fn with_lead_and_tail<A>(act: impl FnOnce() -> A) -> A {
    thread::sleep(ms(100));
    let result = act();
    thread::sleep(ms(200));
    result
}

fn silent_connections(address: SocketAddr) -> Vec<Client> {
    let connect = |index| {
        let mut client = Client::connect(address);
        if index % 2 == 0 {
            client.echo(100);
        }
        client
    };
    (0..IDLE).map(connect).collect()
}

/// Counts a failure unless the silent connection is open or has received a FIN.
fn check_silent(mut client: Client, traffic: &mut TrafficStats) {
    match client.read_to_end(ms(1)) {
        (rest, End::Open) if rest.is_empty() => {}
        (rest, End::Fin) if rest.is_empty() => traffic.closed += 1,
        (rest, end) => {
            traffic.losses.push(format!("a silent connection: {} bytes, then {end:?}", rest.len()));
        }
    }
}

fn transfer<T>(traffic: &Mutex<TrafficStats>, what: &str, body: impl FnOnce() -> io::Result<T>) {
    let begin = Instant::now();
    let result = body().map(|_| ());
    let mut traffic = traffic.lock().unwrap_or_else(PoisonError::into_inner);
    let good = traffic.note(what, begin, result);
    traffic.transfers += usize::from(good);
}

fn exchange_until(address: SocketAddr, over: &AtomicBool, traffic: &Mutex<TrafficStats>) {
    let mut random = Random::new(u64::from(address.port()));
    while !over.load(Ordering::SeqCst) {
        record_exchange(traffic, "a short exchange", || {
            short_exchange(address, 1 + random.below(8 * 1024) as usize)
        });
        thread::sleep(ms(2));
    }
}

/// Repeats exchanges that pause between connecting and sending, for less than a second.
fn slow_exchange_until(address: SocketAddr, over: &AtomicBool, traffic: &Mutex<TrafficStats>) {
    while !over.load(Ordering::SeqCst) {
        record_exchange(traffic, "an exchange with pauses", || {
            let mut client = Client::try_connect(address)?;
            for length in [1, 3000] {
                let silence = Instant::now();
                thread::sleep(ms(30));
                client.try_send(length)?;
                if silence.elapsed() > MAX_SILENCE {
                    return Ok(());
                }
            }
            finish(client)
        });
    }
}

fn record_exchange(
    traffic: &Mutex<TrafficStats>,
    what: &str,
    body: impl FnOnce() -> io::Result<()>,
) {
    let begin = Instant::now();
    let result = body();
    let took = begin.elapsed();
    let mut traffic = traffic.lock().unwrap_or_else(PoisonError::into_inner);
    if traffic.note(what, begin, result) {
        traffic.exchanges.push(Exchange { begin, took });
    }
}

/// Connects, sends `length` bytes, half-closes, and expects all bytes back and then the FIN.
pub(crate) fn short_exchange(address: SocketAddr, length: usize) -> io::Result<()> {
    let mut client = Client::try_connect(address)?;
    let silence = Instant::now();
    client.try_send(length)?;
    if silence.elapsed() > MAX_SILENCE { Ok(()) } else { finish(client) }
}

/// Half-closes, and expects all outstanding bytes and then the FIN.
pub(crate) fn finish(mut client: Client) -> io::Result<()> {
    client.stream().shutdown(Shutdown::Write)?;
    client.try_expect(client.outstanding())?;
    match client.read_to_end(IO_TIMEOUT) {
        (rest, End::Fin) if rest.is_empty() => Ok(()),
        (rest, end) => Err(io::Error::other(format!("{} more bytes, then {end:?}", rest.len()))),
    }
}

/// Echoes 8 KiB every few milliseconds until `over`; returns the bytes.
pub(crate) fn steady_transfer(address: SocketAddr, over: &AtomicBool) -> io::Result<u64> {
    let mut client = Client::try_connect(address)?;
    let mut total = 0;
    let mut silence = Instant::now();
    while !over.load(Ordering::SeqCst) {
        client.try_send(8192)?;
        if silence.elapsed() > MAX_SILENCE {
            return Ok(total);
        }
        client.try_expect(8192)?;
        total += 8192;
        silence = Instant::now();
        thread::sleep(ms(5));
    }
    finish(client).map(|()| total)
}

/// Sends `total` bytes at full speed, half-closes, reads evenly over `span` (after `over`, at full speed),
/// and expects all bytes back and then the FIN. Returns the duration.
pub(crate) fn slow_transfer(
    address: SocketAddr,
    total: usize,
    span: Duration,
    over: &AtomicBool,
) -> io::Result<Duration> {
    let begin = Instant::now();
    let stream = TcpStream::connect_timeout(&address, IO_TIMEOUT)?;
    stream.set_read_timeout(Some(IO_TIMEOUT))?;
    stream.set_write_timeout(Some(IO_TIMEOUT))?;
    let pattern = Pattern::new(u64::from(stream.local_addr()?.port()));
    let (mut writer, mut reader) = (&stream, &stream);
    thread::scope(|scope| {
        let sender = scope.spawn(move || {
            writer.write_all(&pattern.start(total))?;
            writer.shutdown(Shutdown::Write)
        });
        let mut chunk = vec![0; 128 * 1024];
        let mut received = 0;
        loop {
            let length = uninterrupted(|| reader.read(&mut chunk))?;
            if length == 0 {
                break;
            }
            pattern.check(received as u64, &chunk[..length]).map_err(io::Error::other)?;
            received += length;
            let due = begin + span.mul_f64(received as f64 / total as f64);
            while Instant::now() < due && !over.load(Ordering::SeqCst) {
                thread::sleep(ms(5));
            }
        }
        if received < total {
            return Err(io::Error::other(format!("short: {received} of {total} bytes")));
        }
        let sent = sender.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        sent.map(|()| begin.elapsed())
    })
}
