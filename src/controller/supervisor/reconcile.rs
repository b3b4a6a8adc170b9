//! Comparison of the processes that exist with those that are wanted.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::slot::{Leaving, Slot, State, Successor, unresponsive_after};
use super::{
    ABORT_GRACE, ADMIN, ADMIN_ENDS, ADMIN_RETIRES, Action, BOOT_TIMEOUT, Lifecycle,
    OLD_GENERATIONS, OVERRUN, Report, Supervisor,
};
use crate::exit::Exit;

impl Supervisor {
    pub(super) fn reconcile(&mut self, now: Instant, actions: &mut Vec<Action>) {
        self.hurry_old_generations(now, actions);
        self.kill_the_late(now, actions);
        self.end_if_abandoned(now, actions);
        self.advance_lifecycle(now, actions);
        self.reconcile_admin(now, actions);
        if self.wants_workers() {
            self.retire_surplus_slots(now, actions);
            for number in 1..self.slots.len() as u32 {
                self.fill(number, now, actions);
            }
            self.renew_next(actions);
        }
    }

    /// A daemon of which no worker can listen serves nothing.
    fn end_if_abandoned(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let wanted = &self.slots[1..=self.plan.slots as usize];
        if self.wants_workers() && wanted.iter().all(|slot| slot.state == State::Abandoned) {
            self.end(Exit::Failure, now + OVERRUN, actions);
        }
    }

    /// The time that a process which has a successor may take to end.
    pub(super) fn retirement(&self, number: u32) -> Duration {
        if number == ADMIN { ADMIN_RETIRES } else { self.plan.drain_timeout }
    }

    /// A silent worker first gets no new connections. If it stays silent it leaves its slot: its
    /// successor takes over the queue without waiting for its end.
    pub(super) fn check_health(&mut self, now: Instant, actions: &mut Vec<Action>) {
        for number in 0..self.slots.len() as u32 {
            let slot = &mut self.slots[number as usize];
            let limit = slot.worker_timeout(&self.plan);
            let suspicious = unresponsive_after(limit);
            if let Some(Successor::Booting { pid, since }) = slot.successor {
                if since + BOOT_TIMEOUT <= now {
                    slot.successor = None;
                    self.not_ready(number, pid, now, actions);
                    self.successor_failed(number, now, actions);
                    continue;
                }
            }
            match slot.state {
                State::Booting { pid, since } if since + BOOT_TIMEOUT <= now => {
                    self.not_ready(number, pid, now, actions);
                    self.replace(number, None, now, actions);
                }
                State::Serving { pid, since, beat } => {
                    if limit.is_some_and(|limit| beat + limit <= now) {
                        if number == ADMIN {
                            self.kill_admin(pid, "hung", now, actions);
                        } else {
                            actions.push(Action::Report(Report::Hung(number, pid)));
                            self.abort(number, pid, now, actions);
                        }
                        let served = beat.saturating_duration_since(since);
                        self.replace(number, Some(served), now, actions);
                    } else if slot.unresponsive != (beat + suspicious <= now) {
                        slot.unresponsive = !slot.unresponsive;
                        let report = if slot.unresponsive {
                            Report::Unresponsive
                        } else {
                            Report::Responsive
                        };
                        if number != ADMIN {
                            actions.push(Action::Report(report(number, pid)));
                        }
                    }
                }
                _ => {}
            }
        }
    }

    fn not_ready(&mut self, number: u32, pid: Pid, now: Instant, actions: &mut Vec<Action>) {
        if number == ADMIN {
            return self.kill_admin(pid, "does not get ready", now, actions);
        }
        actions.push(Action::Report(Report::NotReady(number, pid)));
        self.abort(number, pid, now, actions);
    }

    fn replace(
        &mut self,
        number: u32,
        served: Option<Duration>,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        self.vacate(number, now);
        let vacant = matches!(self.slots[number as usize].state, State::Empty { .. });
        if vacant && self.wants(number) {
            self.failed(number, served, now, actions);
        }
    }

    /// Has a hung worker leave a core.
    fn abort(&mut self, slot: u32, pid: Pid, now: Instant, actions: &mut Vec<Action>) {
        actions.push(Action::Signal(pid, Signal::SIGABRT));
        let leaving = Leaving::new(pid, slot, now, now + ABORT_GRACE);
        self.leaving.push(Leaving { aborted: true, ..leaving });
    }

    fn kill_admin(
        &mut self,
        pid: Pid,
        reason: &'static str,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        actions.push(Action::Kill(pid, reason));
        let leaving = Leaving::new(pid, ADMIN, now, now + ABORT_GRACE);
        self.leaving.push(Leaving { aborted: true, ..leaving });
    }

    /// Old generations are bounded: when too many workers leave, the eldest drain as at a stop.
    fn hurry_old_generations(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let most = self.plan.slots as usize * OLD_GENERATIONS + 64;
        let surplus = self.leaving.len().saturating_sub(most);
        for leaving in self.leaving.iter_mut().take(surplus).filter(|leaving| !leaving.hurried) {
            leaving.hurried = true;
            leaving.kill_at = leaving.kill_at.min(now + self.plan.graceful_timeout + OVERRUN);
            actions.push(Action::Signal(leaving.pid, Signal::SIGTERM));
        }
    }

    fn kill_the_late(&mut self, now: Instant, actions: &mut Vec<Action>) {
        for leaving in self.leaving.iter_mut().filter(|leaving| leaving.kill_at <= now) {
            leaving.kill_at = now + ABORT_GRACE;
            actions.push(Action::Signal(leaving.pid, Signal::SIGKILL));
        }
    }

