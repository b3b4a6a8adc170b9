//! Rounds of turns, A B C A B C, so that a change of the machine affects all servers.

use std::collections::BTreeMap;

use crate::bars::{FLOOR, OURS};
use crate::bench::Bench;
use crate::cases::{Case, MANY};
use crate::load::Load;
use crate::measure::{Metric, Sample};
use crate::server::{Contestant, Server};
use crate::table::{Table, figure};

/// Options that busy-poll for longer than an echo takes, in microseconds.
const BUSY_POLL: [&str; 2] = ["--busy-poll", "200"];
/// Length of an uncounted first turn in seconds.
const WARM_UP: f64 = 0.25;

/// Turns of each server, in the order of the contestants.
pub(crate) type Turns = Vec<(String, Vec<Sample>)>;

/// Runs a case, and adds its table and bars.
pub(crate) fn run(bench: &mut Bench<'_>, case: &Case) -> Result<(), String> {
    let seconds = bench.options.seconds(case.seconds);
    let load = Load { connections: case.connections, traffic: case.traffic, seconds, rate: None };
    let options: &[&str] = if case.busy_poll { &BUSY_POLL } else { &[] };
    let takes_part = |one: &&Contestant| case.connections <= MANY || !one.is_threads();
    let contestants = bench.contestants.iter().filter(takes_part);
    let contestants: Vec<Contestant> = contestants.map(|one| one.with(options)).collect();
    let rounds = bench.options.rounds;
    println!("\n{}: {} ({rounds} rounds of {seconds} s, medians)", case.name, case.title);
    let turns = take(bench, case.name, &contestants, |_| load);
    print!("{}", table(case.columns, &turns).text());
    bench.bars.extend(case.bars.iter().filter_map(|bar| bar.judge(case.name, &turns)));
    Ok(())
}

/// Starts servers and measures their turns, each under its load. A server that fails is excluded.
pub(crate) fn take(
    bench: &mut Bench<'_>,
    case: &str,
    contestants: &[Contestant],
    load: impl Fn(usize) -> Load,
) -> Turns {
    let mut servers: BTreeMap<usize, Server> = BTreeMap::new();
    for (index, contestant) in contestants.iter().enumerate() {
        match contestant.start(Some(bench.environment.server_cpu)) {
            Ok(server) => drop(servers.insert(index, server)),
            Err(error) => bench.exclude(case, &contestant.name, &error),
        }
    }
    turns(bench, case, &mut servers, load)
}

/// Measures the turns of running servers, which are keyed by their index among the contestants.
pub(crate) fn turns(
    bench: &mut Bench<'_>,
    case: &str,
    servers: &mut BTreeMap<usize, Server>,
    load: impl Fn(usize) -> Load,
) -> Turns {
    let mut samples: BTreeMap<usize, Vec<Sample>> = BTreeMap::new();
    for round in 0..=bench.options.rounds {
        let mut failed = Vec::new();
        for (&index, server) in servers.iter_mut() {
            let mut load = load(index);
            if round == 0 {
                load.seconds = WARM_UP;
            }
            match load.run(server, bench.environment) {
                Ok(_) if round == 0 => {}
                Ok(sample) => samples.entry(index).or_default().push(sample),
                Err(error) => failed.push((index, server.name.clone(), error)),
            }
        }
        for (index, name, error) in failed {
            bench.exclude(case, &name, &error);
            servers.remove(&index);
            samples.remove(&index);
        }
    }
    let name = |index: &usize| servers[index].name.clone();
    samples.iter().map(|(index, samples)| (name(index), samples.clone())).collect()
}

/// Returns the medians, and the ratios of the first figure to those of the floor and of tcp-echo.
fn table(columns: &[Metric], turns: &Turns) -> Table {
    let mut head = vec!["server".to_owned()];
    for (index, metric) in columns.iter().enumerate() {
        head.push(metric.head().to_owned());
        if index == 0 {
            head.push("× floor".to_owned());
            head.push("× ours".to_owned());
        }
    }
    let of = |name: &str| turns.iter().find(|(other, _)| other == name).map(|(_, turns)| turns);
    let ratio = |metric: Metric, samples: &[Sample], name: &str| {
        figure(of(name).map_or(f64::NAN, |base| metric.ratio(samples, base)))
    };
    let mut table = Table::new(head);
    for (name, samples) in turns {
        let mut row = vec![name.clone()];
        for (index, &metric) in columns.iter().enumerate() {
            row.push(figure(metric.median(samples)));
            if index == 0 {
                row.push(ratio(metric, samples, FLOOR));
                row.push(ratio(metric, samples, OURS));
            }
        }
        table.row(row);
    }
    table
}
