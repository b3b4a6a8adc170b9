//! Transitions: the change of state that each event makes.

use std::time::{Duration, Instant};

use nix::unistd::Pid;

use super::slot::{Leaving, Slot, State, Successor};
use super::{
    Action, DUPLICATE_STOP, Event, GROUP_SIGNAL_DELAY, KILL_GRACE, Lifecycle, LogEvent, Supervisor,
};
use crate::daemon::ids::SlotId;
use crate::daemon::stats::Cause;
use crate::exit::Exit;
use crate::sys::wait::ExitStatus;

impl Supervisor {
    /// Changes the state as an event demands.
    pub(super) fn transition(&mut self, event: Event, now: Instant, actions: &mut Vec<Action>) {
        match event {
            Event::Tick => {}
            Event::Spawned(slot, pid) => self.spawned(slot, pid, now),
            Event::NotSpawned(slot) => self.not_spawned(slot, now, actions),
            Event::Ready(pid) => self.ready(pid, now, actions),
            Event::Beat(pid, at) => self.beat(pid, at),
            Event::Retiring(pid) => self.retiring(pid, now, now),
            Event::Draining(pid) => self.retiring(pid, now, now + GROUP_SIGNAL_DELAY),
            Event::Exited(pid, status) => self.exited(pid, status, now, actions),
            Event::AddWorker => self.add_worker(now, actions),
            Event::RemoveWorker => self.remove_worker(actions),
            Event::Stop => self.stop(now, actions),
        }
    }

    fn spawned(&mut self, slot: SlotId, pid: Pid, now: Instant) {
        let Some(slot) = self.slot_mut(slot) else { return };
        if slot.successor == Some(Successor::Forking) {
            slot.successor = Some(Successor::Starting { pid, since: now });
        } else {
            slot.state = State::Starting { pid, since: now };
        }
    }

    fn not_spawned(&mut self, number: SlotId, now: Instant, actions: &mut Vec<Action>) {
        let Some(slot) = self.slot_mut(number) else { return };
        if slot.successor == Some(Successor::Forking) {
            slot.successor = None;
            self.successor_failed(number, now, actions);
        } else {
            self.schedule_restart(number, None, now, actions);
        }
    }

    fn ready(&mut self, pid: Pid, now: Instant, actions: &mut Vec<Action>) {
        let number = match self.slot_of_successor(pid) {
            Some(number) => {
                self.succeed(number, now, actions);
                number
            }
            None => match self.slot_of(pid) {
                Some(number) => number,
                None => return,
            },
        };
        if let Some(slot) = self.slot_mut(number) {
            slot.state = State::Serving { pid, since: now, beat: now };
            slot.unresponsive = false;
            actions.push(Action::Log(LogEvent::Ready(number, pid)));
        }
    }

    /// Retires the process of a slot whose successor has become ready.
    fn succeed(&mut self, number: SlotId, now: Instant, actions: &mut Vec<Action>) {
        let kill_at = now + self.retirement(number) + KILL_GRACE;
        let Some(slot) = self.slot_mut(number) else { return };
        slot.successor = None;
        slot.outdated = false;
        slot.kept = false;
        slot.successor_due = None;
        if let Some(old) = slot.state.pid() {
            self.leaving.push(Leaving::new(old, number, now, kill_at));
            actions.push(Action::Retire(old));
        }
    }

    fn beat(&mut self, pid: Pid, at: Instant) {
        for slot in &mut self.slots {
            if let State::Serving { pid: serving, beat, .. } = &mut slot.state {
                if *serving == pid {
                    *beat = at.max(*beat);
                }
            }
        }
        for leaving in self.leaving.iter_mut().filter(|leaving| leaving.pid == pid) {
            leaving.beat = at.max(leaving.beat);
        }
    }

    /// Removes a worker that drains of its own accord from its slot, which gets the next one at
    /// `due`.
    fn retiring(&mut self, pid: Pid, now: Instant, due: Instant) {
        let Some(number) = self.slot_of(pid) else { return };
        let kill_at = now + self.plan.drain_timeout.max(self.plan.graceful_timeout) + KILL_GRACE;
        self.leaving.push(Leaving::new(pid, number, now, kill_at));
        self.vacate(number, due);
    }

