//! Traffic of every kind at once, and a ledger: visitors that come and go, transfers that last,
//! connections that keep silent. Whatever an operator does, it must not cost any of them a byte.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::bystander::{bare_ping, beside};
use crate::support::client::uninterrupted;
use crate::support::load::in_parallel;
use crate::support::pattern::{Dice, Pattern};
use crate::support::{Client, End, alongside, ms, secs};

/// Threads of quick visitors. With a pause after every visit they stay below 2000 a second.
const VISITORS: usize = 4;

/// Transfers that last: half of them steady, the others with a slow reader.
pub(crate) const TRANSFERS: usize = 4;

/// Connections that are silent all the time; every second one has never said a word.
const IDLE: usize = 30;

/// A client that was silent for nearly a second, because it did not get a processor, may have been seen
/// out like any other that is silent.
const SILENCE: Duration = ms(700);

/// No call of anybody may take longer: then something stalls.
const PATIENCE: Duration = secs(10);

/// One visit: connect, send, half-close, get everything back, get the FIN.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Visit {
    /// When it began to connect.
    pub(crate) begin: Instant,
    /// Until the FIN.
    pub(crate) took: Duration,
}

/// What the traffic has seen.
#[derive(Default)]
pub(crate) struct Ledger {
    /// Visits that went well.
    pub(crate) visits: Vec<Visit>,
    /// Transfers that were complete.
    pub(crate) transfers: usize,
    /// Silent connections that were ended in order.
    pub(crate) seen_out: usize,
    /// Everything that went wrong: refused, reset, short, wrong, stalled.
    pub(crate) losses: Vec<String>,
    /// Longest delay of a bystander's ping.
    pub(crate) bystander: Duration,
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { visits, transfers, seen_out, losses, bystander } = self;
        let (count, stall, lost) = (visits.len(), self.stall(), losses.len());
        write!(f, "{count} visits, stalls {stall:?} (bystander {bystander:?}), ")?;
        write!(f, "{transfers} transfers, ")?;
        write!(f, "{seen_out} silent ones seen out, {lost} losses: {:#?}", &losses[..lost.min(12)])
    }
}

impl Ledger {
    /// The longest visit, less what is not the daemon's fault.
    pub(crate) fn stall(&self) -> Duration {
        self.stall_of(&self.visits)
    }

    /// The longest of those visits that began at `start` or later, less what is not the daemon's
    /// fault.
    pub(crate) fn stall_since(&self, start: Instant) -> Duration {
        let later: Vec<Visit> =
            self.visits.iter().filter(|visit| visit.begin >= start).copied().collect();
        assert!(later.len() > 20, "the visits went on: {self:?}");
        self.stall_of(&later)
    }

    fn stall_of(&self, visits: &[Visit]) -> Duration {
        let longest = visits.iter().map(|visit| visit.took).max().unwrap_or_default();
        longest.saturating_sub(self.bystander)
    }

