//! The side-by-side: tcp-echo, the floor, and its peers take turns in one run. `benches/README.md`
//! describes its use and method.
//!
//! | module | contents |
//! |---|---|
//! | [`options`] | command line |
//! | [`bench`] | state of a run |
//! | [`environment`] | the machine: limits, network namespace, and the header of the output |
//! | [`launch`] | child processes, pinned to a CPU and killed with the parent |
//! | [`server`], [`floor`], [`peers`] | the servers |
//! | [`load`], [`idle`] | the clients: `tcp-echo bench`, and one that keeps connections open |
//! | [`proc`] | CPU time and memory of other processes |
//! | [`measure`], [`bars`], [`table`], [`svg`] | figures, their judgment and output; pure |
//! | [`cases`], [`rounds`] | the loads, and the turns of the servers |
//! | [`memory`], [`open`], [`respawn`], [`watched`], [`latency`] | other measurements |
//! | [`million`], [`limits`] | a million connections, and the limits of the machine |
// Cargo compiles benchmarks as tests, but without a harness their tests are unused. `units.rs` runs them.
#![cfg_attr(test, allow(unused_imports))]

mod bars;
mod bench;
mod cases;
mod environment;
mod floor;
mod idle;
mod latency;
mod launch;
mod limits;
mod load;
mod measure;
mod memory;
mod million;
mod open;
mod options;
mod peers;
mod proc;
mod respawn;
mod rounds;
mod server;
mod svg;
mod table;
mod watched;

use std::process::ExitCode;

use self::bars::Bar;
use self::bench::Bench;
use self::environment::Environment;
use self::options::{Mode, Options};
use self::server::Contestant;

fn main() -> ExitCode {
    let words: Result<Vec<String>, _> =
        std::env::args_os().skip(1).map(|word| word.into_string()).collect();
    let Ok(words) = words else {
        eprintln!("side_by_side: the arguments are not UTF-8");
        return ExitCode::from(2);
    };
    let error = match words.split_first() {
        Some((first, rest)) if first == launch::PINNED => launch::become_pinned(rest),
        Some((first, rest)) if first == peers::SERVE => peers::serve(rest),
        Some((first, rest)) if first == idle::COMMAND => idle::run(rest),
        _ => return run(&words),
    };
    eprintln!("failed: {error}");
    ExitCode::FAILURE
}

fn run(words: &[String]) -> ExitCode {
    let options = Options::parse_words(words).unwrap_or_else(|error| error.exit());
    let failures = measure(&options).unwrap_or_else(|error| vec![error]);
    failures.iter().for_each(|failure| eprintln!("side_by_side: {failure}"));
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs the selected measurements and returns what makes the run a failure.
fn measure(options: &Options) -> Result<Vec<String>, String> {
    let environment = Environment::prepare()?;
    launch::kill_all_on_interrupt(limits::restore)
        .map_err(|error| format!("cannot handle signals: {error}"))?;
    let (bars, mut failures) = match options.mode() {
        Mode::Million(count) => (million::run(count, &environment)?, Vec::new()),
        Mode::Short | Mode::Full | Mode::Plots => side_by_side(options, &environment)?,
    };
    if !bars.is_empty() {
        println!("{}", bars::report(&bars));
    }
    if options.strict {
        let missed = bars.iter().filter(|bar| !bar.is_reached());
        failures.extend(missed.map(|bar| format!("bar not reached: {}", bar.what)));
    }
    Ok(failures)
}

/// Runs everything but the million. Returns the bars, and what makes the run a failure.
fn side_by_side(
    options: &Options,
    environment: &Environment,
) -> Result<(Vec<Bar>, Vec<String>), String> {
    print!("{}", environment.describe());
    let contestants = Contestant::all(&options.guests);
    let (bars, failures) = (Vec::new(), Vec::new());
    let mut bench = Bench { options, environment, contestants, bars, failures };
    let (full, plots) = (options.mode() == Mode::Full, options.mode() == Mode::Plots);
    for case in cases::all() {
        if options.wants(case.name, full || (!plots && case.is_for_all())) {
            rounds::run(&mut bench, &case)?;
        }
    }
    if options.wants("memory", !plots) {
        memory::run(&mut bench)?;
    }
    if options.wants("respawn", !plots) {
        respawn::run(&mut bench)?;
    }
    if options.wants("watched", !plots) {
        watched::run(&mut bench);
    }
    if options.wants("open", true) {
        open::run(&mut bench)?;
    }
    if options.wants("latency", full || plots) {
        latency::run(&mut bench)?;
    }
    Ok((bench.bars, bench.failures))
}
