//! Latency against load. In an open loop, messages are due at fixed times, so the latency includes the
//! delay of a server that falls behind.

use crate::bench::Bench;
use crate::cases::Traffic;
use crate::load::Load;
use crate::measure::Metric;
use crate::rounds::{self, Turns};
use crate::svg::{self, Figure, Line, Panel, Scale};
use crate::table::{Table, figure, grouped};

const CONNECTIONS: u32 = 50;
const SECONDS: f64 = 0.6;
/// Loads, as parts of the rate of tcp-echo in a closed loop.
const PARTS: [f64; 8] = [0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7];
const PERCENTILES: [(Metric, &str); 3] =
    [(Metric::P50, "p50"), (Metric::P99, "p99"), (Metric::P999, "p99.9")];

/// Measures the latencies, and writes the plot.
pub(crate) fn run(bench: &mut Bench<'_>) -> Result<(), String> {
    let seconds = bench.options.seconds(SECONDS);
    let traffic = Traffic::Messages(64);
    let closed = Load { connections: CONNECTIONS, traffic, seconds, rate: None };
    let ours = bench.contestants[..1].to_vec();
    let turns = rounds::take(bench, "latency", &ours, |_| closed);
    let Some((_, samples)) = turns.first() else { return Ok(()) };
    let capacity = Metric::Echoes.median(samples);
    println!(
        "\nlatency: 64 B × {CONNECTIONS} connections at given rates ({} rounds of {seconds} s, \
         medians, µs); {} echoes/s in a closed loop",
        bench.options.rounds,
        figure(capacity),
    );
    let contestants = bench.contestants.clone();
    let mut levels = Vec::new();
    for part in PARTS {
        let rate = Some(capacity * part / f64::from(CONNECTIONS));
        let turns = rounds::take(bench, "latency", &contestants, |_| Load { rate, ..closed });
        levels.push((capacity * part, turns));
    }
    print!("{}", table(&levels).text());
    plot(&levels)
}

fn table(levels: &[(f64, Turns)]) -> Table {
    let heads = PERCENTILES.map(|(_, name)| name.to_owned());
    let mut table = Table::new(
        ["server".to_owned(), "due/s".into(), "echoes/s".into()].into_iter().chain(heads),
    );
    for (rate, turns) in levels {
        for (name, samples) in turns {
            let figures = PERCENTILES.map(|(metric, _)| figure(metric.median(samples)));
            let counts = [grouped(*rate), grouped(Metric::Echoes.median(samples))];
            table.row([name.clone()].into_iter().chain(counts).chain(figures));
        }
    }
    table
}

fn plot(levels: &[(f64, Turns)]) -> Result<(), String> {
    let names = levels.first().map_or(&[][..], |(_, turns)| turns.as_slice());
    let line = |name: &String, metric: Metric| {
        let point = |(rate, turns): &(f64, Turns)| {
            let (_, samples) = turns.iter().find(|(other, _)| other == name)?;
            Some((*rate / 1e3, metric.median(samples)))
        };
        Line { name: name.clone(), points: levels.iter().filter_map(point).collect() }
    };
    let panel = |(metric, title): (Metric, &str)| Panel {
        title: title.to_owned(),
        lines: names.iter().map(|(name, _)| line(name, metric)).collect(),
    };
    svg::write(
        "latency.svg",
        &Figure {
            title: format!("Latency against load: 64 B × {CONNECTIONS} connections, open loop"),
            x_label: "thousand messages per second".to_owned(),
            y_label: "µs from the intended time".to_owned(),
            x: Scale::Linear,
            y: Scale::Log,
            panels: PERCENTILES.map(panel).into(),
        },
    )
}
