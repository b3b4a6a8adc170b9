//! The supervisor: which processes there are to be. Pure: no system call, no clock, no log.
//!
//! Events come in with the time, [`Action`]s go out. The `transitions` change only what an event has
//! changed; every event ends in `reconcile`, which compares what is wanted with what is. So merged
//! signals, failed forks, late messages, scaling and reload all take the same path.
//!
//! Slot 0 is the admin process's, the others are the workers'. Both live by the same rules, with these
//! exceptions: an admin process is killed and not aborted, is renewed at once, is tried again if it
//! fails in a reload, and ends last.

#[cfg(test)]
mod admin_tests;
#[cfg(test)]
mod deadlines_tests;
mod events;
#[cfg(test)]
mod generations_tests;
mod reconcile;
mod slot;
#[cfg(test)]
mod tests;
mod transitions;

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;

pub use self::events::{Action, Event, Inherited, Plan, Report};
pub use self::slot::SlotView;
use self::slot::{Leaving, Slot, Successor};
use super::backoff::Jitter;
use super::queues::{SlotView as QueueSlot, View};
use crate::exit::Exit;
use crate::stats::Phase;

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
/// The slot of the admin process.
pub const ADMIN: u32 = 0;
/// Time in which an admin process that has a successor ends its answers.
pub const ADMIN_RETIRES: Duration = Duration::from_secs(2);
/// Time in which the admin process ends, last of all.
const ADMIN_ENDS: Duration = Duration::from_millis(500);
/// How many generations of workers may drain at a time (and a few recycled workers beside them).
const OLD_GENERATIONS: usize = 6;
/// Whoever tells one worker to drain may be telling the whole group, us too, in this moment.
const GROUP_STOP: Duration = Duration::from_millis(50);
/// Two signals to stop that come so close together are one that was sent twice: to the process and to
/// its group.
const SAME_STOP: Duration = Duration::from_millis(100);

/// Where the daemon is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lifecycle {
    /// The first generation has until then to become ready.
    Starting { until: Instant },
    /// As it should be.
    Running,
    /// Told to stop; still accepting, until then.
    Delaying { until: Instant },
    /// Waiting for all workers to end; at that time they are killed.
    Ending { exit: Exit, kill_at: Instant },
    /// All workers have ended, and the admin process was told to.
    EndingAdmin { exit: Exit },
}

/// The processes that are, and those that are to be.
#[derive(Clone, Debug)]
pub struct Supervisor {
    plan: Plan,
    lifecycle: Lifecycle,
    /// By their number: the admin process's, then the workers'.
    slots: Vec<Slot>,
    leaving: Vec<Leaving>,
    renewing: bool,
    /// When we were first told to stop.
    stopped: Option<Instant>,
    jitter: Jitter,
    last_event: Instant,
}

impl Supervisor {
    /// A supervisor that wants every slot filled. `seed` makes its random waits its own.
    pub fn new(plan: Plan, seed: u64, now: Instant) -> Self {
        Self {
            plan,
            lifecycle: Lifecycle::Starting { until: now + BOOT_TIMEOUT },
            slots: (0..=plan.slots).map(|_| Slot::new(now)).collect(),
            leaving: Vec::new(),
            renewing: false,
            stopped: None,
            jitter: Jitter::new(seed),
            last_event: now,
        }
    }

    /// A supervisor that takes over running processes and, if `renew`, wants each worker replaced by a
    /// new one. `highest` is the last slot that has anything, be it a worker or a socket.
    pub fn resume(
        plan: Plan,
        seed: u64,
        now: Instant,
        inherited: &[Inherited],
        highest: u32,
        renew: bool,
    ) -> Self {
        let lifecycle = Lifecycle::Running;
        let mut resumed = Self { lifecycle, renewing: renew, ..Self::new(plan, seed, now) };
        while (resumed.slots.len() as u32) <= highest {
            resumed.slots.push(Slot::new(now));
        }
        for worker in inherited {
            let Inherited { pid, slot, leaving, kept } = *worker;
            match (leaving, resumed.slots.get_mut(slot as usize)) {
                (None, Some(own)) => {
                    own.inherit(pid, now, renew);
                    own.kept = kept && !renew;
                }
                (left, _) => {
                    let kill_at = now + left.unwrap_or(plan.drain_timeout);
                    resumed.leaving.push(Leaving::new(pid, slot, now, kill_at));
                }
            }
        }
        resumed
    }