    fn advance_lifecycle(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let ready =
            self.slots.iter().skip(1).filter(|slot| slot.serving().is_some()).count() as u32;
        match self.lifecycle {
            Lifecycle::Starting { until }
                if ready >= self.plan.slots || (ready > 0 && until <= now) =>
            {
                self.lifecycle = Lifecycle::Running;
                actions.push(Action::Report(Report::Serving(ready)));
            }
            Lifecycle::Starting { until } if until <= now => {
                actions.push(Action::Report(Report::NoneReady));
                self.end(Exit::Failure, now, actions);
                self.kill_remaining(now, actions);
            }
            Lifecycle::Delaying { until } if until <= now => self.drain(now, actions),
            Lifecycle::Ending { .. } => self.kill_remaining(now, actions),
            _ => {}
        }
        if let Lifecycle::EndingAdmin { exit } = self.lifecycle {
            if self.leaving.is_empty() && self.slots[ADMIN as usize].pids().next().is_none() {
                actions.push(Action::Exit(exit));
            }
        }
    }

    fn kill_remaining(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let Lifecycle::Ending { exit, kill_at } = self.lifecycle else { return };
        let pids = self.pids();
        if pids.is_empty() {
            self.end_admin(exit, now, actions);
        } else if kill_at <= now {
            actions.push(Action::Report(Report::Killing(pids.len() as u32)));
            actions.extend(pids.into_iter().map(|pid| Action::Signal(pid, Signal::SIGKILL)));
            self.lifecycle = Lifecycle::Ending { exit, kill_at: now + ABORT_GRACE };
        }
    }

    /// The last worker has ended: so does the admin process.
    fn end_admin(&mut self, exit: Exit, now: Instant, actions: &mut Vec<Action>) {
        self.lifecycle = Lifecycle::EndingAdmin { exit };
        let kill_at = now + ADMIN_ENDS;
        let slot = &mut self.slots[ADMIN as usize];
        slot.stop_forking();
        for pid in slot.pids() {
            actions.push(Action::Signal(pid, Signal::SIGTERM));
            self.leaving.push(Leaving::new(pid, ADMIN, now, kill_at));
        }
        slot.successor = None;
        slot.state = State::Abandoned;
        self.leaving.iter_mut().for_each(|leaving| leaving.kill_at = leaving.kill_at.min(kill_at));
    }

    /// There is one admin process if one is wanted. In a reload it answers until its successor does.
    fn reconcile_admin(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if !self.wants(ADMIN) {
            let slot = &mut self.slots[ADMIN as usize];
            // A fork that was asked for comes back first.
            let forking =
                slot.state == State::Forking || slot.successor == Some(Successor::Forking);
            if !forking && !matches!(self.lifecycle, Lifecycle::EndingAdmin { .. }) {
                for pid in slot.pids() {
                    actions.push(Action::Retire(pid));
                    self.leaving.push(Leaving::new(pid, ADMIN, now, now + ADMIN_RETIRES + OVERRUN));
                }
                slot.successor = None;
                slot.renew_at = None;
                slot.state = State::Empty { due: now };
            }
            return;
        }
        self.fill(ADMIN, now, actions);
        let slot = &mut self.slots[ADMIN as usize];
        slot.outdated &= slot.serving().is_some();
        let due = slot.renew_at.is_none_or(|at| at <= now);
        if slot.outdated && slot.successor.is_none() && due {
            slot.renew_at = None;
            slot.successor = Some(Successor::Forking);
            actions.push(Action::Spawn(ADMIN));
        }
    }

    fn fill(&mut self, number: u32, now: Instant, actions: &mut Vec<Action>) {
        let slot = &mut self.slots[number as usize];
        if matches!(slot.state, State::Empty { due } if due <= now) {
            slot.state = State::Forking;
            actions.push(Action::Spawn(number));
        }
    }

    /// The highest slots go first. A slot between two workers goes when the fork has come back.
    fn retire_surplus_slots(&mut self, now: Instant, actions: &mut Vec<Action>) {
        while self.slots.len() > self.plan.slots as usize + 1 {
            let number = self.slots.len() as u32 - 1;
            let Some(slot) = self.slots.last().copied() else { return };
            if slot.is_forking() {
                return;
            }
            self.slots.pop();
            let kill_at = now + self.plan.drain_timeout + OVERRUN;
            for pid in slot.pids() {
                if slot.is_healthy() && slot.serving() == Some(pid) {
                    self.leaving.push(Leaving::new(pid, number, now, kill_at));
                    actions.push(Action::Retire(pid));
                } else if slot.unresponsive && slot.serving() == Some(pid) {
                    // It must not keep the queue until it responds again.
                    self.abort(number, pid, now, actions);
                } else {
                    self.leaving.push(Leaving::new(pid, number, now, kill_at));
                    actions.push(Action::Signal(pid, Signal::SIGTERM));
                }
            }
        }
    }

    /// One slot at a time: the next one only when the one before has its new worker.
    fn renew_next(&mut self, actions: &mut Vec<Action>) {
        if !self.renewing || self.slots.iter().skip(1).any(|slot| slot.successor.is_some()) {
            return;
        }
        // A slot without a worker gets one of the new generation anyway.
        for slot in self.slots.iter_mut().skip(1) {
            slot.outdated &= slot.serving().is_some();
        }
        if let Some(index) = self.slots.iter().skip(1).position(|slot| slot.outdated) {
            self.slots[index + 1].successor = Some(Successor::Forking);
            actions.push(Action::Spawn(index as u32 + 1));
        } else if !self.slots.iter().skip(1).any(|slot: &Slot| slot.state.is_unsettled()) {
            self.renewing = false;
            actions.push(Action::Report(Report::Renewed));
        }
    }
}
