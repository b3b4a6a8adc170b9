//! The reload: the state handover between images of the controller, as in `reload/mod.rs` and
//! `reload/restore.rs`.

use std::time::Duration;

use super::coverage::Point;
use super::world::World;
use crate::daemon::controller::queues::Queues;
use crate::daemon::controller::supervisor::{ADMIN_DRAIN_TIMEOUT, HandoverProcess, Supervisor};
use crate::daemon::ids::SlotId;

impl World {
    /// Advances a reload, as `Controller::advance_reload`. Returns `true` if a new image was
    /// executed.
    pub(super) fn advance_reload(&mut self) -> bool {
        let now = self.now;
        if self.fleet.supervisor.is_stopping() {
            self.reload.wanted = false;
            self.reload.check = None;
        }
        if self.reload.check.is_some_and(|due| due <= now) {
            self.reload.check = None;
            return self.become_next();
        }
        if self.reload.check.is_none() && self.reload.wanted && self.fleet.supervisor.is_steady() {
            self.reload.wanted = false;
            self.reload.check = Some(now + Duration::from_millis(self.random.between(1, 250)));
        }
        false
    }

    fn become_next(&mut self) -> bool {
        self.on_signals();
        self.act();
        if self.exited.is_some() || self.failure.is_some() {
            return false;
        }
        if self.fleet.supervisor.is_stopping() {
            return false;
        }
        if !self.fleet.supervisor.is_steady() {
            self.coverage.hit(Point::ReloadPostponed);
            self.reload.wanted = true;
            return false;
        }
        self.execute();
        true
    }

    fn execute(&mut self) {
        let queues = self.fleet.queues.serialize();
        let processes = self.fleet.supervisor.serialize(self.now);
        let known = |pid| processes.iter().any(|process| process.pid == pid);
        let forgotten = self.children.keys().copied().find(|pid| !known(*pid));
        if let Some(pid) = forgotten {
            self.fail("a reload forgets no process", || format!("{pid}"));
        }
        self.now += Duration::from_millis(self.random.between(2, 40));
        let wanted = self.fleet.supervisor.wanted();
        let mut replace = true;
        match self.reload.next.take() {
            // For example, an address is in use.
            Some(_) if self.random.chance(10) => {
                (replace, self.setup.slots) = (false, wanted);
                self.coverage.hit(Point::ReloadRejected);
            }
            Some(next) => self.setup = next,
            None => {}
        }
        self.coverage.hit(Point::Reloaded);
        if self.trace.is_some() {
            let setup = format!("{:?}", self.setup);
            self.log(|| format!("RELOAD replace {replace}: {setup}"));
            self.log(|| format!("  handover {queues:?} {processes:?}"));
        }
        let mut queues = Queues::restore(queues, self.setup.stores, self.now);
        queues.want(self.setup.addresses.clone(), self.setup.handoff);
        let processes = restore_children(processes);
        let highest = processes.iter().filter(|child| child.leaving.is_none());
        let highest = highest.map(|child| child.slot).max().unwrap_or_default().min(SlotId::MAX);
        let seed = self.random.next();
        let plan = self.setup.plan();
        self.fleet.supervisor =
            Supervisor::restore(plan, seed, self.now, &processes, highest, replace);
        self.fleet.queues = queues;
        self.actions.clear();
        self.attached.clear();
        self.manager.barriers.clear();
        (self.last_tick, self.wake) = (self.now, Some(self.now));
        self.watch_reload(replace);
    }

    /// Returns `true` if another program opened the sockets.
    pub(super) fn is_passed(&self) -> bool {
        !self.setup.passed.is_empty()
    }
}

/// Restores the children, as `reload/restore.rs` does: a draining admin process gets its full time
/// again.
fn restore_children(processes: Vec<HandoverProcess>) -> Vec<HandoverProcess> {
    let restored = processes.into_iter().map(|child| match child.slot {
        SlotId::ADMIN => {
            HandoverProcess { leaving: child.leaving.map(|_| ADMIN_DRAIN_TIMEOUT), ..child }
        }
        _ => child,
    });
    restored.collect()
}
