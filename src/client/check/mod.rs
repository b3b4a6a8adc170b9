//! `tcp-echo check`: says in one line, and by its exit code, whether a server echoes exactly.

mod exchange;
mod failure;
mod plan;

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};

use self::exchange::Exchange;
use self::failure::Failure;
use self::plan::Case;
use super::source::{REACH, Source};
use super::{amount, say};
use crate::cli::CheckArguments;
use crate::exit::Exit;
use crate::process::{descriptors, output};

/// Runs the check and prints the result: `ok: …` on standard output, `failed: …` on standard error.
pub(super) fn run(arguments: CheckArguments) -> Exit {
    let begin = Instant::now();
    let target = arguments.target.clone().unwrap_or_default();
    let limit = arguments.timeout.get();
    let address = match target.address(limit) {
        Ok(address) => address,
        Err(error) => {
            output::complain(format_args!("failed: {target}: {error}"));
            return Exit::Failure;
        }
    };
    // Many connections need many descriptors; if there are too few, connecting says so.
    let _ = descriptors::raise_limit();
    let mut bench = Bench {
        address,
        limit,
        deadline: begin + limit,
        source: Source::pattern(),
        buffer: vec![0; REACH],
    };
    let cases = plan::cases(&arguments);
    match bench.run(&cases, arguments.verbose) {
        Ok(()) => {
            let count = match cases.len() {
                1 => "1 case".to_owned(),
                count => format!("{count} cases"),
            };
            let bytes = amount::bytes(cases.iter().map(Case::total).sum());
            let took = amount::time(begin.elapsed());
            say(&format!("ok: {target} echoed {count}, {bytes} in {took}"));
            Exit::Ok
        }
        Err((case, failure)) => {
            output::complain(format_args!("failed: {target}: {case}: {failure}"));
            Exit::Failure
        }
    }
}

/// What every case is tried with.
struct Bench {
    address: SocketAddr,
    limit: Duration,
    deadline: Instant,
    source: Source,
    buffer: Vec<u8>,
}

impl Bench {
    /// Tries the cases in turn. The first that fails is told; with `verbose` the others are tried
    /// all the same, unless that is of no use, and a line is printed for each.
    fn run(&mut self, cases: &[Case], verbose: bool) -> Result<(), (Case, Failure)> {
        let mut first = Ok(());
        for case in cases {
            let begin = Instant::now();
            let result = self.attempt(case);
            let took = amount::time(begin.elapsed());
            if verbose {
                match &result {
                    Ok(()) => say(&format!("ok      {case} ({took})")),
                    Err(failure) => say(&format!("failed  {case} ({took}): {failure}")),
                }
            }
            if let Err(failure) = result {
                let last = !verbose || failure.is_final();
                first = first.and(Err((*case, failure)));
                if last {
                    break;
                }
            }
        }
        first
    }

    /// Tries one case to its end.
    fn attempt(&mut self, case: &Case) -> Result<(), Failure> {
        let mut poll = Poll::new()?;
        let mut events = Events::with_capacity(256);
        let mut exchanges = Vec::with_capacity(case.connections);
        for number in 0..case.connections {
            let now = Instant::now();
            let mut exchange = Exchange::open(case, number, self.address, &self.source, now)?;
            let interest = Interest::READABLE | Interest::WRITABLE;
            poll.registry().register(exchange.stream(), Token(number), interest)?;
            exchanges.push(Some(exchange));
        }
        loop {
            let now = Instant::now();
            for slot in &mut exchanges {
                if let Some(exchange) = slot {
                    if exchange.advance(now, &mut self.buffer)? {
                        *slot = None;
                    }
                }
            }
            let mut open = exchanges.iter().flatten();
            let Some(any) = open.next() else { return Ok(()) };
            if now >= self.deadline {
                return Err(any.overdue(self.limit));
            }
            if exchanges.iter().flatten().all(Exchange::waits_for_others) {
                exchanges.iter_mut().flatten().for_each(Exchange::release);
                continue;
            }
            let wakes = exchanges.iter().flatten().filter_map(Exchange::wake);
            let wake = wakes.min().map_or(self.deadline, |wake| wake.min(self.deadline));
            match poll.poll(&mut events, Some(wake.saturating_duration_since(now))) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    return Err(error.into());
                }
                // Interrupted, there are no events, and the time is looked at.
                _ => {}
            }
            for event in &events {
                if let Some(exchange) = &mut exchanges[event.token().0] {
                    exchange.mark(event);
                }
            }
        }
    }
}