    /// Applies an event and appends the actions that follow.
    pub fn apply(&mut self, event: Event, now: Instant, actions: &mut Vec<Action>) {
        self.forgive_own_silence(now);
        self.change(event, now, actions);
        // Only when all beats are in can anybody be found silent.
        if event == Event::Tick {
            self.check_health(now, actions);
        }
        self.reconcile(now, actions);
    }

    /// When the next [`Event::Tick`] is due at the latest, besides the one a second.
    pub fn deadline(&self) -> Option<Instant> {
        let lifecycle = match self.lifecycle {
            Lifecycle::Running | Lifecycle::EndingAdmin { .. } => None,
            Lifecycle::Starting { until: at }
            | Lifecycle::Delaying { until: at }
            | Lifecycle::Ending { kill_at: at, .. } => Some(at),
        };
        let slots = (0..).zip(&self.slots);
        let slots = slots.flat_map(|(number, slot)| slot.deadlines(&self.plan, self.wants(number)));
        slots.chain(self.leaving.iter().map(|leaving| leaving.kill_at)).chain(lifecycle).min()
    }

    /// All workers that have not ended.
    pub fn pids(&self) -> Vec<Pid> {
        let leaving = self.leaving.iter().filter(|leaving| leaving.slot != ADMIN);
        let leaving = leaving.map(|leaving| leaving.pid);
        self.slots.iter().skip(1).flat_map(Slot::pids).chain(leaving).collect()
    }

    /// All processes that have not ended, as the next image needs to know them.
    pub fn inheritance(&self, now: Instant) -> Vec<Inherited> {
        let mut processes = Vec::new();
        for (slot, number) in self.slots.iter().zip(0..) {
            let kept = slot.kept;
            let inherited = |pid| Inherited { pid, slot: number, leaving: None, kept };
            processes.extend(slot.state.pid().map(inherited));
        }
        processes.extend(self.leaving.iter().map(|leaving| Inherited {
            pid: leaving.pid,
            slot: leaving.slot,
            leaving: Some(leaving.kill_at.saturating_duration_since(now)),
            kept: false,
        }));
        processes
    }

    /// Returns `true` if a fork that was asked for is still wanted.
    pub fn is_forking(&self, slot: u32) -> bool {
        self.slots.get(slot as usize).is_some_and(Slot::is_forking)
    }

    /// Returns `true` if this process is its slot's, or is about to be.
    pub fn is_in_slot(&self, pid: Pid) -> bool {
        self.slot_of(pid).or_else(|| self.slot_of_successor(pid)).is_some()
    }

    /// The slots whose workers accept and respond.
    pub fn healthy(&self) -> Vec<u32> {
        self.healthy_workers().into_iter().map(|(slot, _)| slot).collect()
    }

    /// The slots whose workers accept and respond, with these workers.
    pub fn healthy_workers(&self) -> Vec<(u32, Pid)> {
        let wanted = (0..).zip(&self.slots).take(self.plan.slots as usize + 1).skip(1);
        let healthy = wanted.filter(|(_, slot)| slot.is_healthy());
        healthy.filter_map(|(number, slot)| Some((number, slot.state.pid()?))).collect()
    }

    /// The processes as the owner of the queues needs to know them.
    pub(crate) fn view(&self, now: Instant) -> View {
        let slots = self.slots.iter().take(self.plan.slots as usize + 1).skip(1);
        let silence = slot::unresponsive_after(self.plan.worker_timeout);
        let responds = |leaving: &&Leaving| !leaving.aborted && leaving.beat + silence > now;
        let draining = self.leaving.iter().filter(|leaving| leaving.slot != ADMIN);
        let draining = draining.filter(responds);
        View {
            slots: slots
                .map(|slot| QueueSlot {
                    worker: slot.serving(),
                    healthy: slot.is_healthy(),
                    outdated: slot.outdated || slot.kept,
                    takeover_now: slot.is_long_without_worker(now),
                })
                .collect(),
            draining: draining.map(|leaving| leaving.pid).collect(),
            takeover: !self.is_starting(),
            stopping: !self.wants_workers(),
        }
    }

    /// What every worker's slot has, from the first.
    pub fn views(&self, now: Instant) -> impl Iterator<Item = SlotView> {
        self.slots.iter().skip(1).map(move |slot| slot.view(now))
    }

