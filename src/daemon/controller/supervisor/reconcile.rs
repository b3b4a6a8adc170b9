//! Reconciliation: starts, replaces, retires, and kills processes until those that exist are those
//! that are wanted.
//!
//! A reload replaces the workers one at a time in ascending order of their slots, each after its
//! successor is ready ([`Supervisor::replace_next_worker`]). Surplus slots are removed in
//! descending order.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::slot::{Leaving, Slot, State, Successor, unresponsive_after};
use super::{
    ABORT_GRACE, ADMIN_DRAIN_TIMEOUT, ADMIN_STOP_TIMEOUT, Action, KILL_GRACE, Lifecycle, LogEvent,
    MAX_OLD_GENERATIONS, STARTUP_TIMEOUT, Supervisor,
};
use crate::daemon::ids::SlotId;
use crate::daemon::stats::Cause;
use crate::exit::Exit;

impl Supervisor {
    /// Appends the actions that bring the processes closer to the wanted ones.
    pub(super) fn reconcile(&mut self, now: Instant, actions: &mut Vec<Action>) {
        self.limit_draining_workers(now, actions);
        self.kill_overdue(now, actions);
        self.stop_if_all_abandoned(now, actions);
        self.advance_lifecycle(now, actions);
        self.reconcile_admin(now, actions);
        if self.wants_workers() {
            self.retire_surplus_slots(now, actions);
            for number in (1..self.slots.len()).map(SlotId::from_index) {
                self.start_due(number, now, actions);
            }
            self.replace_next_worker(actions);
        }
    }

    /// Stops a daemon whose slots are all abandoned, because it serves nothing.
    fn stop_if_all_abandoned(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let wanted = &self.slots[1..=self.plan.slots as usize];
        if self.wants_workers() && wanted.iter().all(|slot| slot.state == State::Abandoned) {
            self.stop_workers(Exit::Failure, now + KILL_GRACE, actions);
        }
    }

    /// Returns the time in which the replaced process of a slot drains.
    pub(super) fn retirement(&self, number: SlotId) -> Duration {
        if number.is_admin() { ADMIN_DRAIN_TIMEOUT } else { self.plan.drain_timeout }
    }

    /// Detects processes without heartbeat and processes that did not become ready in time. New
    /// connections avoid an unresponsive worker; a hung one leaves its slot, and its successor
    /// takes over the accept queue without waiting for its end.
    pub(super) fn check_health(&mut self, now: Instant, actions: &mut Vec<Action>) {
        for number in (0..self.slots.len()).map(SlotId::from_index) {
            let slot = &mut self.slots[number.index()];
            let limit = slot.worker_timeout(&self.plan);
            let suspicious = unresponsive_after(limit);
            if let Some(Successor::Starting { pid, since }) = slot.successor {
                if since + STARTUP_TIMEOUT <= now {
                    slot.successor = None;
                    self.not_ready(number, pid, now, actions);
                    self.successor_failed(number, now, actions);
                    continue;
                }
            }
            match slot.state {
                State::Starting { pid, since } if since + STARTUP_TIMEOUT <= now => {
                    self.not_ready(number, pid, now, actions);
                    self.replace(number, None, now, actions);
                }
                State::Serving { pid, since, beat } => {
                    if limit.is_some_and(|limit| beat + limit <= now) {
                        if number.is_admin() {
                            self.kill_admin(pid, "hung", Cause::Hung, now, actions);
                        } else {
                            self.count_restart(number, pid, Cause::Hung, actions);
                            actions.push(Action::Log(LogEvent::Hung(number, pid)));
                            self.abort(number, pid, now, actions);
                        }
                        let served = beat.saturating_duration_since(since);
                        self.replace(number, Some(served), now, actions);
                    } else if slot.unresponsive != (beat + suspicious <= now) {
                        slot.unresponsive = !slot.unresponsive;
                        let event = if slot.unresponsive {
                            LogEvent::Unresponsive
                        } else {
                            LogEvent::Responsive
                        };
                        if !number.is_admin() {
                            actions.push(Action::Log(event(number, pid)));
                        }
                    }
                }
                _ => {}
            }
        }
    }

    fn not_ready(&mut self, number: SlotId, pid: Pid, now: Instant, actions: &mut Vec<Action>) {
        if number.is_admin() {
            return self.kill_admin(pid, "did not become ready", Cause::Boot, now, actions);
        }
        self.count_restart(number, pid, Cause::Boot, actions);
        actions.push(Action::Log(LogEvent::NotReady(number, pid)));
        self.abort(number, pid, now, actions);
    }

