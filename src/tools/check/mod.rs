//! `tcp-echo check`: tests whether a server echoes exactly, and reports one line and an exit code.

mod case;
mod failure;
mod options;
mod session;

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};

use self::case::Case;
use self::failure::Failure;
pub(crate) use self::options::AFTER_HELP;
pub use self::options::CheckOptions;
use self::session::Session;
use super::cannot_connect;
use super::payload::{MAX_SLICE, Payload};
use crate::exit::Exit;
use crate::sys::{descriptors, output};
use crate::text;

/// Runs the check and prints the result: `ok: …` on standard output, `failed: …` on standard error.
///
/// # Errors
/// Standard output cannot be written.
pub fn run(arguments: CheckOptions) -> io::Result<Exit> {
    let begin = Instant::now();
    let target = arguments.target.clone().unwrap_or_default();
    let limit = arguments.timeout.get();
    let address = match target.address(limit) {
        Ok(address) => address,
        Err(error) => {
            output::print_error(format_args!("failed: {target}: {error}"));
            return Ok(Exit::Failure);
        }
    };
    // With too few descriptors, the connections report the error.
    let _ = descriptors::raise_limit();
    let mut checker = Checker {
        address,
        limit,
        deadline: begin + limit,
        payload: Payload::pattern(),
        buffer: vec![0; MAX_SLICE],
    };
    let cases = case::cases(&arguments);
    match checker.run(&cases, arguments.verbose)? {
        Ok(()) => {
            let count = text::plural(cases.len() as u64, "case");
            let bytes = text::bytes(cases.iter().map(Case::total).sum());
            let took = text::time(begin.elapsed());
            output::print(format_args!("ok: {target} echoed {count}, {bytes} in {took}\n"))?;
            Ok(Exit::Ok)
        }
        Err((case, failure)) => {
            // Without a connection, the case does not matter.
            let line = match failure.unconnected() {
                Some((reason, refused)) => cannot_connect(&target, &reason, refused),
                None => format!("{target}: {case}: {failure}"),
            };
            output::print_error(format_args!("failed: {line}"));
            Ok(Exit::Failure)
        }
    }
}

/// Runs cases against one server until a common deadline.
struct Checker {
    address: SocketAddr,
    /// The `--timeout` of the whole check.
    limit: Duration,
    deadline: Instant,
    payload: Payload,
    buffer: Vec<u8>,
}

impl Checker {
    /// Runs the cases in order and returns the first failure. With `verbose`, prints a line for each
    /// case and continues after a failure that does not affect the remaining cases.
    fn run(&mut self, cases: &[Case], verbose: bool) -> io::Result<Result<(), (Case, Failure)>> {
        let mut first = Ok(());
        for case in cases {
            let begin = Instant::now();
            let result = self.run_case(case);
            let took = text::time(begin.elapsed());
            if verbose {
                match &result {
                    Ok(()) => output::print(format_args!("ok      {case} ({took})\n"))?,
                    Err(failure) => {
                        output::print(format_args!("failed  {case} ({took}): {failure}\n"))?;
                    }
                }
            }
            if let Err(failure) = result {
                let stop = !verbose || failure.is_final();
                first = first.and(Err((*case, failure)));
                if stop {
                    break;
                }
            }
        }
        Ok(first)
    }

    /// Runs the sessions of one case concurrently until all are complete.
    fn run_case(&mut self, case: &Case) -> Result<(), Failure> {
        let mut poll = Poll::new()?;
        let mut events = Events::with_capacity(256);
        let mut sessions = Vec::with_capacity(case.connections);
        for number in 0..case.connections {
            let now = Instant::now();
            let mut session = Session::open(case, number, self.address, &self.payload, now)?;
            let interest = Interest::READABLE | Interest::WRITABLE;
            poll.registry().register(session.stream(), Token(number), interest)?;
            sessions.push(Some(session));
        }
        loop {
            let now = Instant::now();
            for slot in &mut sessions {
                if let Some(session) = slot {
                    if session.advance(now, &mut self.buffer)? {
                        *slot = None;
                    }
                }
            }
            let Some(incomplete) = sessions.iter().flatten().next() else { return Ok(()) };
            if now >= self.deadline {
                return Err(incomplete.timed_out(self.limit));
            }
            if sessions.iter().flatten().all(Session::waits_for_others) {
                sessions.iter_mut().flatten().for_each(Session::release_last_byte);
                continue;
            }
            let deadlines = sessions.iter().flatten().filter_map(Session::deadline);
            let next = deadlines.chain([self.deadline]).min().unwrap_or(self.deadline);
            match poll.poll(&mut events, Some(next.saturating_duration_since(now))) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    return Err(error.into());
                }
                // An interrupted poll(2) has no events; the loop rechecks the deadlines.
                _ => {}
            }
            for event in &events {
                if let Some(session) = &mut sessions[event.token().0] {
                    session.update_readiness(event);
                }
            }
        }
    }
}