    /// Removes the process of a slot; its successor takes the place, or the next process is due at
    /// `due`.
    pub(super) fn vacate(&mut self, number: SlotId, due: Instant) {
        let Some(slot) = self.slot_mut(number) else { return };
        slot.outdated = false;
        slot.kept = false;
        slot.unresponsive = false;
        slot.successor_due = None;
        slot.state = match slot.successor.take() {
            Some(Successor::Starting { pid, since }) => State::Starting { pid, since },
            Some(Successor::Forking) => State::Forking,
            None => State::Empty { due },
        };
    }

    fn exited(&mut self, pid: Pid, status: ExitStatus, now: Instant, actions: &mut Vec<Action>) {
        if let Some(left) = self.leaving.iter().position(|leaving| leaving.pid == pid) {
            let slot = self.leaving.remove(left).slot;
            return actions.push(Action::Log(self.exit_event(slot, pid, status, None)));
        }
        if let Some(number) = self.slot_of_successor(pid) {
            self.count_exit(number, pid, Cause::Boot, actions);
            actions.push(Action::Log(self.exit_event(number, pid, status, Some(Duration::ZERO))));
            self.slots[number.index()].successor = None;
            return self.successor_failed(number, now, actions);
        }
        let Some(number) = self.slot_of(pid) else {
            return actions.push(Action::Log(LogEvent::UnknownExited(pid, status)));
        };
        let state = self.slots[number.index()].state;
        let cause = match (state, status) {
            (State::Serving { .. }, ExitStatus::Signal(_)) => Cause::Signal,
            (State::Serving { .. }, ExitStatus::Code(_)) => Cause::Exit,
            _ => Cause::Boot,
        };
        self.count_exit(number, pid, cause, actions);
        let mut following = Vec::new();
        self.vacate(number, now);
        // A successor may have taken the place.
        let vacant = matches!(self.slots[number.index()].state, State::Empty { .. });
        if vacant && self.wants(number) {
            self.schedule_replacement(number, state, status, now, &mut following);
        }
        let delay = match self.slots[number.index()].state {
            State::Empty { due } => due.saturating_duration_since(now),
            _ => Duration::ZERO,
        };
        actions.push(Action::Log(self.exit_event(number, pid, status, Some(delay))));
        actions.append(&mut following);
    }

    /// Decides when a slot whose process has exited gets the next one.
    fn schedule_replacement(
        &mut self,
        number: SlotId,
        state: State,
        status: ExitStatus,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        match (state, status.code()) {
            (_, Some(code))
                if !number.is_admin() && code == i32::from(Exit::DoNotRespawn.code()) =>
            {
                self.abandon(number, now, actions);
            }
            // A signal to the process group may have ended it, and may be pending for the
            // controller too.
            (State::Serving { .. }, Some(0)) if number.is_admin() => {
                self.slots[SlotId::ADMIN.index()].state =
                    State::Empty { due: now + GROUP_SIGNAL_DELAY };
            }
            (State::Serving { .. }, Some(0)) => {}
            (State::Serving { since, .. }, _) => {
                let served = now.saturating_duration_since(since);
                self.schedule_restart(number, Some(served), now, actions);
            }
            _ => self.schedule_restart(number, None, now, actions),
        }
    }

    /// Returns the log event of a process that has exited; the next one of its slot starts after
    /// `delay`.
    fn exit_event(
        &self,
        number: SlotId,
        pid: Pid,
        status: ExitStatus,
        delay: Option<Duration>,
    ) -> LogEvent {
        match number {
            SlotId::ADMIN => {
                LogEvent::AdminExited(pid, status, delay.filter(|_| self.wants(SlotId::ADMIN)))
            }
            _ => LogEvent::Exited(number, pid, status),
        }
    }

    /// Counts a process that was in its slot when it exited.
    fn count_exit(&self, number: SlotId, pid: Pid, cause: Cause, actions: &mut Vec<Action>) {
        if !number.is_admin() {
            self.count_restart(number, pid, cause, actions);
        } else if self.wants(number) {
            actions.push(Action::CountRestart(number, pid, cause));
        }
    }

    /// Counts a failed worker, unless the daemon stops and does not replace it.
    pub(super) fn count_restart(
        &self,
        number: SlotId,
        pid: Pid,
        cause: Cause,
        actions: &mut Vec<Action>,
    ) {
        if !self.is_stopping() {
            actions.push(Action::CountRestart(number, pid, cause));
        }
    }