    /// Fails unless everybody got everything: 0 refused, 0 reset, 0 short.
    #[track_caller]
    pub(crate) fn assert_nothing_lost(&self) {
        println!("{self:?}");
        assert!(self.visits.len() > 100, "the load was real: {self:?}");
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

/// Runs `act` while visitors come and go, four long transfers flow, and 30 connections are silent.
pub(crate) fn under_traffic<A>(address: SocketAddr, act: impl FnOnce() -> A) -> (A, Ledger) {
    let silent = silent_connections(address);
    let traffic = |over: &AtomicBool, ledger: &Mutex<Ledger>| {
        in_parallel(VISITORS + 1 + TRANSFERS, |index| match index {
            0..VISITORS => visit_until(address, over, ledger),
            VISITORS => hesitate_until(address, over, ledger),
            _ if index % 2 == 0 => {
                transfer(ledger, "a steady transfer", || talk_until(address, over));
            }
            _ => transfer(ledger, "a slow transfer", || {
                slow_transfer(address, 24 << 20, secs(6), over)
            }),
        });
    };
    let (result, mut ledger) = amid(traffic, act);
    silent.into_iter().for_each(|client| judge_silent(client, &mut ledger));
    (result, ledger)
}

/// Runs `act` under visitors alone.
pub(crate) fn under_visits<A>(address: SocketAddr, act: impl FnOnce() -> A) -> (A, Ledger) {
    let traffic = |over: &AtomicBool, ledger: &Mutex<Ledger>| {
        in_parallel(VISITORS + 1, |index| match index {
            0..VISITORS => visit_until(address, over, ledger),
            _ => hesitate_until(address, over, ledger),
        });
    };
    amid(traffic, act)
}

/// Runs `act` during `traffic`, beside a bystander.
fn amid<A>(
    traffic: impl FnOnce(&AtomicBool, &Mutex<Ledger>) + Send,
    act: impl FnOnce() -> A,
) -> (A, Ledger) {
    let ledger = Mutex::new(Ledger::default());
    let background = |over: &AtomicBool| traffic(over, &ledger);
    let ((result, ()), bystander) =
        beside(bare_ping(), ms(5), || alongside(background, || surrounded(act)));
    let mut ledger = ledger.into_inner().unwrap_or_else(PoisonError::into_inner);
    ledger.bystander = bystander.worst();
    (result, ledger)
}

/// Lets the traffic begin before `act`, and go on a little after it.
fn surrounded<A>(act: impl FnOnce() -> A) -> A {
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

/// A silent connection may have got a FIN, nothing else.
fn judge_silent(mut client: Client, ledger: &mut Ledger) {
    match client.read_to_end(ms(1)) {
        (rest, End::Open) if rest.is_empty() => {}
        (rest, End::Fin) if rest.is_empty() => ledger.seen_out += 1,
        (rest, end) => {
            ledger.losses.push(format!("a silent connection: {} bytes, then {end:?}", rest.len()));
        }
    }
}

fn transfer<T>(ledger: &Mutex<Ledger>, what: &str, body: impl FnOnce() -> io::Result<T>) {
    let begin = Instant::now();
    let result = body().map(|_| ());
    let mut ledger = ledger.lock().unwrap_or_else(PoisonError::into_inner);
    let good = ledger.note(what, begin, result);
    ledger.transfers += usize::from(good);
}

fn visit_until(address: SocketAddr, over: &AtomicBool, ledger: &Mutex<Ledger>) {
    let mut dice = Dice::new(u64::from(address.port()));
    while !over.load(Ordering::SeqCst) {
        note_visit(ledger, "a visit", || visit(address, 1 + dice.below(8 * 1024) as usize));
        thread::sleep(ms(2));
    }
}

/// Visitors that take their time between connecting and sending, though never a second.
fn hesitate_until(address: SocketAddr, over: &AtomicBool, ledger: &Mutex<Ledger>) {
    while !over.load(Ordering::SeqCst) {
        note_visit(ledger, "a hesitant visit", || {
            let mut client = Client::try_connect(address)?;
            for length in [1, 3000] {
                let silence = Instant::now();
                thread::sleep(ms(30));
                client.try_send(length)?;
                if silence.elapsed() > SILENCE {
                    return Ok(());
                }
            }
            leave(client)
        });
    }
}

fn note_visit(ledger: &Mutex<Ledger>, what: &str, body: impl FnOnce() -> io::Result<()>) {
    let begin = Instant::now();
    let result = body();
    let took = begin.elapsed();
    let mut ledger = ledger.lock().unwrap_or_else(PoisonError::into_inner);
    if ledger.note(what, begin, result) {
        ledger.visits.push(Visit { begin, took });
    }
}

/// Connects, sends `length` bytes, half-closes, and wants all of them and then the FIN.
pub(crate) fn visit(address: SocketAddr, length: usize) -> io::Result<()> {
    let mut client = Client::try_connect(address)?;
    let silence = Instant::now();
    client.try_send(length)?;
    if silence.elapsed() > SILENCE { Ok(()) } else { leave(client) }
}

/// Half-closes, and wants everything that is owed and then the FIN.
pub(crate) fn leave(mut client: Client) -> io::Result<()> {
    client.stream().shutdown(Shutdown::Write)?;
    client.try_expect(client.outstanding())?;
    match client.read_to_end(PATIENCE) {
        (rest, End::Fin) if rest.is_empty() => Ok(()),
        (rest, end) => Err(io::Error::other(format!("{} more bytes, then {end:?}", rest.len()))),
    }
}

/// Sends 8 KiB and waits for them, every few milliseconds until told to stop; returns the bytes.
pub(crate) fn talk_until(address: SocketAddr, over: &AtomicBool) -> io::Result<u64> {
    let mut client = Client::try_connect(address)?;
    let mut total = 0;
    let mut silence = Instant::now();
    while !over.load(Ordering::SeqCst) {
        client.try_send(8192)?;
        if silence.elapsed() > SILENCE {
            return Ok(total);
        }
        client.try_expect(8192)?;
        total += 8192;
        silence = Instant::now();
        thread::sleep(ms(5));
    }
    leave(client).map(|()| total)
}

/// Sends `total` bytes as fast as they are taken, half-closes, reads evenly over `span`, or at once
/// what is left when it is told to stop, and wants all of them and then the FIN. Returns how long it
/// took.
pub(crate) fn slow_transfer(
    address: SocketAddr,
    total: usize,
    span: Duration,
    over: &AtomicBool,
) -> io::Result<Duration> {
    let begin = Instant::now();
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
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
