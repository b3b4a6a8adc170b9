//! The transitions: the change that each event makes.

use std::time::{Duration, Instant};

use nix::unistd::Pid;

use super::slot::{Leaving, Slot, State, Successor};
use super::{
    ADMIN, Action, Event, GROUP_STOP, Lifecycle, MOST_SLOTS, OVERRUN, Report, SAME_STOP, Supervisor,
};
use crate::exit::Exit;
use crate::process::wait::Ending;

impl Supervisor {
    pub(super) fn change(&mut self, event: Event, now: Instant, actions: &mut Vec<Action>) {
        match event {
            Event::Tick => {}
            Event::Spawned(slot, pid) => self.spawned(slot, pid, now),
            Event::NotSpawned(slot) => self.not_spawned(slot, now, actions),
            Event::Ready(pid) => self.ready(pid, now, actions),
            Event::Beat(pid, at) => self.beat(pid, at),
            Event::Retiring(pid) => self.retiring(pid, now, now),
            Event::Draining(pid) => self.retiring(pid, now, now + GROUP_STOP),
            Event::Exited(pid, ending) => self.exited(pid, ending, now, actions),
            Event::More => self.more(now, actions),
            Event::Fewer => self.fewer(actions),
            Event::Stop => self.stop(now, actions),
        }
    }

    fn spawned(&mut self, slot: u32, pid: Pid, now: Instant) {
        let Some(slot) = self.slot_mut(slot) else { return };
        if slot.successor == Some(Successor::Forking) {
            slot.successor = Some(Successor::Booting { pid, since: now });
        } else {
            slot.state = State::Booting { pid, since: now };
        }
    }

    fn not_spawned(&mut self, number: u32, now: Instant, actions: &mut Vec<Action>) {
        let Some(slot) = self.slot_mut(number) else { return };
        if slot.successor == Some(Successor::Forking) {
            slot.successor = None;
            self.successor_failed(number, now, actions);
        } else {
            self.failed(number, None, now, actions);
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
            actions.push(Action::Report(Report::Ready(number, pid)));
        }
    }

