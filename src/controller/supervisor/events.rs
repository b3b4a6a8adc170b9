//! The events and actions of the supervisor.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::exit::Exit;
use crate::process::wait::Ending;

/// What is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How many slots.
    pub slots: u32,
    /// A worker whose loop stands still for so long is hung; `None`: never.
    pub worker_timeout: Option<Duration>,
    /// How long draining may take.
    pub graceful_timeout: Duration,
    /// How long to go on accepting after being told to stop.
    pub shutdown_delay: Duration,
    /// How long a retired worker may keep its connections.
    pub drain_timeout: Duration,
    /// An admin process is wanted.
    pub admin: bool,
}

/// A change that was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Time has passed. Comes at least once a second.
    Tick,
    /// A worker was forked for this slot.
    Spawned(u32, Pid),
    /// No worker could be forked for this slot.
    NotSpawned(u32),
    /// This worker accepts connections.
    Ready(Pid),
    /// This worker's loop was last seen to turn then.
    Beat(Pid, Instant),
    /// This worker accepts no more and will end: it has had all the connections it may have.
    Retiring(Pid),
    /// The same: somebody has told it to.
    Draining(Pid),
    /// This process has ended; it need not be one of ours.
    Exited(Pid, Ending),
    /// One slot more.
    More,
    /// One slot fewer.
    Fewer,
    /// Somebody wants us to stop; the second time: now.
    Stop,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Fork a worker for this slot and say [`Event::Spawned`] or [`Event::NotSpawned`].
    Spawn(u32),
    /// Send a signal.
    Signal(Pid, Signal),
    /// Kill an admin process, for this reason.
    Kill(Pid, &'static str),
    /// Tell this worker that its successor has taken over: it accepts no more and drains.
    Retire(Pid),
    /// Nothing new is accepted any more: free the addresses.
    CloseAddresses,
    /// End the controller.
    Exit(Exit),
    /// Tell the operator.
    Report(Report),
}

/// What an operator should know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// So many workers are ready: the daemon is up.
    Serving(u32),
    /// No worker has got ready in time.
    NoneReady,
    /// A slot has its worker.
    Ready(u32, Pid),
    /// A worker has gone.
    Exited(u32, Pid, Ending),
    /// An admin process has gone, and is replaced after this time; `None` if it was meant to go.
    AdminExited(Pid, Ending, Option<Duration>),
    /// A slot waits before its next worker.
    Waiting(u32, Duration),
    /// A worker's loop stands still: new connections avoid it.
    Unresponsive(u32, Pid),
    /// It turns again.
    Responsive(u32, Pid),
    /// A worker's loop has stood still for too long: it is replaced.
    Hung(u32, Pid),
    /// A worker does not get ready.
    NotReady(u32, Pid),
    /// A worker says that trying again is of no use.
    Abandoned(u32),
    /// All workers are of the new generation.
    Renewed,
    /// The new worker of this slot did not get ready: the old ones stay.
    NotRenewed(u32),
    /// So many slots are wanted from now on.
    Scaled(u32),
    /// There cannot be more, or fewer, slots than this.
    CannotScale(u32),
    /// Stopping, but still accepting for so long.
    Delaying(Duration),
    /// Draining has begun.
    Draining,
    /// So many workers are killed, because time is up or because of the second signal.
    Killing(u32),
    /// A process has ended that was none of ours.
    Stranger(Pid, Ending),
}

/// A worker that was there before this controller's image.
#[derive(Clone, Copy, Debug)]
pub struct Inherited {
    /// Its pid.
    pub pid: Pid,
    /// Its slot, from 1.
    pub slot: u32,
    /// How much longer it may live, if it has left its slot already.
    pub leaving: Option<Duration>,
    /// It is of an older build than that image, and stays: a reload was given up.
    pub kept: bool,
}
