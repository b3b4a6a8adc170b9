//! Runs of many simulations, and the reduction of a failing one.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::chaos::{self, Chaos};
use super::coverage::Coverage;
use super::random::Random;
use super::setup::Setup;
use super::world::World;

/// Result of a simulation.
pub(super) struct Outcome {
    pub(super) failure: Option<(&'static str, String)>,
    pub(super) coverage: Coverage,
    pub(super) trace: Vec<String>,
}

/// Runs a sequence of events.
pub(super) fn run(setup: &Setup, events: &[Chaos], seed: u64, traced: bool) -> Outcome {
    let mut world = World::new(setup.clone(), seed, traced);
    world.log(|| format!("{setup:?}"));
    let ended = catch_unwind(AssertUnwindSafe(|| {
        for event in events {
            world.happen(event);
            if world.failure.is_some() || world.exited.is_some() {
                return;
            }
        }
        world.random = Random::new(seed);
        world.recover();
        if world.failure.is_none() && world.exited.is_none() && world.random.chance(50) {
            world.end();
        }
    }));
    if ended.is_err() {
        world.fail("nothing panics", || "see above".into());
    }
    let World { failure, coverage, trace, .. } = world;
    Outcome { failure, coverage, trace: trace.unwrap_or_default() }
}

/// Removes events and shortens pauses while `invariant` still fails, and returns the remaining
/// events.
pub(super) fn shrink(setup: &Setup, events: Vec<Chaos>, seed: u64, invariant: &str) -> Vec<Chaos> {
    let fails = |events: &[Chaos]| {
        run(setup, events, seed, false).failure.is_some_and(|(name, _)| name == invariant)
    };
    let mut events = events;
    let mut chunk = events.len().div_ceil(2);
    while chunk > 0 {
        let mut at = 0;
        let mut progress = false;
        while at < events.len() {
            let end = (at + chunk).min(events.len());
            let rest = [&events[..at], &events[end..]].concat();
            if fails(&rest) {
                (events, progress) = (rest, true);
            } else {
                at = end;
            }
        }
        if !(chunk == 1 && progress) {
            chunk /= 2;
        }
    }
    for index in 0..events.len() {
        let pause = events[index].pause;
        for shorter in [Duration::ZERO, pause / 10, pause / 2] {
            events[index].pause = shorter;
            if fails(&events) {
                break;
            }
            events[index].pause = pause;
        }
    }
    events
}

/// Returns the reduced sequence of a failing seed with its trace.
pub(crate) fn explain(seed: u64) -> String {
    let (setup, events) = chaos::sequence(seed);
    let Some((invariant, detail)) = run(&setup, &events, seed, false).failure else {
        return format!("seed {seed} does not fail");
    };
    let shrunk = shrink(&setup, events.clone(), seed, invariant);
    let outcome = run(&setup, &shrunk, seed, true);
    format!(
        "seed {seed}, {} events: {invariant}: {detail}\nshrunk to {} events:\n{}\n{:?}",
        events.len(),
        shrunk.len(),
        outcome.trace.join("\n"),
        outcome.failure,
    )
}

/// Runs the sequences of many seeds on all processors until `most` have failed. Returns the
/// coverage, and the failed seeds with the violated invariants.
pub(crate) fn run_all(first: u64, count: u64, most: usize) -> (Coverage, Vec<(u64, String)>) {
    let next = AtomicU64::new(first);
    let enough = AtomicBool::new(false);
    let all = Mutex::new((Coverage::default(), Vec::new()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut coverage = Coverage::default();
                while !enough.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count {
                        break;
                    }
                    let (setup, events) = chaos::sequence(seed);
                    let outcome = run(&setup, &events, seed, false);
                    coverage.add(&outcome.coverage);
                    if let Some((invariant, detail)) = outcome.failure {
                        let mut all = all.lock().expect("no panic");
                        all.1.push((seed, format!("{invariant}: {detail}")));
                        enough.store(all.1.len() >= most, Ordering::Relaxed);
                    }
                }
                all.lock().expect("no panic").0.add(&coverage);
            });
        }
    });
    let (coverage, mut failures) = all.into_inner().expect("no panic");
    failures.sort_unstable();
    (coverage, failures)
}
