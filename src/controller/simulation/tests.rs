//! The simulations that every test run does.

use super::chaos;
use super::runner::{explain, run, run_all};

/// Number of sequences, unless `TCP_ECHO_SIMULATIONS` says another.
const SEQUENCES: u64 = 20_000;

/// So many sequences reach everything.
const ENOUGH_TO_REACH_ALL: u64 = 10_000;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// `TCP_ECHO_SIMULATION_SEED` runs one sequence alone and prints its trace if it fails.
#[test]
fn invariants_hold_whatever_happens() {
    if let Some(seed) = number("TCP_ECHO_SIMULATION_SEED") {
        println!("{}", explain(seed));
        return;
    }
    let count = number("TCP_ECHO_SIMULATIONS").unwrap_or(SEQUENCES);
    let (coverage, failures) = run_all(0, count, 1);
    if let Some((seed, _)) = failures.first() {
        panic!("{}", explain(*seed));
    }
    println!("{count} sequences have reached:\n{coverage}");
    if count >= ENOUGH_TO_REACH_ALL {
        assert_eq!(coverage.missed(), [], "the chaos is too weak");
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
