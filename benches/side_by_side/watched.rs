//! Cost of reading the statistics continuously.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use crate::bars::{Bar, OURS};
use crate::bench::Bench;
use crate::cases::Traffic;
use crate::load::Load;
use crate::measure::{Metric, Sample};
use crate::table::figure;

/// The bar: ratio to the cost of an echo without readers.
const MAX_RATIO: f64 = 1.02;
/// Interval between two reads.
const INTERVAL: Duration = Duration::from_millis(100);
/// Paths to read in turn.
const PATHS: [&str; 2] = ["/stats", "/metrics"];
/// Length of an uncounted first turn in seconds.
const WARM_UP: f64 = 0.25;

/// Loads a server alternately without and with a reader of the statistics.
pub(crate) fn run(bench: &mut Bench<'_>) {
    match turns(bench) {
        Ok((alone, watched, reads)) => report(bench, &alone, &watched, reads),
        Err(error) => bench.exclude("watched", OURS, &error),
    }
}

/// Returns the turns without and with a reader, and the number of reads.
fn turns(bench: &Bench<'_>) -> Result<(Vec<Sample>, Vec<Sample>, usize), String> {
    let directory =
        tempfile::tempdir().map_err(|error| format!("cannot create a directory: {error}"))?;
    let socket = directory.path().join("admin");
    let ours = bench.contestants[0].with(&[&format!("--admin=unix:{}", socket.display())]);
    let mut server = ours.start(Some(bench.environment.server_cpu))?;
    let traffic = Traffic::Messages(64);
    let mut turn = |seconds| {
        let load = Load { connections: 50, traffic, seconds, rate: None };
        load.run(&mut server, bench.environment)
    };
    turn(WARM_UP)?;
    let seconds = bench.options.seconds(2.0);
    let (mut alone, mut watched, mut reads) = (Vec::new(), Vec::new(), 0);
    for _ in 0..bench.options.rounds {
        alone.push(turn(seconds)?);
        let (sample, read) = while_read(&socket, || turn(seconds));
        watched.push(sample?);
        reads += read.map_err(|error| format!("cannot read the statistics: {error}"))?;
    }
    Ok((alone, watched, reads))
}

fn report(bench: &mut Bench<'_>, alone: &[Sample], watched: &[Sample], reads: usize) {
    let metric = Metric::CpuPerEcho;
    println!("\nwatched: 64 B × 50, statistics read {reads} times in {} turns", watched.len());
    let cost = |samples| figure(metric.median(samples));
    println!("  all processes, CPU ns/echo: {} unread, {} read", cost(alone), cost(watched));
    let ratio = metric.ratio(watched, alone);
    bench.bars.push(Bar::at_most("watched: CPU ns/echo, × unread", MAX_RATIO, "", ratio));
}

/// Does `work` while the statistics are read, and returns the number of reads.
fn while_read<T>(socket: &Path, work: impl FnOnce() -> T) -> (T, io::Result<usize>) {
    thread::scope(|scope| {
        let (done, is_done) = channel::<()>();
        let reader = scope.spawn(move || read_until(socket, &is_done));
        let result = work();
        drop(done);
        let reads = reader.join().unwrap_or_else(|_| Err(io::Error::other("the reader panicked")));
        (result, reads)
    })
}

fn read_until(socket: &Path, done: &Receiver<()>) -> io::Result<usize> {
    let mut reads = 0;
    while done.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
        let path = PATHS[reads % PATHS.len()];
        let mut stream = UnixStream::connect(socket)?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        if !answer.starts_with("HTTP/1.1 200 ") {
            let line = answer.lines().next().unwrap_or("nothing");
            return Err(io::Error::other(format!("{path}: the answer is {line}")));
        }
        reads += 1;
    }
    Ok(reads)
}
