//! `tcp-echo bench`: many connections at once, every byte compared, and the figures.

mod clock;
mod connection;
mod driver;
mod opening;
mod plan;
mod progress;
mod report;
mod schedule;
mod tally;

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
use self::plan::{Plan, PlanError};
use self::progress::{Live, Progress};
use self::report::Report;
use self::tally::{Tally, Trouble};
use crate::cli::BenchArguments;
use crate::exit::Exit;
use crate::process::{descriptors, output};

/// From one picture of the progress to the next.
const FRAME: Duration = Duration::from_millis(250);

/// Runs the load and prints the report on standard output.
pub(super) fn run(arguments: BenchArguments) -> Exit {
    let plan = match Plan::new(&arguments) {
        Ok(plan) => plan,
        Err(PlanError::Usage(text)) => {
            output::complain(format_args!("tcp-echo: {text}"));
            return Exit::Usage;
        }
        Err(PlanError::Target(text)) => {
            output::complain(format_args!("failed: {text}"));
            return Exit::Failure;
        }
    };
    // Too few descriptors are an error of the connections that get none.
    let _ = descriptors::raise_limit();
    let progress = Progress::new(!arguments.quiet && !arguments.json, plan.duration);
    let tally = match drive(&plan, progress) {
        Ok(tally) => tally,
        Err(error) => {
            output::complain(format_args!("tcp-echo: {}", Trouble::from(error).detail));
            return Exit::Failure;
        }
    };
    let report = Report::new(&plan, &tally);
    let text = if arguments.json { report.json() } else { report.text() };
    if output::say(&(text + "\n")) && report.is_good() { Exit::Ok } else { Exit::Failure }
}

/// Starts the threads, shows the progress, and adds up.
fn drive(plan: &Plan, mut progress: Progress) -> io::Result<Tally> {
    let stop = stop_by_signal()?;
    let clock = Clock::start()?;
    let shared = Shared { plan, clock, stop: &stop };
    let live: Vec<Live> = (0..plan.threads).map(|_| Live::default()).collect();
    let (sender, receiver) = mpsc::channel();
    // The others are not to run to the end for nothing.
    let give_up = |_: &io::Error| stop.store(true, Ordering::Relaxed);
    thread::scope(|scope| {
        for (thread, live) in (0..plan.threads).zip(&live) {
            let (sender, shared) = (sender.clone(), &shared);
            let begun = thread::Builder::new().spawn_scoped(scope, move || {
                // The other end waits for as long as there is a sender.
                let _ = sender.send(driver::run(shared, thread, live));
            });
            begun.inspect_err(give_up)?;
        }
        drop(sender);
        let mut sum = Tally::new();
        loop {
            match receiver.recv_timeout(FRAME) {
                Ok(tally) => sum.add(&tally.inspect_err(give_up)?),
                Err(RecvTimeoutError::Timeout) => {
                    progress.update(&live, Duration::from_nanos(clock.now()));
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        progress.finish();
        Ok(sum)
    })
}

/// Set by the first INT or TERM: the run ends, and is reported. The second one ends the program.
fn stop_by_signal() -> io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&stop))?;
        flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
}