    /// The successor is ready: the old process retires.
    fn succeed(&mut self, number: u32, now: Instant, actions: &mut Vec<Action>) {
        let kill_at = now + self.retirement(number) + OVERRUN;
        let Some(slot) = self.slot_mut(number) else { return };
        slot.successor = None;
        slot.outdated = false;
        slot.kept = false;
        slot.renew_at = None;
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

    /// The worker goes on with what it has; its slot gets a new one.
    fn retiring(&mut self, pid: Pid, now: Instant, due: Instant) {
        let Some(number) = self.slot_of(pid) else { return };
        let kill_at = now + self.plan.drain_timeout.max(self.plan.graceful_timeout) + OVERRUN;
        self.leaving.push(Leaving::new(pid, number, now, kill_at));
        self.vacate(number, due);
    }

    /// Its process is gone or going: the successor takes the place, if there is one already.
    pub(super) fn vacate(&mut self, number: u32, due: Instant) {
        let Some(slot) = self.slot_mut(number) else { return };
        slot.outdated = false;
        slot.kept = false;
        slot.unresponsive = false;
        slot.renew_at = None;
        slot.state = match slot.successor.take() {
            Some(Successor::Booting { pid, since }) => State::Booting { pid, since },
            Some(Successor::Forking) => State::Forking,
            None => State::Empty { due },
        };
    }

    fn exited(&mut self, pid: Pid, ending: Ending, now: Instant, actions: &mut Vec<Action>) {
        if let Some(left) = self.leaving.iter().position(|leaving| leaving.pid == pid) {
            let slot = self.leaving.remove(left).slot;
            return self.report_exit(slot, pid, ending, None, actions);
        }
        if let Some(number) = self.slot_of_successor(pid) {
            self.report_exit(number, pid, ending, Some(Duration::ZERO), actions);
            self.slots[number as usize].successor = None;
            return self.successor_failed(number, now, actions);
        }
        let Some(number) = self.slot_of(pid) else {
            return actions.push(Action::Report(Report::Stranger(pid, ending)));
        };
        let place = actions.len();
        let state = self.slots[number as usize].state;
        self.vacate(number, now);
        // The next process is there already, or none is wanted.
        let vacant = matches!(self.slots[number as usize].state, State::Empty { .. });
        if vacant && self.wants(number) {
            self.refill(number, state, ending, now, actions);
        }
        let delay = match self.slots[number as usize].state {
            State::Empty { due } => due.saturating_duration_since(now),
            _ => Duration::ZERO,
        };
        let mut said = Vec::new();
        self.report_exit(number, pid, ending, Some(delay), &mut said);
        actions.splice(place..place, said);
    }

    /// Decides when a slot whose process has ended gets the next one.
    fn refill(
        &mut self,
        number: u32,
        state: State,
        ending: Ending,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        match (state, ending.code()) {
            (_, Some(code)) if number != ADMIN && code == i32::from(Exit::DoNotRespawn.code()) => {
                self.abandon(number, now, actions);
            }
            // It ended as it should, only without saying so before. If it was told to, the whole group
            // may have been, and the controller may be about to hear of it.
            (State::Serving { .. }, Some(0)) if number == ADMIN => {
                self.slots[ADMIN as usize].state = State::Empty { due: now + GROUP_STOP };
            }
            (State::Serving { .. }, Some(0)) => {}
            (State::Serving { since, .. }, _) => {
                let served = now.saturating_duration_since(since);
                self.failed(number, Some(served), now, actions);
            }
            _ => self.failed(number, None, now, actions),
        }
    }

    fn report_exit(
        &self,
        number: u32,
        pid: Pid,
        ending: Ending,
        delay: Option<Duration>,
        actions: &mut Vec<Action>,
    ) {
        actions.push(Action::Report(match number {
            ADMIN => Report::AdminExited(pid, ending, delay.filter(|_| self.wants(ADMIN))),
            _ => Report::Exited(number, pid, ending),
        }));
    }

    pub(super) fn failed(
        &mut self,
        number: u32,
        served: Option<Duration>,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        let jitter = self.jitter.next();
        let Some(slot) = self.slot_mut(number) else { return };
        let wait = slot.backoff.after_failure(served, jitter);
        slot.state = State::Empty { due: now + wait };
        if !wait.is_zero() && number != ADMIN {
            actions.push(Action::Report(Report::Waiting(number, wait)));
        }
    }

    fn abandon(&mut self, number: u32, now: Instant, actions: &mut Vec<Action>) {
        if let Some(slot) = self.slot_mut(number) {
            slot.state = State::Abandoned;
        }
        if self.is_starting() {
            self.end(Exit::Failure, now + OVERRUN, actions);
        } else {
            actions.push(Action::Report(Report::Abandoned(number)));
        }
    }

    /// A process that was to take over has failed. For workers that ends the reload: those that serve
    /// go on serving. The admin process is tried again.
    pub(super) fn successor_failed(
        &mut self,
        number: u32,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        if number == ADMIN {
            let jitter = self.jitter.next();
            let slot = &mut self.slots[ADMIN as usize];
            slot.renew_at = Some(now + slot.backoff.after_failure(None, jitter));
        } else if self.renewing {
            self.renewing = false;
            for slot in self.slots.iter_mut().skip(1) {
                slot.kept |= std::mem::take(&mut slot.outdated);
            }
            actions.push(Action::Report(Report::NotRenewed(number)));
        }
    }

    fn more(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if self.plan.slots >= MOST_SLOTS || self.is_stopping() {
            return actions.push(Action::Report(Report::CannotScale(self.plan.slots)));
        }
        self.plan.slots += 1;
        if (self.slots.len() as u32) <= self.plan.slots {
            self.slots.push(Slot::new(now));
        }
        actions.push(Action::Report(Report::Scaled(self.plan.slots)));
    }

    fn fewer(&mut self, actions: &mut Vec<Action>) {
        if self.plan.slots <= 1 || self.is_stopping() {
            return actions.push(Action::Report(Report::CannotScale(self.plan.slots)));
        }
        // One of those that remain must be able to serve.
        let remaining = &self.slots[1..self.plan.slots as usize];
        if remaining.iter().all(|slot| slot.state == State::Abandoned) {
            return actions.push(Action::Report(Report::CannotScale(self.plan.slots)));
        }
        self.plan.slots -= 1;
        actions.push(Action::Report(Report::Scaled(self.plan.slots)));
    }

    fn stop(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let first = *self.stopped.get_or_insert(now);
        if first < now && now < first + SAME_STOP {
            return;
        }
        match self.lifecycle {
            Lifecycle::Starting { .. } | Lifecycle::Running
                if !self.plan.shutdown_delay.is_zero() =>
            {
                self.lifecycle = Lifecycle::Delaying { until: now + self.plan.shutdown_delay };
                actions.push(Action::Report(Report::Delaying(self.plan.shutdown_delay)));
            }
            Lifecycle::Starting { .. } | Lifecycle::Running => self.drain(now, actions),
            // The second time: now.
            Lifecycle::Delaying { .. } => self.end(Exit::Ok, now, actions),
            Lifecycle::Ending { exit, .. } => {
                self.lifecycle = Lifecycle::Ending { exit, kill_at: now };
            }
            Lifecycle::EndingAdmin { .. } => {}
        }
    }

    pub(super) fn drain(&mut self, now: Instant, actions: &mut Vec<Action>) {
        actions.push(Action::Report(Report::Draining));
        self.end(Exit::Ok, now + self.plan.graceful_timeout + OVERRUN, actions);
    }
}
