//! Cost of an echo while many other connections are idle.

use std::collections::BTreeMap;

use crate::bars::{Bar, FLOOR, OURS};
use crate::bench::Bench;
use crate::cases::Traffic;
use crate::idle::{IdleClient, IdleLoad};
use crate::load::Load;
use crate::measure::{Metric, Sample};
use crate::options::Mode;
use crate::rounds;
use crate::server::{Contestant, Server};
use crate::svg::{self, Figure, Line, Panel, Scale};
use crate::table::{Table, figure, grouped};

/// Number of connections that echo.
const ACTIVE: u64 = 10;
/// Maximum number of connections of a server process and of a client.
const MAX: u64 = 15_000;
/// Workers for more connections than one process can have.
const WORKERS: &str = "8";
const SECONDS: f64 = 0.4;

/// A server with a number of open connections.
struct Point {
    /// Line in the table and the plot.
    line: String,
    contestant: Contestant,
    open: u64,
}

/// Measures all points in turn, and adds the table, the bar, and in long modes the plot.
pub(crate) fn run(bench: &mut Bench<'_>) -> Result<(), String> {
    let large = bench.options.mode() != Mode::Short;
    let points = points(bench, large);
    let seconds = bench.options.seconds(SECONDS);
    println!(
        "\nopen: echoes of 64 B on {ACTIVE} connections while others are open \
         ({} rounds of {seconds} s, medians of CPU ns/echo)",
        bench.options.rounds
    );
    let mut servers = BTreeMap::new();
    let mut idle_clients = Vec::new();
    for (index, point) in points.iter().enumerate() {
        match prepare(bench, point) {
            Ok((server, clients)) => {
                servers.insert(index, server);
                idle_clients.extend(clients);
            }
            Err(error) => bench.exclude("open", &point.contestant.name, &error),
        }
    }
    let traffic = Traffic::Messages(64);
    let load = Load { connections: ACTIVE as u32, traffic, seconds, rate: None };
    let turns = rounds::turns(bench, "open", &mut servers, |_| load);
    for client in &mut idle_clients {
        // The idle connections are still served.
        if let Err(error) = client.request_echo().and_then(|()| client.wait()) {
            bench.exclude("open", "an idle connection", &error);
        }
    }
    let results = lines(&points, &turns);
    print!("{}", table(&results).text());
    let Some((name, ours)) = results.iter().rfind(|(name, _)| name.starts_with(OURS)) else {
        return Ok(());
    };
    let counts: Vec<String> = ours.iter().map(|(open, _)| grouped(*open as f64)).collect();
    let what = format!("open: {name}, cost per echo at {} connections", counts.join(", "));
    bench.bars.push(Bar::at_most(&what, 1.15, "", spread(ours)));
    if large { plot(&results) } else { Ok(()) }
}

/// Returns the points to measure. Long modes include more connections than one process can have.
fn points(bench: &Bench<'_>, large: bool) -> Vec<Point> {
    let most = MAX.min(bench.environment.descriptors.saturating_sub(500));
    let few: &[u64] = if large { &[10, 100, 1_000, 10_000] } else { &[10, 1_000, 10_000] };
    let mut points = Vec::new();
    let mut line = |contestant: &Contestant, name: &str, counts: &[u64]| {
        for &open in counts {
            let line = name.to_owned();
            let contestant = contestant.named(format!("{name} with {open} open"));
            points.push(Point { line, contestant, open });
        }
    };
    let short = |one: &&Contestant| one.name == OURS || one.name == FLOOR;
    let takes_part = |one: &&Contestant| !one.is_threads() && (large || short(one));
    for contestant in bench.contestants.iter().filter(takes_part) {
        let few: Vec<u64> = few.iter().copied().filter(|&count| count <= most).collect();
        line(contestant, &contestant.name, &few);
    }
    if large {
        let many = bench.contestants[0].with(&["--workers", WORKERS]);
        line(&many, &format!("{OURS}, {WORKERS} workers"), &[10, 1_000, 10_000, 100_000]);
    }
    points
}

/// Starts the server and opens its idle connections.
fn prepare(bench: &Bench<'_>, point: &Point) -> Result<(Server, Vec<IdleClient>), String> {
    let server = point.contestant.start(Some(bench.environment.server_cpu))?;
    let mut idle_clients = Vec::new();
    let idle = point.open - ACTIVE;
    let mut first = 0;
    while first < idle {
        let count = MAX.min(idle - first);
        let hold = IdleLoad { address: server.address, count, first };
        idle_clients.push(IdleClient::open(hold, Some(bench.environment.load_cpu))?);
        first += count;
    }
    Ok((server, idle_clients))
}

/// Turns by the number of open connections.
type Series = Vec<(u64, Vec<Sample>)>;

fn lines(points: &[Point], turns: &rounds::Turns) -> Vec<(String, Series)> {
    let mut lines: Vec<(String, Series)> = Vec::new();
    for Point { line, contestant, open } in points {
        let Some((_, samples)) = turns.iter().find(|(name, _)| *name == contestant.name) else {
            continue;
        };
        let point = (*open, samples.clone());
        match lines.iter_mut().find(|(name, _)| name == line) {
            Some((_, series)) => series.push(point),
            None => lines.push((line.clone(), vec![point])),
        }
    }
    lines
}

/// Returns the ratio of the highest to the lowest cost, both relative to the first.
fn spread(series: &Series) -> f64 {
    let Some((_, first)) = series.first() else { return f64::NAN };
    let ratios = series.iter().map(|(_, samples)| Metric::CpuPerEcho.ratio(samples, first));
    let (least, most) = ratios.fold((f64::MAX, 0.0_f64), |(l, m), r| (l.min(r), m.max(r)));
    most / least
}

fn table(results: &[(String, Series)]) -> Table {
    let mut counts: Vec<u64> =
        results.iter().flat_map(|(_, s)| s.iter().map(|(n, _)| *n)).collect();
    counts.sort_unstable();
    counts.dedup();
    let head = counts.iter().map(|&count| format!("{} open", grouped(count as f64)));
    let mut table =
        Table::new(["server".to_owned()].into_iter().chain(head).chain(["spread".to_owned()]));
    for (name, series) in results {
        let cell = |count: &u64| {
            let found = series.iter().find(|(open, _)| open == count);
            figure(found.map_or(f64::NAN, |(_, samples)| Metric::CpuPerEcho.median(samples)))
        };
        let cells = counts.iter().map(cell).chain([figure(spread(series))]);
        table.row([name.clone()].into_iter().chain(cells));
    }
    table
}

fn plot(results: &[(String, Series)]) -> Result<(), String> {
    let line = |(name, series): &(String, Series)| Line {
        name: name.clone(),
        points: series
            .iter()
            .map(|(open, samples)| (*open as f64, Metric::CpuPerEcho.median(samples) / 1e3))
            .collect(),
    };
    let lines = results.iter().map(line).collect();
    svg::write(
        "cost.svg",
        &Figure {
            title: format!("Cost of an echo: 64 B on {ACTIVE} connections while others are open"),
            x_label: "open connections".to_owned(),
            y_label: "server CPU, µs per echo".to_owned(),
            x: Scale::Log,
            y: Scale::Linear,
            panels: vec![Panel { title: String::new(), lines }],
        },
    )
}
