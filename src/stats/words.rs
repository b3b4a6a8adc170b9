//! What the words of a block mean.
//!
//! Workers write blocks of these, one each; a slot has one too, in which the counters of its former
//! workers live on.

/// Words of a block: twelve cache lines, so that workers do not slow each other down.
pub const BLOCK_WORDS: usize = 96;

/// The first word that is a counter. Those before it are facts and gauges, gone with the worker.
pub(super) const FIRST_COUNTER: usize = 16;

/// A single word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Word {
    /// The worker's pid; 0 where there is none. Written by the controller.
    Pid,
    /// Its slot, from 1; 0 is the admin process. Written by the controller.
    Slot,
    /// When it was forked: the uptime in milliseconds (`CLOCK_MONOTONIC`). Written by the controller.
    Forked,
    /// Its [`super::Stage`].
    Stage,
    /// The uptime in milliseconds at the event loop's last turn: at most a second ago while the worker
    /// is alive and well.
    Heartbeat,
    /// Connections open now.
    Connections,
    /// Connections that siblings have passed to it. This word and the next have several writers.
    PassedTo,
    /// Those of them that it, or a sibling in its place, has taken.
    Taken,
    /// Bytes that wait to be sent.
    Buffered,
    /// Why it accepts nothing now: 0 it does, 1 as many connections are open as may be, 2 the system
    /// has run out of something.
    Paused,

    /// Connections accepted in all.
    Accepted = FIRST_COUNTER,
    /// Bytes from clients that were answered.
    Received,
    /// Bytes of answers that the kernel has taken.
    Sent,
    /// Receives that were answered.
    Messages,
    /// Bytes sent that no client had sent: idle messages.
    Injected,
    /// Bytes that will never be sent: their connections were reset.
    Abandoned,
    /// How often accepting was paused.
    Pauses,
    /// Log lines that were dropped.
    LogDropped,
    /// The sum of [`LAG`], in microseconds.
    LagSum,
    /// The sum of [`DURATION`], in milliseconds.
    DurationSum,
}

/// Words of the same kind in a row.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    pub(super) first: usize,
    /// How many.
    pub len: usize,
}

/// Connections that have ended, by [`super::Reason`].
pub const CLOSED: Family = Family { first: 32, len: super::Reason::ALL.len() };
/// Failures of accept(2), by [`super::AcceptError`].
pub const ACCEPT_ERRORS: Family = Family { first: 44, len: super::AcceptError::ALL.len() };
/// How long the event loop's turns take, by [`super::histogram::LAG_BOUNDS`].
pub const LAG: Family = Family { first: 52, len: 16 };
/// How long connections last, by [`super::histogram::DURATION_BOUNDS`].
pub const DURATION: Family = Family { first: 68, len: 16 };

// Families do not overlap, and fit.
const _: () = assert!(Word::DurationSum as usize <= CLOSED.first);
const _: () = assert!(CLOSED.first + CLOSED.len <= ACCEPT_ERRORS.first);
const _: () = assert!(ACCEPT_ERRORS.first + ACCEPT_ERRORS.len <= LAG.first);
const _: () = assert!(LAG.first + LAG.len <= DURATION.first);
const _: () = assert!(DURATION.first + DURATION.len <= BLOCK_WORDS);

/// A single word of what the controller says of the whole daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum FleetWord {
    /// [`super::layout::MAGIC`].
    Magic,
    /// [`super::layout::VERSION`].
    Version,
    /// Odd while numbers move from one block to another.
    Epoch,
    /// When the daemon was started, in milliseconds since 1970.
    StartedAt,
    /// The same as uptime (`CLOCK_MONOTONIC`) in milliseconds.
    StartedUptime,
    /// The controller's pid.
    Pid,
    /// [`super::Phase`].
    Phase,
    /// Slots that are wanted.
    Wanted,
    /// Slots whose workers accept and respond.
    Healthy,
    /// Fewer of them are too few for the daemon to be ready.
    MinHealthy,
    /// Reloads that were done.
    ReloadsDone,
    /// Reloads that were refused or given up.
    ReloadsFailed,
    /// One more than the highest seat that was ever taken.
    SeatsUsed,
    /// The highest slot there ever was.
    SlotsUsed,
    /// How many events were recorded.
    Events,
    /// The controller's log lines that were dropped.
    LogDropped,
    /// The admin process's pid; 0 where there is none.
    AdminPid,
    /// How often it was replaced.
    AdminRestarts,
    /// How often the samples of the rates were taken.
    Samples,
    /// When the totals were last written down, in milliseconds since 1970; 1 when those of former
    /// daemons are among the numbers, or there were none, and 0 before.
    Kept,
}

/// A single word of what the controller says of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum SlotWord {
    /// [`super::SlotState`].
    State,
    /// The pid of its worker; 0 where there is none.
    Pid,
    /// Until its next worker is forked, in milliseconds.
    Backoff,
    /// Connections that wait to be accepted.
    QueueLength,
    /// How many may.
    QueueLimit,
    /// Workers that were replaced, by [`super::Cause`]; four words.
    Restarts,
}
