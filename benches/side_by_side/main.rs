//! The side-by-side: this server, the floor, and its peers, in turn, in one run. `benches/README.md`
//! says how to use it and what is measured.
//!
//! | module | what it is |
//! |---|---|
//! | [`words`] | what was typed |
//! | [`environment`] | the machine: limits, a network of our own, and what stands above every table |
//! | [`launch`] | processes pinned to a CPU, and none of them left behind |
//! | [`server`], [`floor`], [`peers`] | the servers |
//! | [`load`], [`hold`] | the clients: one that loads and verifies, one that keeps connections open |
//! | [`proc`] | processor time and memory of other processes |
//! | [`measure`], [`bars`], [`table`], [`svg`] | figures, judged and shown; pure |
//! | [`cases`], [`rounds`] | loads, and taking turns under them |
//! | [`memory`], [`open`], [`respawn`], [`watched`], [`latency`] | what is not a load alone |
//! | [`million`], [`limits`] | a million connections, and what the machine must allow for them |
// Cargo compiles benchmarks as tests; without a harness the tests themselves fall away. `units.rs` has
// them run.
#![cfg_attr(test, allow(unused_imports))]

mod bars;
mod cases;
mod environment;
mod floor;
mod hold;
mod latency;
mod launch;
mod limits;
mod load;
mod measure;
mod memory;
mod million;
mod open;
mod peers;
mod proc;
mod respawn;
mod rounds;
mod server;
mod svg;
mod table;
mod watched;
mod words;

use std::process::ExitCode;

use self::bars::Bar;
use self::environment::Environment;
use self::server::Contestant;
use self::words::{Mode, Wishes};

/// Words with which this program starts itself. None can be typed by mistake.
const ON: &str = ".on";
const SERVE: &str = ".serve";
const HOLD: &str = ".hold";

fn main() -> ExitCode {
    let words: Result<Vec<String>, _> =
        std::env::args_os().skip(1).map(|w| w.into_string()).collect();
    let Ok(words) = words else { return refuse("the arguments are not all text") };
    let (first, rest) = words.split_first().map_or(("", &[][..]), |(f, rest)| (f.as_str(), rest));
    let failed = match first {
        ON => launch::become_pinned(rest),
        SERVE => peers::serve(rest),
        HOLD => hold::run(rest),
        _ => return run(words),
    };
    eprintln!("failed: {failed}");
    ExitCode::FAILURE
}

fn refuse(reason: &str) -> ExitCode {
    eprintln!("side_by_side: {reason}");
    ExitCode::from(2)
}

fn run(words: Vec<String>) -> ExitCode {
    let wishes = match Wishes::new(&words) {
        Ok(wishes) => wishes,
        Err(reason) => return refuse(&reason),
    };
    if wishes.help {
        print!("{}", words::HELP);
        return ExitCode::SUCCESS;
    }
    let troubles = measure(&wishes).unwrap_or_else(|error| vec![error]);
    troubles.iter().for_each(|trouble| eprintln!("side_by_side: {trouble}"));
    if troubles.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Does what was asked for; returns what makes the run a failure.
fn measure(wishes: &Wishes) -> Result<Vec<String>, String> {
    let environment = Environment::prepare()?;
    launch::end_all_on_interrupt().map_err(|error| format!("no signal handler: {error}"))?;
    let (bars, mut troubles) = match wishes.mode {
        Mode::Million(count) => (million::run(count, &environment)?, Vec::new()),
        Mode::Short | Mode::Full | Mode::Plots => side_by_side(wishes, &environment)?,
    };
    if !bars.is_empty() {
        println!("{}", bars::report(&bars));
    }
    if wishes.strict {
        let short = bars.iter().filter(|bar| !bar.is_reached());
        troubles.extend(short.map(|bar| format!("short of a bar: {}", bar.what)));
    }
    Ok(troubles)
}

/// What everything that measures works with.
struct Bench<'a> {
    wishes: &'a Wishes,
    environment: &'a Environment,
    /// The servers in the order of their turns; ours is the first, the floor the second.
    contestants: Vec<Contestant>,
    bars: Vec<Bar>,
    /// Wrong bytes, servers that died: one line each.
    troubles: Vec<String>,
}

impl Bench<'_> {
    /// Says that a server takes no further part in a case, and why.
    fn void(&mut self, case: &str, server: &str, error: &str) {
        let line = format!("{case}: {server} is out: {error}");
        println!("void  {line}");
        self.troubles.push(line);
    }
}

/// Everything but the million: the bars, and what makes the run a failure.
fn side_by_side(
    wishes: &Wishes,
    environment: &Environment,
) -> Result<(Vec<Bar>, Vec<String>), String> {
    print!("{}", environment.describe());
    let contestants = Contestant::all(&wishes.guests);
    let (bars, troubles) = (Vec::new(), Vec::new());
    let mut bench = Bench { wishes, environment, contestants, bars, troubles };
    let (full, plots) = (wishes.mode == Mode::Full, wishes.mode == Mode::Plots);
    for case in cases::all() {
        if wishes.wants(case.name, full || (!plots && case.is_for_all())) {
            rounds::run(&mut bench, &case)?;
        }
    }
    if wishes.wants("memory", !plots) {
        memory::run(&mut bench)?;
    }
    if wishes.wants("respawn", !plots) {
        respawn::run(&mut bench)?;
    }
    if wishes.wants("watched", !plots) {
        watched::run(&mut bench);
    }
    if wishes.wants("open", true) {
        open::run(&mut bench)?;
    }
    if wishes.wants("latency", full || plots) {
        latency::run(&mut bench)?;
    }
    Ok((bench.bars, bench.troubles))
}