    /// Vacates a slot whose process has failed after serving for `served`, and schedules the next
    /// one.
    fn replace(
        &mut self,
        number: SlotId,
        served: Option<Duration>,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        self.vacate(number, now);
        let vacant = matches!(self.slots[number.index()].state, State::Empty { .. });
        if vacant && self.wants(number) {
            self.schedule_restart(number, served, now, actions);
        }
    }

    /// Aborts a worker that has failed, so that it leaves a core.
    fn abort(&mut self, slot: SlotId, pid: Pid, now: Instant, actions: &mut Vec<Action>) {
        actions.push(Action::Signal(pid, Signal::SIGABRT));
        let leaving = Leaving::new(pid, slot, now, now + ABORT_GRACE);
        self.leaving.push(Leaving { aborted: true, ..leaving });
    }

    fn kill_admin(
        &mut self,
        pid: Pid,
        reason: &'static str,
        cause: Cause,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        actions.push(Action::Kill(pid, reason));
        actions.push(Action::CountRestart(SlotId::ADMIN, pid, cause));
        let leaving = Leaving::new(pid, SlotId::ADMIN, now, now + ABORT_GRACE);
        self.leaving.push(Leaving { aborted: true, ..leaving });
    }

    /// Limits the number of draining workers: the oldest surplus ones drain as when the daemon
    /// stops.
    fn limit_draining_workers(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let most = self.plan.slots as usize * MAX_OLD_GENERATIONS + 64;
        let surplus = self.leaving.len().saturating_sub(most);
        for leaving in self.leaving.iter_mut().take(surplus).filter(|leaving| !leaving.hurried) {
            leaving.hurried = true;
            leaving.kill_at = leaving.kill_at.min(now + self.plan.graceful_timeout + KILL_GRACE);
            actions.push(Action::Signal(leaving.pid, Signal::SIGTERM));
        }
    }

    /// Kills the processes that have not ended by their deadline.
    fn kill_overdue(&mut self, now: Instant, actions: &mut Vec<Action>) {
        for leaving in self.leaving.iter_mut().filter(|leaving| leaving.kill_at <= now) {
            leaving.kill_at = now + ABORT_GRACE;
            actions.push(Action::Signal(leaving.pid, Signal::SIGKILL));
        }
    }

    /// Changes the state of the daemon if its condition is met or its deadline has passed.
    fn advance_lifecycle(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let ready =
            self.slots.iter().skip(1).filter(|slot| slot.serving().is_some()).count() as u32;
        match self.lifecycle {
            Lifecycle::Starting { until }
                if ready >= self.plan.slots || (ready > 0 && until <= now) =>
            {
                self.lifecycle = Lifecycle::Running;
                actions.push(Action::Log(LogEvent::Serving(ready)));
                actions.push(Action::FinishStartup);
            }
            Lifecycle::Starting { until } if until <= now => {
                actions.push(Action::Log(LogEvent::NoneReady));
                self.stop_workers(Exit::Failure, now, actions);
                self.kill_remaining(now, actions);
            }
            Lifecycle::Delaying { until } if until <= now => self.drain(now, actions),
            Lifecycle::Draining { .. } => self.kill_remaining(now, actions),
            _ => {}
        }
        if let Lifecycle::StoppingAdmin { exit } = self.lifecycle {
            if self.leaving.is_empty() && self.slots[SlotId::ADMIN.index()].pids().next().is_none()
            {
                actions.push(Action::Exit(exit));
            }
        }
    }

    /// Kills the workers that remain at the deadline; stops the admin process once none remains.
    fn kill_remaining(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let Lifecycle::Draining { exit, kill_at } = self.lifecycle else { return };
        let pids = self.pids();
        if pids.is_empty() {
            self.stop_admin(exit, now, actions);
        } else if kill_at <= now {
            actions.push(Action::Log(LogEvent::Killing(pids.len() as u32)));
            actions.extend(pids.into_iter().map(|pid| Action::Signal(pid, Signal::SIGKILL)));
            self.lifecycle = Lifecycle::Draining { exit, kill_at: now + ABORT_GRACE };
        }
    }

