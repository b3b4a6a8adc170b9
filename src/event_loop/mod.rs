//! The event loop: the same one for every role. It waits, hands out what is ready, and *returns why
//! it stopped*, so that what comes afterwards stands in straight-line code behind the call.

pub mod timers;

use std::io;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::{Events, Poll};

/// Events taken from the kernel at once. The rest waits for the next turn, in turn.
const BATCH: usize = 1024;

/// What a loop runs.
pub trait Handler {
    /// Why the loop stops.
    type Stop;

    /// A descriptor has become ready. Edge-triggered: note it now, work on it in [`Self::tick`].
    fn ready(&mut self, event: &Event);

    /// Once a turn, after all events: the work, the timers, and whether to stop.
    fn tick(&mut self, now: Instant) -> ControlFlow<Self::Stop>;

    /// How long to look for events again and again before sleeping: waking up costs more than a small
    /// piece of work, but looking costs the processor.
    fn busy_poll(&self) -> Duration {
        Duration::ZERO
    }

    /// When to wake up though nothing is ready; `None` to wait for as long as it takes.
    fn deadline(&self, now: Instant) -> Option<Instant>;
}

/// Runs until the handler stops.
///
/// # Errors
/// What epoll_wait(2) reports, but for `EINTR`, which is only a reason to look at the clock.
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

/// Waits for events, at most for `timeout`, and polls without sleeping for the first `spin` of it.
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
