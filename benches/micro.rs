//! Micro benchmarks of frequent operations of a worker. `cargo bench --bench micro` runs all of them,
//! `cargo bench -- timers` those with this name.

use divan::{Bencher, black_box};
use std::time::{Duration, Instant};

use tcp_echo::event_loop::timers::{Clock, TimerRing};

/// Names of the groups below.
const GROUPS: [&str; 2] = ["timers", "table"];

fn main() {
    // Cargo passes every word to every benchmark, including those for the side-by-side.
    let known = |word: &String| GROUPS.iter().any(|group| word.contains(group));
    let mut words = std::env::args().skip(1).filter(|word| !word.starts_with('-')).peekable();
    if words.peek().is_none() || words.any(|word| known(&word)) {
        divan::main();
    }
}

/// The timer ring, which holds the deadline of every connection.
mod timers {
    use super::*;

    const TICK: Duration = Duration::from_millis(100);

    /// Arms a deadline among `others`.
    #[divan::bench(args = [0, 1_000, 100_000])]
    fn arm(bencher: Bencher<'_, '_>, others: usize) {
        let start = Instant::now();
        let clock = Clock::start(start);
        let at = |n: usize| clock.tick(start + Duration::from_millis(100 + n as u64 * 37 % 50_000));
        bencher
            .counter(100_usize)
            .with_inputs(|| {
                let mut ring = TimerRing::new();
                for n in 0..others {
                    ring.arm(at(n), n);
                }
                ring
            })
            .bench_local_values(|mut ring| {
                for n in 0..100 {
                    black_box(ring.arm(at(n), n));
                }
                ring
            });
    }

    /// Advances to a tick at which `entries` deadlines fire.
    #[divan::bench(args = [1, 100, 10_000])]
    fn fire(bencher: Bencher<'_, '_>, entries: usize) {
        let start = Instant::now();
        let clock = Clock::start(start);
        let (soon, later) = (clock.tick(start + 5 * TICK), clock.tick(start + 6 * TICK));
        bencher
            .counter(entries)
            .with_inputs(|| {
                let mut ring = TimerRing::new();
                for n in 0..entries {
                    ring.arm(soon, n);
                }
                (ring, Vec::with_capacity(entries))
            })
            .bench_local_values(|(mut ring, mut due)| {
                ring.advance(later, &mut due);
                (ring, due)
            });
    }

    /// Finds the only deadline, `ticks` away.
    #[divan::bench(args = [1, 500])]
    fn next(bencher: Bencher<'_, '_>, ticks: u32) {
        let start = Instant::now();
        let mut ring = TimerRing::new();
        ring.arm(Clock::start(start).tick(start + TICK * ticks), 0);
        bencher.bench_local(|| black_box(&ring).next());
    }
}

/// The table of connections with real sockets, so the time includes the kernel.
mod table {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use mio::{Events, Poll};
    use tcp_echo::cli::Cli;
    use tcp_echo::config::Config;
    use tcp_echo::daemon::connections::Connections;
    use tcp_echo::daemon::services::Echo;
    use tcp_echo::daemon::stats::Statistics;

    use super::*;

    /// Echoes a message. The long one does not fit into the socket buffer and needs a write buffer.
    #[divan::bench(args = [64, 16_384, 1_048_576])]
    fn echo(bencher: Bencher<'_, '_>, size: usize) {
        let cli = Cli::parse_from(vec!["--splice=off".into()], |_| None).expect("valid");
        let config = Config::load(&cli.layers).expect("valid");
        let mut statistics = Statistics::new().expect("memory");
        let block = statistics.allocate().expect("a block");
        let clock = Clock::start(Instant::now());
        let mut poll = Poll::new().expect("epoll");
        let mut connections =
            Connections::new(0, &config.connection, Echo, statistics.block(block), None);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let mut client = TcpStream::connect(listener.local_addr().expect("bound")).expect("client");
        let (server, _) = listener.accept().expect("accept");
        for socket in [&client, &server] {
            socket.set_nonblocking(true).expect("non-blocking");
            socket.set_nodelay(true).expect("no delay");
        }
        let server = mio::net::TcpStream::from_std(server);
        connections.insert(poll.registry(), server, clock.tick(Instant::now())).expect("epoll");
        let (message, mut echo) = (vec![7; size], vec![0; size]);
        let mut events = Events::with_capacity(16);
        bencher.counter(divan::counter::BytesCount::new(size)).bench_local(|| {
            let (mut sent, mut back) = (0, 0);
            while back < size {
                sent += client.write(&message[sent..]).unwrap_or(0);
                poll.poll(&mut events, Some(Duration::ZERO)).expect("poll");
                events.iter().for_each(|event| connections.mark(event));
                connections.work(clock.tick(Instant::now()));
                back += client.read(&mut echo[back..]).unwrap_or(0);
            }
        });
    }
}
