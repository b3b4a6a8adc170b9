//! The event loop of every process: it waits, hands events to a [`Handler`], and returns the reason why
//! it ended, so that the caller finishes in straight-line code.

mod readiness;
pub mod timers;

use std::io;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::{Events, Poll};

pub use self::readiness::Readiness;

/// Most events of a loop iteration. The remaining ones are reported in the next.
const BATCH: usize = 1024;

/// The part of a process that an event loop runs.
pub trait Handler {
    /// Reason why the loop ends.
    type Stop;

    /// Notes an event. It is edge-triggered; the work is done in [`Self::tick`].
    fn ready(&mut self, event: &Event);

    /// Does the work of a loop iteration, after all events, and decides whether the loop ends.
    fn tick(&mut self, now: Instant) -> ControlFlow<Self::Stop>;

    /// Returns the time to busy-poll for events before sleeping, which saves wake-ups and costs processor
    /// time; zero disables.
    fn busy_poll(&self) -> Duration {
        Duration::ZERO
    }

    /// Returns the time of the next iteration if there is no event; `None` for no limit.
    fn deadline(&self, now: Instant) -> Option<Instant>;
}

/// Runs until the handler ends the loop, and returns its reason.
///
/// # Errors
/// Those of epoll_wait(2), except `EINTR`, which only starts an iteration.
pub fn run<H: Handler>(poll: &mut Poll, handler: &mut H) -> io::Result<H::Stop> {
    let mut events = Events::with_capacity(BATCH);
    let mut now = Instant::now();
    loop {
        let timeout = handler.deadline(now).map(|at| at.saturating_duration_since(now));
        match wait(poll, &mut events, timeout, handler.busy_poll()) {
            Ok(()) => events.iter().for_each(|event| handler.ready(event)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        now = Instant::now();
        if let ControlFlow::Break(stop) = handler.tick(now) {
            return Ok(stop);
        }
    }
}

/// Waits for events for at most `timeout`, the first `spin` of it without sleeping.
fn wait(
    poll: &mut Poll,
    events: &mut Events,
    timeout: Option<Duration>,
    spin: Duration,
) -> io::Result<()> {
    let spin = timeout.map_or(spin, |timeout| spin.min(timeout));
    if spin.is_zero() {
        return poll.poll(events, timeout);
    }
    let begin = Instant::now();
    while begin.elapsed() < spin {
        poll.poll(events, Some(Duration::ZERO))?;
        if !events.is_empty() {
            return Ok(());
        }
    }
    poll.poll(events, timeout.map(|timeout| timeout.saturating_sub(begin.elapsed())))
}
