//! The supervisor: decides which processes to start, replace, retire, and kill.
//!
//! It is pure: no system call, no clock, no log. Events come in with the time, [`Action`]s come
//! out. `transitions` contains the change that each event makes; every event ends in `reconcile`,
//! which compares the processes that exist with those that are wanted. So merged signals, failed
//! forks, late messages, scaling, and reloads take the same path.
//!
//! Each slot has one process, or two while a successor is started. Slot 0 is the admin process's,
//! the others are the workers'. The same rules apply to both, with these exceptions: an admin
//! process is killed instead of aborted, is replaced at once in a reload, is started again if it
//! fails in a reload, and ends last.
//!
//! | decision | where |
//! |---|---|
//! | delay before the next process of a slot | `schedule_restart` in `transitions`; [`super::restart_backoff`] |
//! | order in which a reload replaces workers | `replace_next_worker` in `reconcile` |
//! | workers that get no new connections, or hang | `check_health` in `reconcile` |
//! | begin of a drain | `drain` in `transitions`, which logs `draining` through [`super::publish`] |

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

pub(crate) use self::events::{Action, Event, HandoverProcess, LogEvent, Plan};
pub(crate) use self::slot::SlotView;
use self::slot::{Leaving, Slot};
use super::queues::{SlotView as QueueSlot, View};
use super::restart_backoff::Jitter;
use crate::daemon::ids::SlotId;
use crate::daemon::stats::Phase;
use crate::exit::Exit;

/// Time from fork to READY after which a process counts as failed.
pub(crate) const STARTUP_TIMEOUT: Duration = Duration::from_secs(10);
/// Time from SIGABRT, which makes a failed worker leave a core, to SIGKILL.
const ABORT_GRACE: Duration = Duration::from_secs(5);
/// Time after a process's own deadline at which it is killed.
const KILL_GRACE: Duration = Duration::from_millis(500);
/// Time without any event after which the controller, and not the workers, was stopped or
/// suspended.
const OWN_PAUSE: Duration = Duration::from_secs(3);
/// Time without heartbeat after which a worker gets no new connections; it sends one a second.
const UNRESPONSIVE_AFTER: Duration = Duration::from_millis(1500);
/// Time in which a replaced admin process ends its responses.
pub(crate) const ADMIN_DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// Time in which the admin process stops after the last worker.
const ADMIN_STOP_TIMEOUT: Duration = Duration::from_millis(500);
/// Number of generations of workers that may drain at a time.
const MAX_OLD_GENERATIONS: usize = 6;
/// Delay before a worker that was told to drain is replaced: the same signal to the process group
/// may be about to stop the controller.
const GROUP_SIGNAL_DELAY: Duration = Duration::from_millis(50);
/// Time within which a second stop signal counts as the same one, sent to the process and to its
/// group.
const DUPLICATE_STOP: Duration = Duration::from_millis(100);

/// State of the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lifecycle {
    /// The first workers have until this time to become ready.
    Starting { until: Instant },
    /// The daemon serves.
    Running,
    /// The daemon was told to stop, and accepts until this time.
    Delaying { until: Instant },
    /// All workers drain; the remaining ones are killed at this time.
    Draining { exit: Exit, kill_at: Instant },
    /// All workers have ended, and the admin process was told to stop.
    StoppingAdmin { exit: Exit },
}

/// The processes that exist and those that are wanted.
#[derive(Clone, Debug)]
pub(crate) struct Supervisor {
    plan: Plan,
    lifecycle: Lifecycle,
    /// The slots, indexed by their number.
    slots: Vec<Slot>,
    /// Processes that have left their slot and have not ended.
    leaving: Vec<Leaving>,
    /// `true` while a reload replaces the workers.
    replacing: bool,
    /// Time of the first stop signal.
    stopped: Option<Instant>,
    jitter: Jitter,
    last_event: Instant,
}

impl Supervisor {
    /// Returns a supervisor of a daemon that starts, without any process. `seed` varies the restart
    /// delays.
    pub(crate) fn new(plan: Plan, seed: u64, now: Instant) -> Self {
        Self {
            plan,
            lifecycle: Lifecycle::Starting { until: now + STARTUP_TIMEOUT },
            slots: (0..=plan.slots).map(|_| Slot::new(now)).collect(),
            leaving: Vec::new(),
            replacing: false,
            stopped: None,
            jitter: Jitter::new(seed),
            last_event: now,
        }
    }

    /// Returns a supervisor with the processes of the previous image. If `replace_workers` is set,
    /// each worker is replaced. `highest` is the highest slot with a worker.
    pub(crate) fn restore(
        plan: Plan,
        seed: u64,
        now: Instant,
        inherited: &[HandoverProcess],
        highest: SlotId,
        replace_workers: bool,
    ) -> Self {
        let lifecycle = Lifecycle::Running;
        let mut restored =
            Self { lifecycle, replacing: replace_workers, ..Self::new(plan, seed, now) };
        while restored.slots.len() <= highest.index() {
            restored.slots.push(Slot::new(now));
        }
        for worker in inherited {
            let HandoverProcess { pid, slot, leaving, kept } = *worker;
            match (leaving, restored.slots.get_mut(slot.index())) {
                (None, Some(own)) => {
                    own.restore(pid, now, replace_workers);
                    own.kept = kept && !replace_workers;
                }
                (left, _) => {
                    let kill_at = now + left.unwrap_or(plan.drain_timeout);
                    restored.leaving.push(Leaving::new(pid, slot, now, kill_at));
                }
            }
        }
        restored
    }