    /// The admin process that answers or is about to.
    pub fn admin(&self) -> Option<Pid> {
        self.slots[ADMIN as usize].pids().last()
    }

    /// How many slots are wanted.
    pub fn wanted(&self) -> u32 {
        self.plan.slots
    }

    /// Returns `true` if the daemon is up and meant to stay so, with no process between fork and
    /// READY: then it may be reloaded.
    pub fn is_steady(&self) -> bool {
        let unsettled = |slot: &Slot| slot.state.is_unsettled() || slot.successor.is_some();
        self.lifecycle == Lifecycle::Running && !self.renewing && !self.slots.iter().any(unsettled)
    }

    /// Where the daemon is in its life, for everybody who asks. `checking` says whether the next
    /// build is checking its configuration.
    pub fn phase(&self, checking: bool) -> Phase {
        match self.lifecycle {
            Lifecycle::Starting { .. } => Phase::Starting,
            Lifecycle::Running if self.renewing || checking => Phase::Reloading,
            Lifecycle::Running => Phase::Serving,
            _ => Phase::Draining,
        }
    }

    /// Whether a new generation is taking over.
    pub fn is_renewing(&self) -> bool {
        self.renewing
    }

    /// Returns `true` if the daemon has been told to stop.
    pub fn is_stopping(&self) -> bool {
        !matches!(self.lifecycle, Lifecycle::Starting { .. } | Lifecycle::Running)
    }

    /// Returns `true` once the workers have been told to drain.
    pub fn is_draining(&self) -> bool {
        !self.wants_workers()
    }

    /// Time until the remaining workers are killed, if the daemon drains.
    pub fn drain_left(&self, now: Instant) -> Option<Duration> {
        match self.lifecycle {
            Lifecycle::Ending { kill_at, .. } => Some(kill_at.saturating_duration_since(now)),
            Lifecycle::Delaying { until } => {
                Some(until.saturating_duration_since(now) + self.plan.graceful_timeout)
            }
            Lifecycle::EndingAdmin { .. } => Some(ADMIN_ENDS),
            Lifecycle::Starting { .. } | Lifecycle::Running => None,
        }
    }

    /// Returns `true` while the first generation is to become ready.
    pub fn is_starting(&self) -> bool {
        matches!(self.lifecycle, Lifecycle::Starting { .. })
    }

    fn wants_workers(&self) -> bool {
        !matches!(self.lifecycle, Lifecycle::Ending { .. } | Lifecycle::EndingAdmin { .. })
    }

    /// Whether this slot is to have a process: the admin process answers until the last worker has
    /// ended.
    fn wants(&self, number: u32) -> bool {
        match number {
            ADMIN => self.plan.admin && !matches!(self.lifecycle, Lifecycle::EndingAdmin { .. }),
            _ => self.wants_workers(),
        }
    }

    fn slot_mut(&mut self, slot: u32) -> Option<&mut Slot> {
        self.slots.get_mut(slot as usize)
    }

    fn slot_of(&self, pid: Pid) -> Option<u32> {
        let index = self.slots.iter().position(|slot| slot.state.pid() == Some(pid))?;
        Some(index as u32)
    }

    fn slot_of_successor(&self, pid: Pid) -> Option<u32> {
        let booting = |slot: &Slot| matches!(slot.successor, Some(Successor::Booting { pid: successor, .. }) if successor == pid);
        Some(self.slots.iter().position(booting)? as u32)
    }

    fn end(&mut self, exit: Exit, kill_at: Instant, actions: &mut Vec<Action>) {
        self.lifecycle = Lifecycle::Ending { exit, kill_at };
        // No worker is born into a daemon that ends.
        self.slots.iter_mut().skip(1).for_each(Slot::stop_forking);
        actions.push(Action::CloseAddresses);
        actions.extend(self.pids().into_iter().map(|pid| Action::Signal(pid, Signal::SIGTERM)));
    }

    fn forgive_own_silence(&mut self, now: Instant) {
        let silence = now.saturating_duration_since(self.last_event);
        let half = self.plan.worker_timeout.map_or(OWN_SILENCE, |limit| limit / 2);
        if silence > OWN_SILENCE.min(half) {
            self.slots.iter_mut().for_each(|slot| slot.forgive(now));
            self.leaving.iter_mut().for_each(|leaving| leaving.beat = now);
            if let Lifecycle::Starting { until } = &mut self.lifecycle {
                *until += silence;
            }
        }
        self.last_event = now;
    }
}
