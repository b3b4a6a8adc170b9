//! The fields of the shared memory: those of a block, of the whole daemon, and of a slot.
//!
//! Each worker writes a block. A slot has one, too, which holds the counters of its former workers.

/// Words of a block: twelve cache lines, so that workers do not slow each other down.
pub(super) const BLOCK_WORDS: usize = 96;

/// The first counter. The fields before it are facts and gauges, which end with the worker.
pub(super) const FIRST_COUNTER: usize = 16;

/// A field of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Field {
    /// Pid of the worker; 0 if there is none. Written by the controller.
    Pid,
    /// Slot of the worker, from 1; 0 is the admin process. Written by the controller.
    Slot,
    /// Time of the fork, as uptime in milliseconds. Written by the controller.
    Forked,
    /// A [`super::Stage`].
    Stage,
    /// Time of the last event loop iteration, as uptime in milliseconds; at most a second old while the
    /// worker is responsive.
    Heartbeat,
    /// Open connections.
    Connections,
    /// Connections reserved with the worker, in total. Several processes write this field and the next.
    HandoffsReserved,
    /// Reserved connections that a worker has taken into its table, in total.
    HandoffsCommitted,
    /// Bytes that wait to be sent.
    Buffered,
    /// Reason for which accepting is paused: 0 not paused, 1 connection limit reached, 2 out of
    /// descriptors or memory.
    Paused,

    /// Accepted connections.
    Accepted = FIRST_COUNTER,
    /// Bytes received and answered.
    Received,
    /// Bytes of answers accepted by the kernel.
    Sent,
    /// Receives answered.
    Messages,
    /// Bytes sent that no client sent: idle messages, and those that services make.
    Injected,
    /// Unsent bytes of connections that were reset.
    Abandoned,
    /// Pauses of accepting.
    Pauses,
    /// Dropped log lines.
    LogDropped,
    /// Sum of the values in [`LAG`], in microseconds.
    LagSum,
    /// Sum of the values in [`DURATION`], in milliseconds.
    DurationSum,
    /// Received bytes that no service owes back.
    Consumed,
}

/// Consecutive words that count one thing by kind.
#[derive(Clone, Copy, Debug)]
pub(super) struct FieldRange {
    pub(super) first: usize,
    pub(super) len: usize,
}

/// Closed connections by [`super::Reason`].
pub(super) const CLOSED: FieldRange = FieldRange { first: 32, len: super::Reason::ALL.len() };
/// Failures of accept(2) by [`super::AcceptError`].
pub(super) const ACCEPT_ERRORS: FieldRange =
    FieldRange { first: 44, len: super::AcceptError::ALL.len() };
/// Event loop iterations by duration, in the buckets of [`super::histogram::LAG_BOUNDS`].
pub(super) const LAG: FieldRange = FieldRange { first: 52, len: 16 };
/// Closed connections by duration, in the buckets of [`super::histogram::DURATION_BOUNDS`].
pub(super) const DURATION: FieldRange = FieldRange { first: 68, len: 16 };

// The ranges do not overlap, and fit.
const _: () = assert!((Field::Consumed as usize) < CLOSED.first);
const _: () = assert!(CLOSED.first + CLOSED.len <= ACCEPT_ERRORS.first);
const _: () = assert!(ACCEPT_ERRORS.first + ACCEPT_ERRORS.len <= LAG.first);
const _: () = assert!(LAG.first + LAG.len <= DURATION.first);
const _: () = assert!(DURATION.first + DURATION.len <= BLOCK_WORDS);

/// A field of the whole daemon. Written by the controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum FleetField {
    /// [`super::layout::MAGIC`].
    Magic,
    /// [`super::layout::VERSION`].
    Version,
    /// Sequence number of changes, odd while one is under way; see [`super::Layout`].
    Epoch,
    /// Time of the start, in milliseconds since 1970.
    StartedAt,
    /// Time of the start, as uptime in milliseconds.
    StartedUptime,
    /// Pid of the controller.
    Pid,
    /// A [`super::Phase`].
    Phase,
    /// Configured number of workers, as changed by scaling.
    Wanted,
    /// Slots with a ready and responsive worker.
    Healthy,
    /// Healthy workers required for the daemon to be ready.
    MinHealthy,
    /// Completed reloads.
    ReloadsDone,
    /// Rejected and aborted reloads.
    ReloadsFailed,
    /// Highest number of a block ever allocated, plus one.
    BlocksUsed,
    /// Highest slot ever used.
    SlotsUsed,
    /// Recorded events.
    Events,
    /// Dropped log lines of the controller.
    LogDropped,
    /// Pid of the admin process; 0 if there is none.
    AdminPid,
    /// Restarts of the admin process.
    AdminRestarts,
    /// Samples taken for the rates.
    Samples,
    /// Time at which the totals were last saved, in milliseconds since 1970. 1 if nothing was saved yet
    /// and the totals of former daemons are included, or there were none; 0 before.
    SavedAt,
}

/// A field of a slot. Written by the controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum SlotField {
    /// A [`super::SlotState`].
    State,
    /// Pid of the slot's worker; 0 if there is none.
    Pid,
    /// Time until the next worker is forked, in milliseconds.
    Backoff,
    /// Connections waiting to be accepted.
    QueueLength,
    /// Connections that may wait to be accepted.
    QueueLimit,
    /// Replaced workers by [`super::Cause`]: four words.
    Restarts,
}