    /// Schedules the next process of a slot after the restart delay. `served` is the time for which
    /// the previous one was ready; `None` if it never was.
    pub(super) fn schedule_restart(
        &mut self,
        number: SlotId,
        served: Option<Duration>,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        let jitter = self.jitter.next();
        let Some(slot) = self.slot_mut(number) else { return };
        let wait = slot.backoff.after_failure(served, jitter);
        slot.state = State::Empty { due: now + wait };
        if !wait.is_zero() && !number.is_admin() {
            actions.push(Action::Log(LogEvent::RestartDelayed(number, wait)));
        }
    }

    /// Leaves a slot empty until the next reload, because its worker asked not to be restarted.
    fn abandon(&mut self, number: SlotId, now: Instant, actions: &mut Vec<Action>) {
        if let Some(slot) = self.slot_mut(number) {
            slot.state = State::Abandoned;
        }
        if self.is_starting() {
            self.stop_workers(Exit::Failure, now + KILL_GRACE, actions);
        } else {
            actions.push(Action::Log(LogEvent::Abandoned(number)));
        }
    }

    /// Handles the failure of a successor. A failed worker ends the reload, and the current workers
    /// keep serving. The admin process is started again.
    pub(super) fn successor_failed(
        &mut self,
        number: SlotId,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        if number.is_admin() {
            let jitter = self.jitter.next();
            let slot = &mut self.slots[SlotId::ADMIN.index()];
            slot.successor_due = Some(now + slot.backoff.after_failure(None, jitter));
        } else if self.replacing {
            self.replacing = false;
            for slot in self.slots.iter_mut().skip(1) {
                slot.kept |= std::mem::take(&mut slot.outdated);
            }
            actions.push(Action::CountReload(false));
            actions.push(Action::Log(LogEvent::ReloadAborted(number)));
        }
    }

    fn add_worker(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if self.plan.slots >= SlotId::MAX.0 || self.is_stopping() {
            return actions.push(Action::Log(LogEvent::CannotScale(self.plan.slots)));
        }
        self.plan.slots += 1;
        if self.slots.len() <= self.plan.slots as usize {
            self.slots.push(Slot::new(now));
        }
        actions.push(Action::Log(LogEvent::Scaled(self.plan.slots)));
    }

    fn remove_worker(&mut self, actions: &mut Vec<Action>) {
        if self.plan.slots <= 1 || self.is_stopping() {
            return actions.push(Action::Log(LogEvent::CannotScale(self.plan.slots)));
        }
        // At least one remaining slot must be able to serve.
        let remaining = &self.slots[1..self.plan.slots as usize];
        if remaining.iter().all(|slot| slot.state == State::Abandoned) {
            return actions.push(Action::Log(LogEvent::CannotScale(self.plan.slots)));
        }
        self.plan.slots -= 1;
        actions.push(Action::Log(LogEvent::Scaled(self.plan.slots)));
    }

    fn stop(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let first = *self.stopped.get_or_insert(now);
        if first < now && now < first + DUPLICATE_STOP {
            return;
        }
        match self.lifecycle {
            Lifecycle::Starting { .. } | Lifecycle::Running
                if !self.plan.shutdown_delay.is_zero() =>
            {
                self.lifecycle = Lifecycle::Delaying { until: now + self.plan.shutdown_delay };
                actions.push(Action::Log(LogEvent::Delaying(self.plan.shutdown_delay)));
            }
            Lifecycle::Starting { .. } | Lifecycle::Running => self.drain(now, actions),
            // The second stop does not wait.
            Lifecycle::Delaying { .. } => self.stop_workers(Exit::Ok, now, actions),
            Lifecycle::Draining { exit, .. } => {
                self.lifecycle = Lifecycle::Draining { exit, kill_at: now };
            }
            Lifecycle::StoppingAdmin { .. } => {}
        }
    }

    /// Begins to drain all workers; the log line of the drain is [`LogEvent::Draining`].
    pub(super) fn drain(&mut self, now: Instant, actions: &mut Vec<Action>) {
        actions.push(Action::Log(LogEvent::Draining));
        self.stop_workers(Exit::Ok, now + self.plan.graceful_timeout + KILL_GRACE, actions);
    }
}
