//! The history that the invariants are checked against.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use super::coverage::Point;
use super::kernel::SocketId;
use super::world::World;
use crate::controller::fleet::{Action, Event};
use crate::controller::supervisor::{self, ADMIN, Report};
use crate::exit::Exit;
use crate::process::wait::Ending;
use crate::stats::SlotState;

/// A process that ends sooner after it became ready counts as a failed start, as `backoff::SERVED`.
const SERVED: Duration = Duration::from_millis(500);
/// Maximum number of starts after failures: the shortest delays of the restart backoff permit
/// eight.
const MAX_STARTS: usize = 9;
/// Period of [`MAX_STARTS`].
const STARTS_WITHIN: Duration = Duration::from_secs(10);
/// Time to kill and reap workers and the admin process after the graceful timeout.
pub(super) const END_WITHIN: Duration = Duration::from_secs(5);
/// Two stop signals within this time count as one, as `supervisor::SAME_STOP`.
const SAME_STOP: Duration = Duration::from_millis(100);

/// History of a simulation.
#[derive(Debug)]
pub(super) struct Watch {
    /// Descriptors held by the program that passed sockets.
    pub(super) foreign: Vec<SocketId>,
    /// Pids of reaped processes.
    pub(super) freed: Vec<Pid>,
    /// Slots whose last fork or start failed.
    pub(super) failed: BTreeSet<u32>,
    /// Times of the starts after failures, by slot.
    pub(super) starts: BTreeMap<u32, Vec<Instant>>,
    /// Slots whose worker asked not to be restarted.
    pub(super) refusals: BTreeSet<u32>,
    /// Time of the first stop signal.
    pub(super) stopped: Option<Instant>,
    /// Time at which the addresses were closed.
    pub(super) draining: Option<Instant>,
    /// `true` if the remaining workers were killed.
    pub(super) killing: bool,
    /// Time by which the daemon must have ended.
    pub(super) exit_by: Option<Instant>,
    /// Sockets that receive new connections but have no responsive attendant, with the start time.
    pub(super) unattended: BTreeMap<SocketId, Instant>,
    /// Responsive workers, with the start time.
    pub(super) fit: BTreeMap<Pid, Instant>,
    /// Time of the last suspension of the controller.
    pub(super) slept: Instant,
    /// Time of the last check.
    pub(super) last_check: Instant,
    /// States of the slots at the last check.
    pub(super) states: Vec<SlotState>,
    /// Number of consecutive loop iterations with a deadline in the past.
    pub(super) overdue: u32,
    /// Number of group changes at the last check.
    pub(super) moves: u64,
    /// Number of permitted resets.
    pub(super) excused: u64,
    /// `true` if a reload was aborted: workers of different configurations serve.
    pub(super) mixed: bool,
    /// `true` if the manager did not keep a socket.
    pub(super) unkept: bool,
}

impl Watch {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            foreign: Vec::new(),
            freed: Vec::new(),
            failed: BTreeSet::new(),
            starts: BTreeMap::new(),
            refusals: BTreeSet::new(),
            stopped: None,
            draining: None,
            killing: false,
            exit_by: None,
            unattended: BTreeMap::new(),
            fit: BTreeMap::new(),
            slept: now,
            last_check: now,
            states: Vec::new(),
            overdue: 0,
            moves: u64::MAX,
            excused: 0,
            mixed: false,
            unkept: false,
        }
    }
}

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
            supervisor::Event::More | supervisor::Event::Fewer => self.watch.starts.clear(),
            supervisor::Event::Stop => {
                let first = *self.watch.stopped.get_or_insert(now);
                if self.watch.draining.is_some() && now >= first + SAME_STOP {
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
            Action::Process(supervisor::Action::Report(Report::Killing(_))) => {
                self.watch.killing = true;
            }
            Action::Process(supervisor::Action::Report(Report::NotRenewed(_))) => {
                self.watch.mixed = true;
            }
            _ => {}
        }
    }

    /// Records a fork, and checks that it is permitted.
    pub(super) fn watch_spawn(&mut self, slot: u32) {
        let now = self.now;
        if slot != ADMIN && self.watch.draining.is_some() {
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
    pub(super) fn watch_end(&mut self, pid: Pid, ending: Ending) {
        self.watch.fit.remove(&pid);
        let Some(child) = self.children.get(&pid).filter(|child| !child.leaving) else { return };
        let served = child.ready.map(|at| self.now - at);
        let clean = served.is_some() && ending == Ending::Code(0);
        if served.is_none_or(|served| served < SERVED) && !clean {
            self.watch.failed.insert(child.slot);
        }
        if ending == Ending::Code(i32::from(Exit::DoNotRespawn.code())) {
            self.watch.refusals.insert(child.slot);
        }
    }

    /// Resets what a reload makes obsolete.
    pub(super) fn watch_reload(&mut self, renew: bool) {
        self.watch.mixed &= !renew;
        self.watch.starts.clear();
        self.watch.failed.clear();
        self.watch.refusals.clear();
        self.watch.states.clear();
        self.watch.moves = u64::MAX;
    }

    /// Records a suspension of the machine.
    pub(super) fn watch_sleep(&mut self) {
        self.watch.slept = self.now;
        self.watch.fit.clear();
        let by = self.now + END_WITHIN;
        self.watch.exit_by = self.watch.exit_by.map(|at| at.max(by));
    }
}
