//! Baseline measurement: a task that resembles the tested one, runs at the same time, and does not use
//! the daemon.
//!
//! The delay of the baseline over its own best time shows how busy the machine is. A test subtracts this
//! delay from the daemon's time before it compares that with an absolute bound. On a quiet machine the
//! delay is close to zero, and the bound applies unchanged.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use super::with_background;

/// Delays of the baseline's runs over its fastest run, in ascending order.
#[derive(Clone, Debug)]
pub(crate) struct Delays(Vec<Duration>);

impl Delays {
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort();
        let best = times.first().copied().unwrap_or_default();
        Self(times.into_iter().map(|time| time - best).collect())
    }

    /// Returns the longest delay.
    pub(crate) fn worst(&self) -> Duration {
        self.0.last().copied().unwrap_or_default()
    }

    /// Returns the median delay.
    pub(crate) fn median(&self) -> Duration {
        self.0.get(self.0.len() / 2).copied().unwrap_or_default()
    }
}

/// Runs `act` and meanwhile repeats `task`, with a `pause` between runs; returns the delays of `task`.
pub(crate) fn with_baseline<A>(
    mut task: impl FnMut() + Send,
    pause: Duration,
    act: impl FnOnce() -> A,
) -> (A, Delays) {
    let (result, times) = with_background(
        |over| {
            let mut times = Vec::new();
            while times.len() < 3 || !over.load(Ordering::SeqCst) {
                let begin = Instant::now();
                task();
                times.push(begin.elapsed());
                thread::sleep(pause);
            }
            times
        },
        act,
    );
    (result, Delays::of(times))
}

/// Returns a task that sends 64 bytes to an echo thread of this process and receives them.
pub(crate) fn bare_ping() -> impl FnMut() + Send {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    // The thread ends with the connection.
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("it can accept");
        let mut bytes = [0; 64];
        while stream.read_exact(&mut bytes).and_then(|()| stream.write_all(&bytes)).is_ok() {}
    });
    let mut stream = connect(address);
    move || {
        stream.write_all(&[7; 64]).expect("the thread echoes");
        stream.read_exact(&mut [0; 64]).expect("the thread echoes");
    }
}

/// Returns a task that starts `true` and waits for its end.
pub(crate) fn bare_process() -> impl FnMut() + Send {
    || {
        let mut command = Command::new("true");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        assert!(command.status().expect("there is `true`").success());
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("it listens");
    stream.set_nodelay(true).expect("it is a TCP socket");
    stream
}

/// Longest round trips to the daemon, and the baseline's longest delay during the same time.
#[derive(Clone, Debug)]
pub(crate) struct Pings {
    /// Longest round trip.
    pub(crate) worst: Duration,
    /// Longest round trip minus the time that client and worker waited for a processor during it.
    pub(crate) own: Duration,
    /// Longest delay of the baseline.
    pub(crate) baseline: Duration,
}

impl Pings {
    /// Returns the part of the longest round trip that the daemon is responsible for.
    pub(crate) fn excess(&self) -> Duration {
        self.own.saturating_sub(self.baseline)
    }
}
