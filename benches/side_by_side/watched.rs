//! What it costs when somebody reads the statistics all the time.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use crate::Bench;
use crate::bars::{Bar, OURS};
use crate::cases::Traffic;
use crate::load::Load;
use crate::measure::{Metric, Sample};
use crate::table::figure;

/// The bar: how many times what an echo costs otherwise.
const TIMES: f64 = 1.02;
/// Ten times a second.
const PAUSE: Duration = Duration::from_millis(100);
/// What is read, in turn.
const PATHS: [&str; 2] = ["/stats", "/metrics"];
/// One turn that nobody counts.
const WARM_UP: f64 = 0.25;

/// Loads a server in turn while nobody reads and while somebody does.
pub(crate) fn run(bench: &mut Bench<'_>) {
    match turns(bench) {
        Ok((alone, watched, reads)) => report(bench, &alone, &watched, reads),
        Err(error) => bench.void("watched", OURS, &error),
    }
}

/// The turns of both kinds, and how often the statistics were read in all.
fn turns(bench: &Bench<'_>) -> Result<(Vec<Sample>, Vec<Sample>, usize), String> {
    let folder = tempfile::tempdir().map_err(|error| format!("no folder: {error}"))?;
    let socket = folder.path().join("admin");
    let ours = bench.contestants[0].with(&[&format!("--admin=unix:{}", socket.display())]);
    let mut server = ours.start(Some(bench.environment.server_cpu))?;
    let traffic = Traffic::Messages(64);
    let mut turn = |seconds| {
        let load = Load { connections: 50, traffic, seconds, rate: None };
        load.run(&mut server, bench.environment)
    };
    turn(WARM_UP)?;
    let seconds = bench.wishes.seconds(2.0);
    let (mut alone, mut watched, mut reads) = (Vec::new(), Vec::new(), 0);
    for _ in 0..bench.wishes.rounds {
        alone.push(turn(seconds)?);
        let (sample, read) = while_read(&socket, || turn(seconds));
        watched.push(sample?);
        reads += read.map_err(|error| format!("the statistics cannot be read: {error}"))?;
    }
    Ok((alone, watched, reads))
}

fn report(bench: &mut Bench<'_>, alone: &[Sample], watched: &[Sample], reads: usize) {
    let metric = Metric::CpuPerEcho;
    println!("\nwatched: 64 B × 50, statistics read {reads} times in {} turns", watched.len());
    let cost = |samples| figure(metric.median(samples));
    println!("  all processes, CPU ns/echo: {} unread, {} read", cost(alone), cost(watched));
    let ratio = metric.ratio(watched, alone);
    bench.bars.push(Bar::at_most("watched: CPU ns/echo, × unread", TIMES, "", ratio));
}

/// Does `work` while the statistics are read; says how often they were.
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
    while done.recv_timeout(PAUSE) == Err(RecvTimeoutError::Timeout) {
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
