//! Micro benchmarks of what a worker does all the time. `cargo bench --bench micro` runs all of them,
//! `cargo bench -- timers` those with that name.

use divan::{Bencher, black_box};
use std::time::{Duration, Instant};

use tcp_echo::event_loop::timers::{Clock, TimerRing};

/// The groups below.
const GROUPS: [&str; 1] = ["timers"];

fn main() {
    // Cargo hands every word to every benchmark: those for the side-by-side are none of ours.
    let known = |word: &String| GROUPS.iter().any(|group| word.contains(group));
    let mut words = std::env::args().skip(1).filter(|word| !word.starts_with('-')).peekable();
    if words.peek().is_none() || words.any(|word| known(&word)) {
        divan::main();
    }
}

/// The ring that holds every connection's deadline.
mod timers {
    use super::*;

    const TICK: Duration = Duration::from_millis(100);

    /// A deadline is armed among so many others.
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

    /// A tick at which so many deadlines fire.
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

    /// The next deadline, where the only one is so many ticks away.
    #[divan::bench(args = [1, 500])]
    fn next(bencher: Bencher<'_, '_>, ticks: u32) {
        let start = Instant::now();
        let mut ring = TimerRing::new();
        ring.arm(Clock::start(start).tick(start + TICK * ticks), 0);
        bencher.bench_local(|| black_box(&ring).next());
    }
}

// The connection table (insert, find, remove) and the remainder buffer (keep, send in parts, let go)
// belong here as `mod table` and `mod remainder`, with their names in GROUPS.