    /// Applies an event and appends the actions that follow.
    pub(crate) fn apply(&mut self, event: Event, now: Instant, actions: &mut Vec<Action>) {
        self.excuse_own_pause(now);
        self.transition(event, now, actions);
        // A tick comes after the heartbeats of its loop iteration.
        if event == Event::Tick {
            self.check_health(now, actions);
        }
        self.reconcile(now, actions);
    }

    /// Returns the time by which the next [`Event::Tick`] is due, in addition to one a second.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let lifecycle = match self.lifecycle {
            Lifecycle::Running | Lifecycle::StoppingAdmin { .. } => None,
            Lifecycle::Starting { until: at }
            | Lifecycle::Delaying { until: at }
            | Lifecycle::Draining { kill_at: at, .. } => Some(at),
        };
        let slots = (0..).map(SlotId).zip(&self.slots);
        let slots = slots.flat_map(|(number, slot)| slot.deadlines(&self.plan, self.wants(number)));
        slots.chain(self.leaving.iter().map(|leaving| leaving.kill_at)).chain(lifecycle).min()
    }

    /// Returns the workers that have not ended.
    pub(crate) fn pids(&self) -> Vec<Pid> {
        let leaving = self.leaving.iter().filter(|leaving| leaving.slot != SlotId::ADMIN);
        let leaving = leaving.map(|leaving| leaving.pid);
        self.slots.iter().skip(1).flat_map(Slot::pids).chain(leaving).collect()
    }

    /// Returns the state handover of all processes that have not ended.
    pub(crate) fn serialize(&self, now: Instant) -> Vec<HandoverProcess> {
        let mut processes = Vec::new();
        for (slot, number) in self.slots.iter().zip((0..).map(SlotId)) {
            let kept = slot.kept;
            let current = |pid| HandoverProcess { pid, slot: number, leaving: None, kept };
            processes.extend(slot.state.pid().map(current));
        }
        processes.extend(self.leaving.iter().map(|leaving| HandoverProcess {
            pid: leaving.pid,
            slot: leaving.slot,
            leaving: Some(leaving.kill_at.saturating_duration_since(now)),
            kept: false,
        }));
        processes
    }

    /// Returns `true` if [`Action::Spawn`] of this slot is still to be carried out.
    pub(crate) fn is_forking(&self, slot: SlotId) -> bool {
        self.slots.get(slot.index()).is_some_and(Slot::is_forking)
    }

    /// Returns `true` if a process is in its slot, as the current one or as successor.
    pub(crate) fn is_in_slot(&self, pid: Pid) -> bool {
        self.slot_of(pid).or_else(|| self.slot_of_successor(pid)).is_some()
    }

    /// Returns the slots whose workers are ready and responsive.
    pub(crate) fn healthy(&self) -> Vec<SlotId> {
        self.healthy_workers().into_iter().map(|(slot, _)| slot).collect()
    }

    /// Returns the ready and responsive workers with their slots.
    pub(crate) fn healthy_workers(&self) -> Vec<(SlotId, Pid)> {
        let wanted = SlotId::workers(self.plan.slots).zip(&self.slots[SlotId::FIRST.index()..]);
        let healthy = wanted.filter(|(_, slot)| slot.is_healthy());
        healthy.filter_map(|(number, slot)| Some((number, slot.state.pid()?))).collect()
    }

    /// Returns the processes in the form that the queues are reconciled with.
    pub(crate) fn view(&self, now: Instant) -> View {
        let (wanted, surplus) =
            self.slots.split_at(self.slots.len().min(self.plan.slots as usize + 1));
        let surplus = surplus.iter().filter(|slot| slot.is_healthy()).filter_map(Slot::serving);
        let silence = slot::unresponsive_after(self.plan.worker_timeout);
        let responds = |leaving: &&Leaving| !leaving.aborted && leaving.beat + silence > now;
        let leaving = || self.leaving.iter().filter(|leaving| leaving.slot != SlotId::ADMIN);
        let draining = leaving().filter(responds).map(|leaving| leaving.pid);
        View {
            slots: wanted
                .iter()
                .skip(1)
                .map(|slot| QueueSlot {
                    worker: slot.serving(),
                    healthy: slot.is_healthy(),
                    outdated: slot.outdated || slot.kept,
                    takeover_now: slot.is_long_without_worker(now),
                })
                .collect(),
            draining: draining.chain(surplus).collect(),
            alive: self.slots.iter().skip(1).flat_map(Slot::pids).count() + leaving().count(),
            takeover: !self.is_starting(),
            stopping: !self.wants_workers(),
        }
    }

    /// Returns the state of each worker slot for the statistics, from the first slot on.
    pub(crate) fn views(&self, now: Instant) -> impl Iterator<Item = SlotView> {
        self.slots.iter().skip(1).map(move |slot| slot.view(now))
    }

    /// Returns the newest admin process in its slot.
    pub(crate) fn admin(&self) -> Option<Pid> {
        self.slots[SlotId::ADMIN.index()].pids().last()
    }

    /// Returns the wanted number of workers.
    pub(crate) fn wanted(&self) -> u32 {
        self.plan.slots
    }

    /// Returns `true` if the daemon serves and no process is between fork and READY, which permits
    /// a reload.
    pub(crate) fn is_steady(&self) -> bool {
        let starting = |slot: &Slot| slot.state.is_starting() || slot.successor.is_some();
        self.lifecycle == Lifecycle::Running && !self.replacing && !self.slots.iter().any(starting)
    }

    /// Returns the phase of the daemon for log, statistics, and service manager. `checking` is
    /// `true` while the next build checks its configuration.
    pub(crate) fn phase(&self, checking: bool) -> Phase {
        match self.lifecycle {
            Lifecycle::Starting { .. } => Phase::Starting,
            Lifecycle::Running if self.replacing || checking => Phase::Reloading,
            Lifecycle::Running => Phase::Serving,
            _ => Phase::Draining,
        }
    }

    /// Returns `true` while a reload replaces the workers.
    #[cfg(test)]
    pub(crate) fn is_replacing(&self) -> bool {
        self.replacing
    }

    /// Returns `true` if the daemon has been told to stop.
    pub(crate) fn is_stopping(&self) -> bool {
        !matches!(self.lifecycle, Lifecycle::Starting { .. } | Lifecycle::Running)
    }

    /// Returns `true` once the workers have been told to drain.
    pub(crate) fn is_draining(&self) -> bool {
        !self.wants_workers()
    }

    /// Returns the time until the remaining workers are killed, or `None` unless the daemon stops.
    pub(crate) fn drain_left(&self, now: Instant) -> Option<Duration> {
        match self.lifecycle {
            Lifecycle::Draining { kill_at, .. } => Some(kill_at.saturating_duration_since(now)),
            Lifecycle::Delaying { until } => {
                Some(until.saturating_duration_since(now) + self.plan.graceful_timeout)
            }
            Lifecycle::StoppingAdmin { .. } => Some(ADMIN_STOP_TIMEOUT),
            Lifecycle::Starting { .. } | Lifecycle::Running => None,
        }
    }

    /// Returns `true` until the first workers are ready.
    pub(crate) fn is_starting(&self) -> bool {
        matches!(self.lifecycle, Lifecycle::Starting { .. })
    }

    fn wants_workers(&self) -> bool {
        !matches!(self.lifecycle, Lifecycle::Draining { .. } | Lifecycle::StoppingAdmin { .. })
    }

    /// Returns `true` if this slot should have a process. The admin process is wanted until the
    /// last worker has ended.
    fn wants(&self, number: SlotId) -> bool {
        match number {
            SlotId::ADMIN => {
                self.plan.admin && !matches!(self.lifecycle, Lifecycle::StoppingAdmin { .. })
            }
            _ => self.wants_workers(),
        }
    }

    fn slot_mut(&mut self, slot: SlotId) -> Option<&mut Slot> {
        self.slots.get_mut(slot.index())
    }

    fn slot_of(&self, pid: Pid) -> Option<SlotId> {
        let index = self.slots.iter().position(|slot| slot.state.pid() == Some(pid))?;
        Some(SlotId::from_index(index))
    }

    fn slot_of_successor(&self, pid: Pid) -> Option<SlotId> {
        let index = self.slots.iter().position(|slot| slot.successor_pid() == Some(pid))?;
        Some(SlotId::from_index(index))
    }

    /// Tells all workers to drain, and closes the addresses. The remaining workers are killed at
    /// `kill_at`.
    fn stop_workers(&mut self, exit: Exit, kill_at: Instant, actions: &mut Vec<Action>) {
        self.lifecycle = Lifecycle::Draining { exit, kill_at };
        // A daemon that stops starts no worker.
        self.slots.iter_mut().skip(1).for_each(Slot::stop_forking);
        actions.push(Action::CloseAddresses);
        actions.extend(self.pids().into_iter().map(|pid| Action::Signal(pid, Signal::SIGTERM)));
    }

    /// Restarts all time limits if the controller itself did not run for a while.
    fn excuse_own_pause(&mut self, now: Instant) {
        let pause = now.saturating_duration_since(self.last_event);
        let half = self.plan.worker_timeout.map_or(OWN_PAUSE, |limit| limit / 2);
        if pause > OWN_PAUSE.min(half) {
            self.slots.iter_mut().for_each(|slot| slot.reset_heartbeats(now));
            self.leaving.iter_mut().for_each(|leaving| leaving.beat = now);
            if let Lifecycle::Starting { until } = &mut self.lifecycle {
                *until += pause;
            }
        }
        self.last_event = now;
    }
}
