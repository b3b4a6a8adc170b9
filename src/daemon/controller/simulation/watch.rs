//! Records of events and actions in the history.

use std::time::Duration;

use nix::unistd::Pid;

use super::coverage::Point;
use super::world::World;
use crate::daemon::controller::fleet::{Action, Event};
use crate::daemon::controller::supervisor::{self, LogEvent};
use crate::daemon::ids::SlotId;
use crate::exit::Exit;
use crate::sys::wait::ExitStatus;

/// A process that ends sooner after it became ready counts as a failed start, as `backoff::SERVED`.
const SERVED: Duration = Duration::from_millis(500);
/// Maximum number of starts after failures: the shortest delays of the restart backoff permit
/// eight.
const MAX_STARTS: usize = 9;
/// Period of [`MAX_STARTS`].
const STARTS_WITHIN: Duration = Duration::from_secs(10);
/// Time to kill and reap workers and the admin process after the graceful timeout.
pub(super) const END_WITHIN: Duration = Duration::from_secs(5);
/// Two stop signals within this time count as one, as `supervisor::DUPLICATE_STOP`.
const DUPLICATE_STOP: Duration = Duration::from_millis(100);

impl World {
    /// Records an event.
    pub(super) fn watch_event(&mut self, event: &Event) {
        let now = self.now;
        let Event::Process(event) = event else {
            if matches!(event, Event::Stored(_, None)) {
                self.watch.unkept = true;
                self.coverage.hit(Point::SocketUnkept);
            }
            return;
        };
        match event {
            supervisor::Event::Ready(pid) => {
                let in_slot = self.fleet.supervisor.is_in_slot(*pid);
                if let Some(child) = self.children.get_mut(pid).filter(|_| in_slot) {
                    child.ready.get_or_insert(now);
                }
            }
            supervisor::Event::Retiring(pid) | supervisor::Event::Draining(pid) => {
                self.children.entry(*pid).and_modify(|child| child.leaving = true);
            }
            supervisor::Event::NotSpawned(slot) => drop(self.watch.failed.insert(*slot)),
            supervisor::Event::AddWorker | supervisor::Event::RemoveWorker => {
                self.watch.starts.clear();
            }
            supervisor::Event::Stop => {
                let first = *self.watch.stopped.get_or_insert(now);
                if self.watch.draining.is_some() && now >= first + DUPLICATE_STOP {
                    let by = now + END_WITHIN;
                    self.watch.exit_by = self.watch.exit_by.map(|at| at.min(by));
                    self.watch.killing = true;
                }
            }
            _ => {}
        }
    }

    /// Records an action.
    pub(super) fn watch_action(&mut self, action: &Action) {
        match action {
            Action::Process(
                supervisor::Action::Signal(pid, _)
                | supervisor::Action::Kill(pid, _)
                | supervisor::Action::Retire(pid),
            ) => drop(self.children.entry(*pid).and_modify(|child| child.leaving = true)),
            Action::Process(supervisor::Action::CloseAddresses) => {
                self.watch.draining.get_or_insert(self.now);
                let by = self.now + self.setup.graceful_timeout + END_WITHIN;
                self.watch.exit_by = Some(by);
            }
            Action::Process(supervisor::Action::Log(LogEvent::Killing(_))) => {
                self.watch.killing = true;
            }
            Action::Process(supervisor::Action::Log(LogEvent::ReloadAborted(_))) => {
                self.watch.mixed = true;
            }
            _ => {}
        }
    }

    /// Records a fork, and checks that it is permitted.
    pub(super) fn watch_spawn(&mut self, slot: SlotId) {
        let now = self.now;
        if slot != SlotId::ADMIN && self.watch.draining.is_some() {
            self.fail("no worker starts in a daemon that ends", || format!("slot {slot}"));
        }
        if self.watch.failed.remove(&slot) {
            let starts = self.watch.starts.entry(slot).or_default();
            starts.retain(|start| *start + STARTS_WITHIN > now);
            starts.push(now);
            let count = starts.len();
            if count > MAX_STARTS {
                self.fail("restarts stay within the backoff", || format!("slot {slot}: {count}"));
            }
        }
        let of_slot = self.children.values().filter(|child| child.slot == slot && !child.leaving);
        let unready = of_slot.filter(|child| child.ready.is_none()).count();
        if unready > 0 {
            self.fail("one process for a slot at a time", || format!("slot {slot}"));
        }
    }

    /// Records the exit status of a process before it is removed.
    pub(super) fn watch_end(&mut self, pid: Pid, status: ExitStatus) {
        let Some(child) = self.children.get(&pid).filter(|child| !child.leaving) else { return };
        let served = child.ready.map(|at| self.now - at);
        let clean = served.is_some() && status == ExitStatus::Code(0);
        if served.is_none_or(|served| served < SERVED) && !clean {
            self.watch.failed.insert(child.slot);
        }
        if status == ExitStatus::Code(i32::from(Exit::DoNotRespawn.code())) {
            self.watch.refusals.insert(child.slot);
        }
    }

    /// Resets what a reload makes obsolete.
    pub(super) fn watch_reload(&mut self, replace: bool) {
        self.watch.mixed &= !replace;
        self.watch.starts.clear();
        self.watch.failed.clear();
        self.watch.refusals.clear();
        self.watch.states.clear();
        self.watch.moves = u64::MAX;
    }

    /// Records a suspension of the machine.
    pub(super) fn watch_sleep(&mut self) {
        self.watch.slept = self.now;
        self.children.values_mut().for_each(|child| child.fit = None);
        let by = self.now + END_WITHIN;
        self.watch.exit_by = self.watch.exit_by.map(|at| at.max(by));
    }
}
