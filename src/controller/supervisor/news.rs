//! What changes when something has happened.

use std::time::{Duration, Instant};

use nix::unistd::Pid;

use super::slot::{Leaving, Slot, State, Successor};
use super::{Action, Event, GROUP_STOP, MOST_SLOTS, OVERRUN, Phase, Report, SAME_STOP, Supervisor};
use crate::exit::Exit;
use crate::process::wait::Ending;

impl Supervisor {
    pub(super) fn note(&mut self, event: Event, now: Instant, actions: &mut Vec<Action>) {
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
            slot.successor = Some(Successor::Booting(pid, now));
        } else {
            slot.state = State::Booting(pid, now);
        }
    }

    fn not_spawned(&mut self, number: u32, now: Instant, actions: &mut Vec<Action>) {
        let Some(slot) = self.slot_mut(number) else { return };
        if slot.successor == Some(Successor::Forking) {
            slot.successor = None;
            self.give_up_renewal(number, actions);
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
            slot.state = State::Serving(pid, now, now);
            slot.unresponsive = false;
            actions.push(Action::Report(Report::Ready(number, pid)));
        }
    }

    /// The successor is ready: the old worker retires.
    fn succeed(&mut self, number: u32, now: Instant, actions: &mut Vec<Action>) {
        let kill_at = now + self.plan.drain_timeout + OVERRUN;
        let Some(slot) = self.slot_mut(number) else { return };
        slot.successor = None;
        slot.outdated = false;
        if let Some(old) = slot.state.pid() {
            self.leaving.push(Leaving::new(old, number, kill_at));
            actions.push(Action::Retire(old));
        }
    }

    fn beat(&mut self, pid: Pid, at: Instant) {
        for slot in &mut self.slots {
            if let State::Serving(serving, _, beat) = &mut slot.state {
                if *serving == pid {
                    *beat = at.max(*beat);
                }
            }
        }
    }

    /// The worker goes on with what it has; its slot gets a new one.
    fn retiring(&mut self, pid: Pid, now: Instant, due: Instant) {
        let Some(number) = self.slot_of(pid) else { return };
        let kill_at = now + self.plan.drain_timeout.max(self.plan.graceful_timeout) + OVERRUN;
        self.leaving.push(Leaving::new(pid, number, kill_at));
        self.vacate(number, due);
    }

    /// Its worker is gone or going: the successor takes the place, if there is one already.
    pub(super) fn vacate(&mut self, number: u32, due: Instant) {
        let Some(slot) = self.slot_mut(number) else { return };
        slot.outdated = false;
        slot.unresponsive = false;
        slot.state = match slot.successor.take() {
            Some(Successor::Booting(pid, since)) => State::Booting(pid, since),
            Some(Successor::Forking) => State::Forking,
            None => State::Empty(due),
        };
    }

    fn exited(&mut self, pid: Pid, ending: Ending, now: Instant, actions: &mut Vec<Action>) {
        let left = self.leaving.iter().position(|leaving| leaving.pid == pid);
        if let Some(slot) = left.map(|index| self.leaving.remove(index).slot) {
            actions.push(Action::Report(Report::Exited(slot, pid, ending)));
            return;
        }
        if let Some(number) = self.slot_of_successor(pid) {
            actions.push(Action::Report(Report::Exited(number, pid, ending)));
            self.slots[number as usize - 1].successor = None;
            self.give_up_renewal(number, actions);
            return;
        }
        let Some(number) = self.slot_of(pid) else {
            actions.push(Action::Report(Report::Stranger(pid, ending)));
            return;
        };
        actions.push(Action::Report(Report::Exited(number, pid, ending)));
        let state = self.slots[number as usize - 1].state;
        self.vacate(number, now);
        // Whoever comes next is there already, or nobody is wanted.
        let vacant = matches!(self.slots[number as usize - 1].state, State::Empty(_));
        if !vacant || !self.wants_workers() {
            return;
        }
        match (state, ending.code()) {
            (_, Some(code)) if code == i32::from(Exit::DoNotRespawn.code()) => {
                self.abandon(number, now, actions);
            }
            // It ended as it should, only without saying so before.
            (State::Serving(..), Some(0)) => {}
            (State::Serving(_, since, _), _) => {
                let served = now.saturating_duration_since(since);
                self.failed(number, Some(served), now, actions);
            }
            _ => self.failed(number, None, now, actions),
        }
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
        slot.state = State::Empty(now + wait);
        if !wait.is_zero() {
            actions.push(Action::Report(Report::Waiting(number, wait)));
        }
    }

    fn abandon(&mut self, number: u32, now: Instant, actions: &mut Vec<Action>) {
        if let Some(slot) = self.slot_mut(number) {
            slot.state = State::Abandoned;
        }
        let abandoned = |slot: &Slot| slot.state == State::Abandoned;
        if matches!(self.phase, Phase::Starting(_)) || self.slots.iter().all(abandoned) {
            self.end(Exit::Failure, now + OVERRUN, actions);
        } else {
            actions.push(Action::Report(Report::Abandoned(number)));
        }
    }

    /// The new generation does not get on its feet: whoever serves goes on serving.
    pub(super) fn give_up_renewal(&mut self, number: u32, actions: &mut Vec<Action>) {
        if self.renewing {
            self.renewing = false;
            self.slots.iter_mut().for_each(|slot| slot.outdated = false);
            actions.push(Action::Report(Report::NotRenewed(number)));
        }
    }

    fn more(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if self.plan.slots >= MOST_SLOTS || self.is_stopping() {
            return actions.push(Action::Report(Report::CannotScale(self.plan.slots)));
        }
        self.plan.slots += 1;
        if (self.slots.len() as u32) < self.plan.slots {
            self.slots.push(Slot::new(now));
        }
        actions.push(Action::Report(Report::Scaled(self.plan.slots)));
    }

    fn fewer(&mut self, actions: &mut Vec<Action>) {
        if self.plan.slots <= 1 || self.is_stopping() {
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
        match self.phase {
            Phase::Starting(_) | Phase::Running if !self.plan.shutdown_delay.is_zero() => {
                self.phase = Phase::Delaying(now + self.plan.shutdown_delay);
                actions.push(Action::Report(Report::Delaying(self.plan.shutdown_delay)));
            }
            Phase::Starting(_) | Phase::Running => self.drain(now, actions),
            // The second time: now.
            Phase::Delaying(_) => self.end(Exit::Ok, now, actions),
            Phase::Ending(exit, _) => self.phase = Phase::Ending(exit, now),
        }
    }

    pub(super) fn drain(&mut self, now: Instant, actions: &mut Vec<Action>) {
        actions.push(Action::Report(Report::Draining));
        self.end(Exit::Ok, now + self.plan.graceful_timeout + OVERRUN, actions);
    }
}
