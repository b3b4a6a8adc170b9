//! `tcp-echo bench`: loads a server over many connections, verifies every byte, and reports throughput
//! and latency.

mod clock;
mod connection;
mod driver;
mod options;
mod progress;
mod ramp_up;
mod report;
mod schedule;
mod stats;
mod workload;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use signal_hook::consts::signal::{SIGINT, SIGTERM};
use signal_hook::flag;

use self::clock::Clock;
use self::driver::Shared;
pub(crate) use self::options::AFTER_HELP;
pub use self::options::BenchOptions;
use self::progress::{LiveCounters, Progress};
use self::report::LoadReport;
use self::stats::{Cause, ConnectionError, LoadStats};
use self::workload::{Workload, WorkloadError};
use super::cannot_connect;
use crate::exit::Exit;
use crate::sys::{descriptors, output};

/// Interval between two updates of the progress line.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);

/// Runs the load and prints the report to standard output.
///
/// # Errors
/// Standard output cannot be written.
pub fn run(arguments: BenchOptions) -> io::Result<Exit> {
    let workload = match Workload::new(&arguments) {
        Ok(workload) => workload,
        Err(WorkloadError::Usage(text)) => {
            output::print_error(format_args!("tcp-echo: {text}"));
            return Ok(Exit::Usage);
        }
        Err(WorkloadError::Target(text)) => {
            output::print_error(format_args!("failed: {text}"));
            return Ok(Exit::Failure);
        }
    };
    // With too few descriptors, the connections report the error.
    let _ = descriptors::raise_limit();
    let progress = Progress::new(!arguments.quiet && !arguments.json, workload.duration);
    let stats = match run_threads(&workload, progress) {
        Ok(stats) => stats,
        Err(error) => {
            output::print_error(format_args!("tcp-echo: {}", ConnectionError::from(error).detail));
            return Ok(Exit::Failure);
        }
    };
    let report = LoadReport::new(&workload, &stats);
    if let Some(reason) = stats.absent_server() {
        let refused = stats.errors.of(Cause::Refused) > 0;
        let line = cannot_connect(&workload.target, reason, refused);
        output::print_error(format_args!("failed: {line}"));
        if !arguments.json {
            return Ok(Exit::Failure);
        }
    }
    let text = if arguments.json { report.json() } else { report.text() };
    output::print(text + "\n")?;
    Ok(if report.is_good() { Exit::Ok } else { Exit::Failure })
}

/// Runs the threads, shows their progress, and returns the sum of their stats.
fn run_threads(workload: &Workload, mut progress: Progress) -> io::Result<LoadStats> {
    let stop = stop_by_signal()?;
    let clock = Clock::start()?;
    let shared = Shared { workload, clock, stop: &stop };
    let counters: Vec<LiveCounters> =
        (0..workload.threads).map(|_| LiveCounters::default()).collect();
    let (sender, receiver) = mpsc::channel();
    // The report needs all threads: if one fails, the remaining ones stop early.
    let stop_all = |_: &io::Error| stop.store(true, Ordering::Relaxed);
    thread::scope(|scope| {
        for (thread, counters) in (0..).zip(&counters) {
            let (sender, shared) = (sender.clone(), &shared);
            let spawned = thread::Builder::new().spawn_scoped(scope, move || {
                // The receiver outlives every sender, unless another thread has failed.
                let _ = sender.send(driver::run(shared, thread, counters));
            });
            spawned.inspect_err(stop_all)?;
        }
        drop(sender);
        let mut sum = LoadStats::new();
        loop {
            match receiver.recv_timeout(PROGRESS_INTERVAL) {
                Ok(stats) => sum.add(&stats.inspect_err(stop_all)?),
                Err(RecvTimeoutError::Timeout) => {
                    progress.update(&counters, Duration::from_nanos(clock.now()));
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        progress.finish();
        Ok(sum)
    })
}

/// Returns a flag that the first INT or TERM sets, so that the run ends with a report. The second signal
/// terminates the process.
fn stop_by_signal() -> io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&stop))?;
        flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
}
