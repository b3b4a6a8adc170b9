//! Events and actions of the supervisor.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::daemon::ids::SlotId;
use crate::daemon::stats::Cause;
use crate::exit::Exit;
use crate::sys::wait::ExitStatus;

/// Processes that are wanted, and the timeouts that apply to them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Number of worker slots.
    pub(crate) slots: u32,
    /// Time without heartbeat after which a worker counts as hung; `None` disables the check.
    pub(crate) worker_timeout: Option<Duration>,
    /// Time in which the workers drain when the daemon stops.
    pub(crate) graceful_timeout: Duration,
    /// Time to keep accepting after the first stop signal.
    pub(crate) shutdown_delay: Duration,
    /// Time in which a replaced worker drains.
    pub(crate) drain_timeout: Duration,
    /// `true` if an admin process is wanted.
    pub(crate) admin: bool,
}

/// An observed change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// Time has passed; applied at least once a second.
    Tick,
    /// The process of this slot was forked.
    Spawned(SlotId, Pid),
    /// The process of this slot could not be forked.
    NotSpawned(SlotId),
    /// The process accepts connections.
    Ready(Pid),
    /// The process sent its latest heartbeat at this time.
    Beat(Pid, Instant),
    /// The worker has reached its connection limit; it accepts no more, and exits when drained.
    Retiring(Pid),
    /// The worker was told to drain by another process; it accepts no more, and exits when drained.
    Draining(Pid),
    /// A process was reaped; the controller may not have forked it.
    Exited(Pid, ExitStatus),
    /// The number of workers is increased by one.
    AddWorker,
    /// The number of workers is reduced by one.
    RemoveWorker,
    /// The daemon is told to stop; the second time, immediately.
    Stop,
}

/// An effect for the controller to carry out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Fork the process of this slot. The answer is [`Event::Spawned`] or [`Event::NotSpawned`].
    Spawn(SlotId),
    /// Send a signal.
    Signal(Pid, Signal),
    /// Kill an admin process for this reason.
    Kill(Pid, &'static str),
    /// Tell a process that its successor has taken over: it accepts no more and drains.
    Retire(Pid),
    /// Free the addresses, because nothing is accepted anymore.
    CloseAddresses,
    /// Count a process that failed and is replaced.
    CountRestart(SlotId, Pid, Cause),
    /// Tell the process that launched the daemon that it is up.
    FinishStartup,
    /// Count a reload as done (`true`) or failed.
    CountReload(bool),
    /// End the controller.
    Exit(Exit),
    /// Log an event and append it to the event history.
    Log(LogEvent),
}

/// An event that an operator should know of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogEvent {
    /// The daemon is up with this number of ready workers.
    Serving(u32),
    /// No worker became ready within [`super::STARTUP_TIMEOUT`].
    NoneReady,
    /// A process became ready.
    Ready(SlotId, Pid),
    /// A worker exited.
    Exited(SlotId, Pid, ExitStatus),
    /// The admin process exited and is replaced after this time; `None` if it was told to exit.
    AdminExited(Pid, ExitStatus, Option<Duration>),
    /// The next worker of a slot is started after this time.
    RestartDelayed(SlotId, Duration),
    /// A worker sends no heartbeats: new connections avoid it.
    Unresponsive(SlotId, Pid),
    /// An unresponsive worker sends heartbeats again.
    Responsive(SlotId, Pid),
    /// A worker has sent no heartbeat for `worker_timeout`: it is replaced.
    Hung(SlotId, Pid),
    /// A worker did not become ready within [`super::STARTUP_TIMEOUT`].
    NotReady(SlotId, Pid),
    /// A worker exited with [`Exit::DoNotRespawn`].
    Abandoned(SlotId),
    /// A reload has replaced all workers.
    ReloadDone,
    /// A reload has ended because the new worker of this slot did not become ready.
    ReloadAborted(SlotId),
    /// The number of workers was changed to this one.
    Scaled(u32),
    /// The number of workers cannot be changed from this one.
    CannotScale(u32),
    /// The daemon was told to stop and keeps accepting for this time.
    Delaying(Duration),
    /// All workers begin to drain.
    Draining,
    /// This number of workers is killed: the deadline has passed, or a second stop signal has come.
    Killing(u32),
    /// A process was reaped that the controller did not fork.
    UnknownExited(Pid, ExitStatus),
}

/// A process in the state handover between two images of the controller.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HandoverProcess {
    pub(crate) pid: Pid,
    pub(crate) slot: SlotId,
    /// Time until it is killed, if it has left its slot.
    pub(crate) leaving: Option<Duration>,
    /// `true` if it runs an older build than the image and stays because a reload was aborted.
    pub(crate) kept: bool,
}
