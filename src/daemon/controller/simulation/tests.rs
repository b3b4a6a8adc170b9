//! The simulations of a test run.

use super::chaos;
use super::runner::{explain, run, run_all};

/// Default of `TCP_ECHO_SIMULATIONS`, the number of sequences.
const SEQUENCES: u64 = 20_000;

/// Number of sequences that reach every point.
const ENOUGH_TO_REACH_ALL: u64 = 10_000;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// `TCP_ECHO_SIMULATION_SEED` runs one sequence alone and prints its trace if it fails;
/// `TCP_ECHO_SIMULATION_FIRST` is the first seed of several.
#[test]
fn invariants_hold_under_random_events() {
    if let Some(seed) = number("TCP_ECHO_SIMULATION_SEED") {
        println!("{}", explain(seed));
        return;
    }
    let count = number("TCP_ECHO_SIMULATIONS").unwrap_or(SEQUENCES);
    let first = number("TCP_ECHO_SIMULATION_FIRST").unwrap_or(0);
    let (coverage, failures) = run_all(first, count, 1);
    if let Some((seed, _)) = failures.first() {
        panic!("{}", explain(*seed));
    }
    println!("{count} sequences have reached:\n{coverage}");
    if count >= ENOUGH_TO_REACH_ALL {
        assert_eq!(coverage.missed(), [], "random events do not reach every point");
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..20 {
        let (setup, events) = chaos::sequence(seed);
        let [one, other] = [(); 2].map(|()| run(&setup, &events, seed, true));
        assert_eq!(one.trace, other.trace, "seed {seed}");
        assert!(one.trace.len() > 10 && one.coverage == other.coverage);
    }
}
