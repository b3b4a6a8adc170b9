//! The controller's brain: decides, and does nothing. No system call, no clock, no log.
//!
//! Whatever happens comes in as an [`Event`], with the time; whatever is to be done goes out as an
//! [`Action`]. The handlers of events (`news`) only note what has changed; every event ends in
//! `settle`, which compares what is wanted with what is. So merged signals, failed forks, late news,
//! scaling and reload all take the same path.

#[cfg(test)]
mod deadlines_tests;
#[cfg(test)]
mod generations_tests;
mod news;
mod settle;
mod slot;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;

pub use self::slot::SlotView;
use self::slot::{Leaving, Slot, Successor};
use super::backoff::Jitter;
use crate::exit::Exit;
use crate::process::wait::Ending;

/// How long a worker may take from fork to READY.
pub const BOOT_TIMEOUT: Duration = Duration::from_secs(10);
/// The most slots there can be.
pub const MOST_SLOTS: u32 = 1024;
/// From SIGABRT, with which a hung worker leaves a core, to SIGKILL.
const ABORT_GRACE: Duration = Duration::from_secs(5);
/// What a worker may overrun its own deadline by before it is killed.
const OVERRUN: Duration = Duration::from_millis(500);
/// A silence of our own that long says that we, not the workers, were stopped or suspended.
const OWN_SILENCE: Duration = Duration::from_secs(3);
/// A worker whose loop has not turned for so long gets no new connections; it turns once a second.
const UNRESPONSIVE: Duration = Duration::from_millis(1500);
/// A queue is looked after by a sibling when its worker takes longer than this to get ready.
const RESCUE_AFTER: Duration = Duration::from_millis(300);

/// How many generations of workers may drain at a time (and a few recycled workers beside them).
const OLD_GENERATIONS: usize = 6;
/// Whoever tells one worker to drain may be telling the whole group, us too, in this moment.
const GROUP_STOP: Duration = Duration::from_millis(50);
/// Two signals to stop that come so close together are one that was sent twice: to the process and to
/// its group.
const SAME_STOP: Duration = Duration::from_millis(100);

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
}

/// What has happened.
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
    /// Tell this worker that its successor has taken over: it accepts no more and drains.
    Retire(Pid),
    /// The slot is gone: its queue is to be emptied and closed by this worker, which is its own
    /// (and retires then) or, if it has none, a sibling.
    CloseSlot(u32, Option<Pid>),
    /// Let this worker accept from the slot's queue too.
    Rescue(u32, Pid),
    /// The slot's own worker accepts again.
    Release(u32, Pid),
    /// Close the slots' listeners: nothing new is to be accepted once the workers have closed theirs.
    CloseListeners,
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

/// Where the daemon is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The first generation gets ready, until then.
    Starting(Instant),
    /// As it should be.
    Running,
    /// Told to stop; still accepting, until then.
    Delaying(Instant),
    /// Waiting for all workers to end; then they are killed.
    Ending(Exit, Instant),
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
}

/// The brain.
#[derive(Debug)]
pub struct Supervisor {
    plan: Plan,
    phase: Phase,
    slots: Vec<Slot>,
    leaving: Vec<Leaving>,
    renewing: bool,
    /// When we were first told to stop.
    stopped: Option<Instant>,
    jitter: Jitter,
    last_event: Instant,
}

impl Supervisor {
    /// A brain that wants every slot filled. `seed` makes its random waits its own.
    pub fn new(plan: Plan, seed: u64, now: Instant) -> Self {
        Self {
            plan,
            phase: Phase::Starting(now + BOOT_TIMEOUT),
            slots: (0..plan.slots).map(|_| Slot::new(now)).collect(),
            leaving: Vec::new(),
            renewing: false,
            stopped: None,
            jitter: Jitter::new(seed),
            last_event: now,
        }
    }

    /// A brain that takes over running workers and, if `renew`, wants each one replaced by a new one.
    /// `highest` is the last slot that has anything, be it a worker or a socket.
    pub fn resume(
        plan: Plan,
        seed: u64,
        now: Instant,
        inherited: &[Inherited],
        highest: u32,
        renew: bool,
    ) -> Self {
        let mut brain =
            Self { phase: Phase::Running, renewing: renew, ..Self::new(plan, seed, now) };
        while (brain.slots.len() as u32) < highest {
            brain.slots.push(Slot::new(now));
        }
        for worker in inherited {
            let Inherited { pid, slot, leaving } = *worker;
            match leaving {
                Some(left) => brain.leaving.push(Leaving::new(pid, slot, now + left)),
                None => brain.slots[slot as usize - 1].inherit(pid, now, renew),
            }
        }
        brain
    }

    /// Takes note of an event and appends what is to be done.
    pub fn on(&mut self, event: Event, now: Instant, actions: &mut Vec<Action>) {
        self.forgive_own_silence(now);
        self.note(event, now, actions);
        // Only when all beats of a round are in can anybody be found silent.
        if event == Event::Tick {
            self.look_at_health(now, actions);
        }
        self.settle(now, actions);
    }