    /// Stops the admin process, because the last worker has ended.
    fn stop_admin(&mut self, exit: Exit, now: Instant, actions: &mut Vec<Action>) {
        self.lifecycle = Lifecycle::StoppingAdmin { exit };
        let kill_at = now + ADMIN_STOP_TIMEOUT;
        let slot = &mut self.slots[SlotId::ADMIN.index()];
        slot.stop_forking();
        for pid in slot.pids() {
            actions.push(Action::Signal(pid, Signal::SIGTERM));
            self.leaving.push(Leaving::new(pid, SlotId::ADMIN, now, kill_at));
        }
        slot.successor = None;
        slot.state = State::Abandoned;
        self.leaving.iter_mut().for_each(|leaving| leaving.kill_at = leaving.kill_at.min(kill_at));
    }

    /// Starts, replaces, or retires the admin process. In a reload it answers until its successor
    /// does.
    fn reconcile_admin(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if !self.wants(SlotId::ADMIN) {
            let slot = &mut self.slots[SlotId::ADMIN.index()];
            // A pending fork must be answered first.
            if !slot.is_forking() && !matches!(self.lifecycle, Lifecycle::StoppingAdmin { .. }) {
                for pid in slot.pids() {
                    actions.push(Action::Retire(pid));
                    self.leaving.push(Leaving::new(
                        pid,
                        SlotId::ADMIN,
                        now,
                        now + ADMIN_DRAIN_TIMEOUT + KILL_GRACE,
                    ));
                }
                slot.successor = None;
                slot.successor_due = None;
                slot.state = State::Empty { due: now };
            }
            return;
        }
        self.start_due(SlotId::ADMIN, now, actions);
        let slot = &mut self.slots[SlotId::ADMIN.index()];
        slot.outdated &= slot.serving().is_some();
        let due = slot.successor_due.is_none_or(|at| at <= now);
        if slot.outdated && slot.successor.is_none() && due {
            slot.successor_due = None;
            slot.successor = Some(Successor::Forking);
            actions.push(Action::Spawn(SlotId::ADMIN));
        }
    }

    /// Starts the process of an empty slot if it is due.
    fn start_due(&mut self, number: SlotId, now: Instant, actions: &mut Vec<Action>) {
        let slot = &mut self.slots[number.index()];
        if matches!(slot.state, State::Empty { due } if due <= now) {
            slot.state = State::Forking;
            actions.push(Action::Spawn(number));
        }
    }

    /// Removes surplus slots, the highest first; a slot with a pending fork is removed once the
    /// fork was answered.
    fn retire_surplus_slots(&mut self, now: Instant, actions: &mut Vec<Action>) {
        while self.slots.len() > self.plan.slots as usize + 1 {
            let Some(slot) = self.slots.last().copied().filter(|slot| !slot.is_forking()) else {
                return;
            };
            self.slots.pop();
            let number = SlotId::from_index(self.slots.len());
            let kill_at = now + self.plan.drain_timeout + KILL_GRACE;
            for pid in slot.pids() {
                if slot.is_healthy() && slot.serving() == Some(pid) {
                    self.leaving.push(Leaving::new(pid, number, now, kill_at));
                    actions.push(Action::Retire(pid));
                } else if slot.unresponsive && slot.serving() == Some(pid) {
                    // It would keep its accept queues until it responds again.
                    self.abort(number, pid, now, actions);
                } else {
                    self.leaving.push(Leaving::new(pid, number, now, kill_at));
                    actions.push(Action::Signal(pid, Signal::SIGTERM));
                }
            }
        }
    }

    /// Starts the successor of the first outdated worker, unless another successor is being
    /// started. The reload is done when no outdated worker remains.
    fn replace_next_worker(&mut self, actions: &mut Vec<Action>) {
        if !self.replacing || self.slots.iter().skip(1).any(|slot| slot.successor.is_some()) {
            return;
        }
        // A slot without a ready worker gets a new one anyway.
        for slot in self.slots.iter_mut().skip(1) {
            slot.outdated &= slot.serving().is_some();
        }
        let mut workers = (0..).map(SlotId).zip(&mut self.slots).skip(1);
        if let Some((number, slot)) = workers.find(|(_, slot)| slot.outdated) {
            slot.successor = Some(Successor::Forking);
            actions.push(Action::Spawn(number));
        } else if !self.slots.iter().skip(1).any(|slot: &Slot| slot.state.is_starting()) {
            self.replacing = false;
            actions.push(Action::CountReload(true));
            actions.push(Action::Log(LogEvent::ReloadDone));
        }
    }
}
