//! What is to be done so that what is becomes what is wanted.

use std::time::Instant;

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::slot::{Leaving, Queue, Slot, State, Successor, unresponsive_after};
use super::{
    ABORT_GRACE, Action, BOOT_TIMEOUT, OLD_GENERATIONS, OVERRUN, Phase, Report, Supervisor,
};
use crate::exit::Exit;

impl Supervisor {
    pub(super) fn settle(&mut self, now: Instant, actions: &mut Vec<Action>) {
        self.hurry_old_generations(now, actions);
        self.kill_the_late(now, actions);
        self.advance_phase(now, actions);
        if !self.wants_workers() {
            return;
        }
        self.close_surplus_slots(now, actions);
        for (slot, number) in self.slots.iter_mut().zip(1..) {
            if matches!(slot.state, State::Empty(due) if due <= now) {
                slot.state = State::Forking;
                actions.push(Action::Spawn(number));
            }
        }
        self.renew_next(actions);
        self.rescue_queues(now, actions);
    }

    /// A silent worker first gets no new connections. If it stays silent it leaves its slot: its
    /// successor takes over the queue without waiting for its end.
    pub(super) fn look_at_health(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let suspicious = unresponsive_after(self.plan.worker_timeout);
        for number in 1..=self.slots.len() as u32 {
            let limit = self.plan.worker_timeout;
            let slot = &mut self.slots[number as usize - 1];
            if let Some(Successor::Booting(pid, since)) = slot.successor {
                if since + BOOT_TIMEOUT <= now {
                    slot.successor = None;
                    actions.push(Action::Report(Report::NotReady(number, pid)));
                    self.abort(number, pid, now, actions);
                    self.give_up_renewal(number, actions);
                    continue;
                }
            }
            match slot.state {
                State::Booting(pid, since) if since + BOOT_TIMEOUT <= now => {
                    actions.push(Action::Report(Report::NotReady(number, pid)));
                    self.replace(number, pid, None, now, actions);
                }
                State::Serving(pid, since, beat) => {
                    // One of an old generation beats at the pace that it was told.
                    let limit = limit.filter(|_| !slot.outdated);
                    if limit.is_some_and(|limit| beat + limit <= now) {
                        actions.push(Action::Report(Report::Hung(number, pid)));
                        self.replace(number, pid, Some((since, beat)), now, actions);
                    } else if slot.unresponsive != (beat + suspicious <= now) {
                        slot.unresponsive = !slot.unresponsive;
                        let report = if slot.unresponsive {
                            Report::Unresponsive
                        } else {
                            Report::Responsive
                        };
                        actions.push(Action::Report(report(number, pid)));
                    }
                }
                _ => {}
            }
        }
    }

    fn replace(
        &mut self,
        number: u32,
        pid: Pid,
        life: Option<(Instant, Instant)>,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        self.abort(number, pid, now, actions);
        self.vacate(number, now);
        let vacant = matches!(self.slots[number as usize - 1].state, State::Empty(_));
        if vacant && self.wants_workers() {
            let served = life.map(|(since, beat)| beat.saturating_duration_since(since));
            self.failed(number, served, now, actions);
        }
    }

