//! A bystander: somebody who has nothing to do with the daemon and does the like at the same time. By
//! what the bystander takes longer than it can, the machine is busy; that much is taken off what the
//! daemon has taken before it is compared with a bound in absolute time. On a quiet machine it is next to
//! nothing, and the bounds are what they say.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use super::alongside;

/// By how much each of a bystander's deeds took longer than the quickest one, in order of size.
#[derive(Clone, Debug)]
pub(crate) struct Lateness(Vec<Duration>);

impl Lateness {
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort();
        let best = times.first().copied().unwrap_or_default();
        Self(times.into_iter().map(|time| time - best).collect())
    }

    /// The greatest one.
    pub(crate) fn worst(&self) -> Duration {
        self.0.last().copied().unwrap_or_default()
    }

    /// The one in the middle.
    pub(crate) fn median(&self) -> Duration {
        self.0.get(self.0.len() / 2).copied().unwrap_or_default()
    }
}

/// Runs `act` while a bystander does `deed` again and again, with a `pause` in between.
pub(crate) fn beside<A>(
    mut deed: impl FnMut() + Send,
    pause: Duration,
    act: impl FnOnce() -> A,
) -> (A, Lateness) {
    let (result, times) = alongside(
        |over| {
            let mut times = Vec::new();
            while times.len() < 3 || !over.load(Ordering::SeqCst) {
                let begin = Instant::now();
                deed();
                times.push(begin.elapsed());
                thread::sleep(pause);
            }
            times
        },
        act,
    );
    (result, Lateness::of(times))
}

/// A round trip of 64 bytes to a thread of this process that echoes: a ping without a daemon.
pub(crate) fn bare_ping() -> impl FnMut() + Send {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    // It ends with the connection.
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

/// The life of a process that does nothing, from fork to end.
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

/// The longest round trips to the daemon, and what a bystander says of the machine meanwhile.
#[derive(Clone, Debug)]
pub(crate) struct Pings {
    /// The longest of all; for messages only.
    #[allow(dead_code, reason = "shown when a test fails")]
    pub(crate) worst: Duration,
    /// The longest, each less the time for which client and worker waited for a processor.
    pub(crate) own: Duration,
    /// By how much the bystander's longest was too long.
    pub(crate) bystander: Duration,
}

impl Pings {
    /// The longest round trip, less what is not the daemon's doing.
    pub(crate) fn excess(&self) -> Duration {
        self.own.saturating_sub(self.bystander)
    }
}
