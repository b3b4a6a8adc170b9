//! Invariants of every iteration of the controller's loop.

mod queues;
mod slots;

use std::time::Duration;

use nix::unistd::Pid;

use super::coverage::Point;
use super::process::{Life, Process};
use super::watch::END_WITHIN;
use super::world::World;
use crate::daemon::controller::fleet::Action;
use crate::daemon::controller::queues::{Action as QueueAction, Kind};
use crate::daemon::controller::supervisor;
use crate::daemon::ids::{QueueId, SlotId};
use crate::exit::Exit;

impl World {
    /// Checks the invariants after an iteration of the controller's loop.
    pub(super) fn check_invariants(&mut self) {
        self.coverage.phase(self.fleet.supervisor.phase(self.reload.check.is_some()));
        if self.now - self.watch.last_check > Duration::from_secs(3) {
            self.watch.slept = self.now;
            let by = self.now + END_WITHIN;
            self.watch.exit_by = self.watch.exit_by.map(|at| at.max(by));
        }
        self.watch.last_check = self.now;
        self.check_deadline();
        self.check_slots();
        self.check_end();
        self.check_groups();
        self.check_steering();
        self.check_attendance();
    }

    fn check_deadline(&mut self) {
        let now = self.now;
        let Some(deadline) = self.deadline.filter(|deadline| *deadline <= now) else {
            self.watch.overdue = 0;
            return;
        };
        // The next iteration follows immediately and must handle the deadline.
        self.watch.overdue += 1;
        if self.watch.overdue > 1 {
            self.fail("the deadline is in the future", || format!("{:?} ago", now - deadline));
        }
    }

    fn check_end(&mut self) {
        let now = self.now;
        if self.watch.exit_by.is_some_and(|by| by < now) {
            self.fail("the daemon ends in time", String::new);
        }
        if !self.watch.killing || self.watch.draining.is_none() {
            return;
        }
        let doomed = |pid| self.doomed.iter().any(|(other, ..)| *other == pid);
        let alive = self.processes.iter().filter(|process| process.slot != SlotId::ADMIN);
        let mut alive = alive.filter(|process| process.is_alive() && !doomed(process.pid));
        if let Some(pid) = alive.next().map(|process| process.pid) {
            self.fail("the second stop ends all workers at once", || format!("{pid}"));
        }
        self.coverage.hit(Point::SecondStop);
    }

    /// Checks that no pending action addresses a reaped process.
    pub(super) fn check_nothing_for(&mut self, pid: Pid) {
        let is_to = |action: &&Action| match action {
            Action::Process(
                supervisor::Action::Signal(to, _)
                | supervisor::Action::Kill(to, _)
                | supervisor::Action::Retire(to),
            ) => *to == pid,
            Action::Queue(QueueAction::Grant(to, _) | QueueAction::Release(to, _)) => *to == pid,
            _ => false,
        };
        let found = self.actions.iter().find(is_to).cloned();
        if let Some(action) = found {
            self.fail("nothing is sent to a process that was reaped", || format!("{action:?}"));
        }
    }

    /// Checks that the controller closes the last descriptor of a queue.
    pub(super) fn check_close(&mut self, queue: QueueId) {
        if matches!(self.fleet.queues.kind(queue), Some(Kind::External(_))) {
            return;
        }
        let handoff = self.handoff.get(&queue).map(|(_, socket)| socket);
        let Some(&socket) = self.listening.get(&queue).or(handoff) else {
            return self.fail("nothing is done twice", || format!("close {queue}"));
        };
        // At shutdown the manager keeps its duplicates for the next daemon.
        let draining = self.fleet.supervisor.is_draining();
        let stored = self.manager.holds(socket);
        let others = self.kernel.sockets[socket].descriptors - 1;
        if others > if draining { stored } else { 0 } {
            let holds = |process: &&Process| process.holds.contains(&socket);
            let holders: Vec<_> = self.processes.iter().filter(holds).map(|it| it.pid).collect();
            self.fail("a queue is closed when no other process holds it", || {
                format!("queue {queue}: {holders:?}")
            });
        }
    }

    /// Checks that no connection was reset, except where a reset is unavoidable.
    pub(super) fn check_resets(&mut self) {
        for reset in std::mem::take(&mut self.kernel.resets) {
            let address = self.kernel.sockets[reset.socket].address;
            let kept = address.is_none_or(|address| self.setup.addresses.contains(&address));
            let late = self.watch.draining.is_some_and(|at| match reset.established {
                Some(since) => since >= at,
                None => true,
            });
            // A daemon that failed to start may reset connections.
            let failed = self.watch.draining.is_some() && self.watch.stopped.is_none();
            let able = |it: &Process| {
                it.slot != SlotId::ADMIN && it.life == Life::Running && it.can_run() && !it.full
            };
            let unattended = self.watch.draining.is_some() && !self.processes.iter().any(able);
            if late || failed || unattended || self.watch.killing {
                self.watch.excused += 1;
                self.coverage.hit(Point::ExcusedReset);
            } else if reset.established.is_none() && (!kept || !reset.sound) {
                self.coverage.hit(Point::HandshakeReset);
            } else {
                let since = reset.established.map(|since| self.at(since));
                self.fail("no connection is reset", || {
                    format!("socket {} at {address:?}, established at {since:?}", reset.socket)
                });
            }
        }
    }

    /// Ends the controller, and checks that it may end.
    pub(super) fn exit(&mut self, exit: Exit) {
        self.coverage.hit(if exit == Exit::Ok { Point::ExitOk } else { Point::ExitFailure });
        let left: Vec<Pid> = self.processes.iter().map(|process| process.pid).collect();
        if !left.is_empty() {
            self.fail("the controller ends last", || format!("{left:?}"));
        }
        if exit == Exit::Ok && self.watch.stopped.is_none() {
            self.fail("the controller ends when it is told to", String::new);
        }
        self.exited = Some(exit);
        let handoff = std::mem::take(&mut self.handoff).into_values().map(|(_, socket)| socket);
        let listening = std::mem::take(&mut self.listening).into_values();
        listening.chain(handoff).for_each(|socket| self.kernel.close(socket));
        self.check_resets();
    }
}
