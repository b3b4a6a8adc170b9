//! The reload: the state handover between images of the controller, as in `reload.rs` and
//! `restore.rs`.

use std::time::Duration;

use super::coverage::Point;
use super::world::World;
use crate::controller::queues::Queues;
use crate::controller::supervisor::{ADMIN, Inherited, MOST_SLOTS, Supervisor};

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
        let handed = self.fleet.queues.serialize();
        let inheritance = self.fleet.supervisor.inheritance(self.now);
        let known = |pid| inheritance.iter().any(|inherited| inherited.pid == pid);
        let forgotten = self.children.keys().copied().find(|pid| !known(*pid));
        if let Some(pid) = forgotten {
            self.fail("a reload forgets no process", || format!("{pid}"));
        }
        self.now += Duration::from_millis(self.random.between(2, 40));
        let wanted = self.fleet.supervisor.wanted();
        let mut renew = true;
        match self.reload.next.take() {
            // For example, an address is in use.
            Some(_) if self.random.chance(10) => {
                (renew, self.setup.slots) = (false, wanted);
                self.coverage.hit(Point::ReloadRejected);
            }
            Some(next) => self.setup = next,
            None => {}
        }
        self.coverage.hit(Point::Reloaded);
        let setup = format!("{:?}", self.setup);
        self.log(|| format!("RELOAD renew {renew}: {setup}"));
        if self.trace.is_some() {
            let text = format!("  handed {handed:?} {inheritance:?}");
            self.log(|| text);
        }
        let mut queues = Queues::restore(handed, self.setup.stores, self.now);
        queues.want(self.setup.addresses.clone(), self.setup.handoff);
        let inherited = restore_children(inheritance);
        let highest = inherited.iter().filter(|child| child.leaving.is_none());
        let highest = highest.map(|child| child.slot).max().unwrap_or(0).min(MOST_SLOTS);
        let seed = self.random.next();
        let plan = self.setup.plan();
        self.fleet.supervisor =
            Supervisor::resume(plan, seed, self.now, &inherited, highest, renew);
        self.fleet.queues = queues;
        self.actions.clear();
        self.attached.clear();
        self.manager.barriers.clear();
        (self.last_tick, self.wake) = (self.now, Some(self.now));
        self.watch_reload(renew);
    }

    /// Returns `true` if another program opened the sockets.
    pub(super) fn is_passed(&self) -> bool {
        !self.setup.passed.is_empty()
    }
}

/// Restores the children, as `restore.rs` does: a leaving admin process has two seconds to end.
fn restore_children(inheritance: Vec<Inherited>) -> Vec<Inherited> {
    let restored = inheritance.into_iter().map(|child| match child.slot {
        ADMIN => Inherited { leaving: child.leaving.map(|_| Duration::from_secs(2)), ..child },
        _ => child,
    });
    restored.collect()
}