    fn abort(&mut self, slot: u32, pid: Pid, now: Instant, actions: &mut Vec<Action>) {
        actions.push(Action::Signal(pid, Signal::SIGABRT));
        self.leaving.push(Leaving::new(pid, slot, now + ABORT_GRACE));
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

    fn advance_phase(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let serving = |slot: &&Slot| matches!(slot.state, State::Serving(..));
        let ready = self.slots.iter().filter(serving).count() as u32;
        match self.phase {
            Phase::Starting(until) if ready >= self.plan.slots || (ready > 0 && until <= now) => {
                self.phase = Phase::Running;
                actions.push(Action::Report(Report::Serving(ready)));
            }
            Phase::Starting(until) if until <= now => {
                actions.push(Action::Report(Report::NoneReady));
                self.end(Exit::Failure, now, actions);
                self.kill_rest(now, actions);
            }
            Phase::Delaying(until) if until <= now => self.drain(now, actions),
            Phase::Ending(..) => self.kill_rest(now, actions),
            _ => {}
        }
    }

    fn kill_rest(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let Phase::Ending(exit, kill_at) = self.phase else { return };
        let pids = self.pids();
        if pids.is_empty() {
            actions.push(Action::Exit(exit));
        } else if kill_at <= now {
            actions.push(Action::Report(Report::Killing(pids.len() as u32)));
            actions.extend(pids.into_iter().map(|pid| Action::Signal(pid, Signal::SIGKILL)));
            self.phase = Phase::Ending(exit, now + ABORT_GRACE);
        }
    }

    /// The highest slots go first. A slot between two workers goes when the fork has come back.
    fn close_surplus_slots(&mut self, now: Instant, actions: &mut Vec<Action>) {
        while self.slots.len() > self.plan.slots as usize {
            let number = self.slots.len() as u32;
            let Some(slot) = self.slots.last().copied() else { return };
            if slot.state == State::Forking || slot.successor == Some(Successor::Forking) {
                return;
            }
            self.slots.pop();
            let kill_at = now + self.plan.drain_timeout + OVERRUN;
            let heir = if slot.is_healthy() { slot.state.pid() } else { self.helper_for(number) };
            for pid in slot.pids() {
                if Some(pid) == heir {
                    self.leaving.push(Leaving::new(pid, number, kill_at));
                } else if slot.unresponsive {
                    // It must not keep the queue until it responds again.
                    self.abort(number, pid, now, actions);
                } else {
                    self.leaving.push(Leaving::new(pid, number, kill_at));
                    actions.push(Action::Signal(pid, Signal::SIGTERM));
                }
            }
            if let Some(rescuer) = slot.rescuer.filter(|pid| Some(*pid) != heir) {
                actions.push(Action::Release(number, rescuer));
            }
            actions.push(Action::CloseSlot(number, heir));
        }
    }

    /// One slot at a time: the next one only when the one before has its new worker.
    fn renew_next(&mut self, actions: &mut Vec<Action>) {
        if !self.renewing || self.slots.iter().any(|slot| slot.successor.is_some()) {
            return;
        }
        // A slot without a worker gets one of the new generation anyway.
        for slot in &mut self.slots {
            slot.outdated &= matches!(slot.state, State::Serving(..));
        }
        if let Some(index) = self.slots.iter().position(|slot| slot.outdated) {
            self.slots[index].successor = Some(Successor::Forking);
            actions.push(Action::Spawn(index as u32 + 1));
        } else if self
            .slots
            .iter()
            .all(|slot| !matches!(slot.state, State::Booting(..) | State::Forking))
        {
            self.renewing = false;
            actions.push(Action::Report(Report::Renewed));
        }
    }

    /// A queue whose own worker does not accept is handed to a sibling until it does.
    fn rescue_queues(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if self.is_starting() {
            return;
        }
        for number in 1..=self.slots.len() as u32 {
            let slot = self.slots[number as usize - 1];
            let queue = slot.queue_at(now);
            let still_there = slot.rescuer.filter(|pid| self.is_healthy_worker(*pid));
            let rescuer = match queue {
                Queue::Attended => None,
                Queue::Unattended(_) => still_there,
                Queue::Abandoned => still_there.or_else(|| self.helper_for(number)),
            };
            if rescuer != slot.rescuer {
                actions.extend(slot.rescuer.map(|former| Action::Release(number, former)));
                actions.extend(rescuer.map(|pid| Action::Rescue(number, pid)));
            }
            let slot = &mut self.slots[number as usize - 1];
            slot.queue = queue;
            slot.rescuer = rescuer;
        }
    }

    fn is_healthy_worker(&self, pid: Pid) -> bool {
        self.slots.iter().any(|slot| slot.is_healthy() && slot.state.pid() == Some(pid))
    }

    /// The healthy worker next in turn after this slot.
    fn helper_for(&self, number: u32) -> Option<Pid> {
        let (before, after) = self.slots.split_at((number as usize).min(self.slots.len()));
        let healthy = |slot: &&Slot| slot.is_healthy();
        after.iter().chain(before).find(healthy).and_then(|slot| slot.state.pid())
    }
}