    /// When the next [`Event::Tick`] is due at the latest, besides the one a second.
    pub fn deadline(&self) -> Option<Instant> {
        let phase = match self.phase {
            Phase::Running => None,
            Phase::Starting(at) | Phase::Delaying(at) | Phase::Ending(_, at) => Some(at),
        };
        let wants = self.wants_workers();
        let slots = self.slots.iter().flat_map(|slot| slot.deadlines(&self.plan, wants));
        slots.chain(self.leaving.iter().map(|leaving| leaving.kill_at)).chain(phase).min()
    }

    /// All workers that have not ended.
    pub fn pids(&self) -> Vec<Pid> {
        let leaving = self.leaving.iter().map(|leaving| leaving.pid);
        self.slots.iter().flat_map(Slot::pids).chain(leaving).collect()
    }

    /// All workers that have not ended, as the next image needs to know them.
    pub fn inheritance(&self, now: Instant) -> Vec<Inherited> {
        let mut workers = Vec::new();
        for (slot, number) in self.slots.iter().zip(1..) {
            workers.extend(slot.state.pid().map(|pid| Inherited {
                pid,
                slot: number,
                leaving: None,
            }));
        }
        workers.extend(self.leaving.iter().map(|leaving| Inherited {
            pid: leaving.pid,
            slot: leaving.slot,
            leaving: Some(leaving.kill_at.saturating_duration_since(now)),
        }));
        workers
    }

    /// Whether this worker is its slot's, or is about to be.
    pub fn is_in_slot(&self, pid: Pid) -> bool {
        self.slot_of(pid).or_else(|| self.slot_of_successor(pid)).is_some()
    }

    /// The slots whose workers accept and respond.
    pub fn healthy(&self) -> Vec<u32> {
        let slots = self.slots.iter().zip(1..).take(self.plan.slots as usize);
        slots.filter(|(slot, _)| slot.is_healthy()).map(|(_, number)| number).collect()
    }

    /// The same with their workers.
    pub fn healthy_workers(&self) -> Vec<(u32, Pid)> {
        let pid = |slot: &u32| self.slots[*slot as usize - 1].state.pid();
        self.healthy().into_iter().filter_map(|slot| Some((slot, pid(&slot)?))).collect()
    }

    /// What every slot has, from the first.
    pub fn views(&self, now: Instant) -> impl Iterator<Item = SlotView> {
        self.slots.iter().map(move |slot| slot.view(now))
    }

    /// How many slots are wanted.
    pub fn wanted(&self) -> u32 {
        self.plan.slots
    }

    /// Whether the daemon is up and meant to stay so, with no change of generation under way: then it
    /// may be reloaded.
    pub fn is_steady(&self) -> bool {
        let unsettled = |slot: &Slot| slot.state.is_unsettled();
        self.phase == Phase::Running && !self.renewing && !self.slots.iter().any(unsettled)
    }

    /// Whether a new generation is taking over.
    pub fn is_renewing(&self) -> bool {
        self.renewing
    }

    /// Whether the daemon has been told to stop.
    pub fn is_stopping(&self) -> bool {
        matches!(self.phase, Phase::Delaying(_) | Phase::Ending(..))
    }

    /// How long until the rest is killed, once draining.
    pub fn drain_left(&self, now: Instant) -> Option<Duration> {
        match self.phase {
            Phase::Ending(_, kill_at) => Some(kill_at.saturating_duration_since(now)),
            Phase::Delaying(until) => {
                Some(until.saturating_duration_since(now) + self.plan.graceful_timeout)
            }
            Phase::Starting(_) | Phase::Running => None,
        }
    }

    /// Whether the first generation is still to get ready.
    pub fn is_starting(&self) -> bool {
        matches!(self.phase, Phase::Starting(_))
    }

    fn wants_workers(&self) -> bool {
        !matches!(self.phase, Phase::Ending(..))
    }

    fn slot_mut(&mut self, slot: u32) -> Option<&mut Slot> {
        self.slots.get_mut(slot as usize - 1)
    }

    fn slot_of(&self, pid: Pid) -> Option<u32> {
        let index = self.slots.iter().position(|slot| slot.state.pid() == Some(pid))?;
        Some(index as u32 + 1)
    }

    fn slot_of_successor(&self, pid: Pid) -> Option<u32> {
        let booting = |slot: &Slot| matches!(slot.successor, Some(Successor::Booting(successor, _)) if successor == pid);
        Some(self.slots.iter().position(booting)? as u32 + 1)
    }

    fn end(&mut self, exit: Exit, kill_at: Instant, actions: &mut Vec<Action>) {
        self.phase = Phase::Ending(exit, kill_at);
        // Nobody is to be born into a daemon that ends.
        actions.retain(|action| !matches!(action, Action::Spawn(_)));
        self.slots.iter_mut().for_each(Slot::stop_forking);
        actions.push(Action::CloseListeners);
        actions.extend(self.pids().into_iter().map(|pid| Action::Signal(pid, Signal::SIGTERM)));
    }

    fn forgive_own_silence(&mut self, now: Instant) {
        let silence = now.saturating_duration_since(self.last_event);
        let half = self.plan.worker_timeout.map_or(OWN_SILENCE, |limit| limit / 2);
        if silence > OWN_SILENCE.min(half) {
            self.slots.iter_mut().for_each(|slot| slot.forgive(now));
            if let Phase::Starting(until) = &mut self.phase {
                *until += silence;
            }
        }
        self.last_event = now;
    }
}
