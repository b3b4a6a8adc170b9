//! What must hold after every turn of the controller.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use super::coverage::Point;
use super::kernel::SocketId;
use super::process::Life;
use super::world::World;
use crate::controller::fleet::{Action, Event};
use crate::controller::queues::{self, Kind};
use crate::controller::supervisor::{self, ADMIN, Report};
use crate::exit::Exit;
use crate::ids::QueueId;
use crate::process::wait::Ending;
use crate::stats::SlotState;

/// A process that ends sooner after it got ready was a failed start, as `backoff::SERVED`.
const SERVED: Duration = Duration::from_millis(500);
/// The shortest waits of the backoff table permit eight starts after failures in ten seconds.
const MOST_STARTS: usize = 9;
const STARTS_WITHIN: Duration = Duration::from_secs(10);
/// Time in which a queue gets somebody who accepts from it, if there is anybody fit: to find out that
/// a worker stands still, to ask others that do not answer either, and a backoff does not count.
const ATTENDED_WITHIN: Duration = Duration::from_secs(8);
/// The end of the daemon after the workers' time is up: to kill, to reap, and the admin process.
const END_WITHIN: Duration = Duration::from_secs(5);
/// Two signals to stop within this are one, as `supervisor::SAME_STOP`.
const SAME_STOP: Duration = Duration::from_millis(100);

/// What the judge remembers.
#[derive(Debug)]
pub(super) struct Watch {
    /// Descriptors of the program that has passed sockets.
    pub(super) foreign: Vec<SocketId>,
    /// Pids that were reaped.
    pub(super) freed: Vec<Pid>,
    /// Slots whose last process, or fork, has failed at once.
    failed: BTreeSet<u32>,
    /// When each slot got a process after such a failure.
    starts: BTreeMap<u32, Vec<Instant>>,
    /// Slots whose worker has said that another try is of no use.
    pub(super) refusals: BTreeSet<u32>,
    pub(super) stopped: Option<Instant>,
    /// When the addresses were closed.
    pub(super) draining: Option<Instant>,
    /// The remaining workers were killed.
    killing: bool,
    /// It must have ended by then.
    exit_by: Option<Instant>,
    /// Sockets that new connections may go to and nobody fit accepts from, since.
    unattended: BTreeMap<SocketId, Instant>,
    /// Workers that are fit, since.
    fit: BTreeMap<Pid, Instant>,
    /// When the controller has slept last.
    slept: Instant,
    last_turn: Instant,
    states: Vec<SlotState>,
    /// Number of turns that have left a deadline behind, in a row.
    overdue: u32,
    moves: u64,
    /// Connections that were reset, and why that is no fault.
    pub(super) excused: u64,
    /// A reload was given up: workers of different configurations serve.
    pub(super) mixed: bool,
    /// A socket was not, or not for long, kept by the manager, or was kept twice.
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
            last_turn: now,
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
    /// Remembers what an event means to the judge.
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

    /// Remembers what an action means to the judge.
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

    /// A process is to be forked.
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
            if count > MOST_STARTS {
                self.fail("restarts stay within the backoff", || format!("slot {slot}: {count}"));
            }
        }
        let of_slot = self.children.values().filter(|child| child.slot == slot && !child.leaving);
        let unready = of_slot.filter(|child| child.ready.is_none()).count();
        if unready > 0 {
            self.fail("one process for a slot at a time", || format!("slot {slot}"));
        }
    }

    /// A process has ended and is about to be forgotten.
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

    /// There is a new image.
    pub(super) fn watch_reload(&mut self, renew: bool) {
        self.watch.mixed &= !renew;
        self.watch.starts.clear();
        self.watch.failed.clear();
        self.watch.refusals.clear();
        self.watch.states.clear();
        self.watch.moves = u64::MAX;
    }

    /// Nothing is left to be sent to a process that was reaped.
    pub(super) fn check_nothing_for(&mut self, pid: Pid) {
        let is_to = |action: &&Action| match action {
            Action::Process(
                supervisor::Action::Signal(to, _)
                | supervisor::Action::Kill(to, _)
                | supervisor::Action::Retire(to),
            ) => *to == pid,
            Action::Queue(queues::Action::Grant(to, _) | queues::Action::Release(to, _)) => {
                *to == pid
            }
            _ => false,
        };
        let found = self.actions.iter().find(is_to).cloned();
        if let Some(action) = found {
            self.fail("nothing is sent to a process that was reaped", || format!("{action:?}"));
        }
    }

    /// The controller's descriptor of a queue is the last one when it is closed.
    pub(super) fn check_close(&mut self, queue: QueueId) {
        if matches!(self.fleet.queues.kind(queue), Some(Kind::External(_))) {
            return;
        }
        let handoff = self.handoff.get(&queue).map(|(_, socket)| socket);
        let Some(&socket) = self.listening.get(&queue).or(handoff) else {
            return self.twice(|| format!("close {queue}"));
        };
        // A daemon that ends leaves to the manager what the manager keeps: the next one gets it.
        let ending = self.fleet.supervisor.is_draining();
        let stored = self.manager.holds(socket);
        let others = self.kernel.sockets[socket].descriptors - 1;
        if others > if ending { stored } else { 0 } {
            let holds = |process: &&super::process::Process| process.holds.contains(&socket);
            let holders: Vec<_> = self.processes.iter().filter(holds).map(|it| it.pid).collect();
            self.fail("a queue is closed when nobody else holds it", || {
                format!("queue {queue}: {holders:?}")
            });
        }
    }

    /// The same was done before, and nothing has changed.
    fn twice(&mut self, what: impl FnOnce() -> String) {
        self.fail("nothing is done twice", what);
    }

    /// Connections are not reset.
    pub(super) fn judge_resets(&mut self) {
        for reset in std::mem::take(&mut self.kernel.resets) {
            let address = self.kernel.sockets[reset.socket].address;
            let kept = address.is_none_or(|address| self.setup.addresses.contains(&address));
            let late = self.watch.draining.is_some_and(|at| match reset.established {
                Some(since) => since >= at,
                None => true,
            });
            // A daemon that has failed to start has promised nothing.
            let failed = self.watch.draining.is_some() && self.watch.stopped.is_none();
            let able = |it: &super::process::Process| {
                it.slot != ADMIN && it.life == Life::Running && it.can_run() && !it.full
            };
            let nobody = self.watch.draining.is_some() && !self.processes.iter().any(able);
            if late || failed || nobody || self.watch.killing {
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

    /// The controller ends.
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
        self.judge_resets();
    }

    /// After a turn of the controller.
    pub(super) fn check_turn(&mut self) {
        self.coverage.phase(self.fleet.supervisor.phase(self.reload.check.is_some()));
        if self.now - self.watch.last_turn > Duration::from_secs(3) {
            self.watch.slept = self.now;
            let by = self.now + END_WITHIN;
            self.watch.exit_by = self.watch.exit_by.map(|at| at.max(by));
        }
        self.watch.last_turn = self.now;
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
        // The next turn follows at once, and must be enough.
        self.watch.overdue += 1;
        if self.watch.overdue > 1 {
            self.fail("the deadline is in the future", || format!("{:?} ago", now - deadline));
        }
    }

    fn check_slots(&mut self) {
        let supervisor = &self.fleet.supervisor;
        let renewing = supervisor.is_renewing();
        let mut fault = None;
        let slots = self.children.values().map(|child| child.slot).max().unwrap_or(0);
        for slot in 0..=slots {
            let stays = self
                .children
                .values()
                .filter(|child| child.slot == slot && !child.leaving)
                .copied();
            let (ready, unready): (Vec<super::world::Child>, Vec<_>) =
                stays.partition(|child| child.ready.is_some());
            let two = !ready.is_empty() && !unready.is_empty();
            if ready.len() > 1 || unready.len() > 1 || (two && slot != ADMIN && !renewing) {
                fault = Some(slot);
            }
        }
        if let Some(slot) = fault {
            let children = format!("slot {slot}: {:?}", self.children);
            self.fail("one process stays in a slot", || children);
        }
        let most = 6 * self.setup.slots.max(self.fleet.supervisor.wanted()) as usize + 64 + 16;
        if self.processes.len() > most {
            self.fail("processes are bounded", || format!("more than {most}"));
        }
        let stopping = self.fleet.supervisor.is_draining();
        let views =
            self.fleet.supervisor.views(self.now).take(self.fleet.supervisor.wanted() as usize);
        let views: Vec<_> = views.collect();
        for (index, view) in views.iter().enumerate() {
            let slot = index as u32 + 1;
            match self.watch.states.get_mut(index) {
                Some(state) => {
                    self.coverage.transition(*state, view.state);
                    *state = view.state;
                }
                None => self.watch.states.push(view.state),
            }
            let due = view.state == SlotState::Backoff && self.deadline.is_some();
            let given_up = self.watch.refusals.contains(&slot);
            if view.pid.is_none() && !due && !given_up && !stopping {
                self.fail("a slot has a worker or is to get one", || format!("slot {slot}"));
            }
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
        let alive = self.processes.iter().filter(|process| process.slot != ADMIN);
        let mut alive = alive.filter(|process| process.is_alive() && !doomed(process.pid));
        if let Some(pid) = alive.next().map(|process| process.pid) {
            self.fail("the second stop ends all workers at once", || format!("{pid}"));
        }
        self.coverage.hit(Point::SecondStop);
    }

    /// The order of each group is known.
    fn check_groups(&mut self) {
        if self.watch.moves == self.kernel.moves || self.fleet.supervisor.is_draining() {
            return;
        }
        self.watch.moves = self.kernel.moves;
        self.coverage.hit(Point::GroupMoved);
        let known = self.fleet.queues.serialize();
        let mut fault = None;
        for (address, group) in &self.kernel.groups {
            let of_address =
                known.queues.iter().filter(|queue| queue.kind == Kind::Accept(*address));
            let known: Vec<_> = of_address.map(|queue| self.listening.get(&queue.id)).collect();
            let actual: Vec<_> = group.members.iter().map(Some).collect();
            if known != actual && !self.is_external(*address) {
                fault = Some(format!("{address}: {known:?} is {actual:?}"));
            }
        }
        if let Some(fault) = fault {
            self.fail("the positions in a group are known", || fault);
        }
    }

    fn is_external(&self, address: std::net::SocketAddr) -> bool {
        self.setup.passed.iter().any(|(passed, _)| *passed == address)
    }

    /// Steering names positions that exist and are attended.
    fn check_steering(&mut self) {
        if self.fleet.supervisor.is_draining() {
            return;
        }
        let healthy = self.fleet.supervisor.healthy_workers();
        let healthy: Vec<Pid> = healthy.into_iter().map(|(_, pid)| pid).collect();
        let mut fault = None;
        for (address, group) in &self.kernel.groups {
            let Some(positions) = &group.program else { continue };
            if !self.setup.addresses.contains(address) {
                continue;
            }
            let member = |position: &u16| group.members.get(usize::from(*position)).copied();
            if let Some(position) = positions.iter().find(|position| member(position).is_none()) {
                fault = Some(format!("{address}: no position {position}"));
            }
            let named: Vec<SocketId> = positions.iter().filter_map(member).collect();
            if let Some(socket) = named.iter().find(|socket| self.is_surplus(**socket)) {
                fault = Some(format!("{address}: socket {socket} is of no slot that is wanted"));
            }
            let attended = |socket: &SocketId| self.is_attended(*socket);
            // Where no healthy worker accepts, all that are to stay are named.
            let any = self.processes.iter().any(|process| {
                healthy.contains(&process.pid)
                    && named.iter().any(|socket| process.attends_socket(*socket))
            });
            let lonely = named.iter().find(|socket| any && !attended(socket));
            if let Some(socket) = lonely.filter(|_| self.is_any_known(&named, &healthy)) {
                fault = Some(format!("{address}: socket {socket} is not attended"));
            }
        }
        if let Some(fault) = fault {
            self.fail("steering names positions that are attended", || fault);
        }
    }

    /// Returns `true` if a healthy worker has said that it accepts from one of these sockets.
    fn is_any_known(&self, sockets: &[SocketId], healthy: &[Pid]) -> bool {
        self.fleet.queues.serialize().queues.iter().any(|queue| {
            let socket = self.listening.get(&queue.id);
            let known = |pid: &i32| healthy.contains(&Pid::from_raw(*pid));
            socket.is_some_and(|it| sockets.contains(it)) && queue.attendants.iter().any(known)
        })
    }

    /// Returns `true` if a socket is of a slot that has been given up.
    fn is_surplus(&self, socket: SocketId) -> bool {
        let mut queues = self.listening.iter();
        let queue = queues.find(|(_, other)| **other == socket).map(|(queue, _)| *queue);
        queue.is_some_and(|it| self.fleet.queues.slot(it) > self.fleet.supervisor.wanted())
    }

    /// Returns `true` if some process accepts from a socket, as far as the controller can know: one that has gone
    /// is not known to be gone before it has said so, or was reaped.
    fn is_attended(&self, socket: SocketId) -> bool {
        self.processes.iter().any(|process| {
            let silent = process.staged.is_empty() && process.to_controller.is_empty();
            process.attends_socket(socket) || !silent || !process.is_alive()
        })
    }

    /// Whatever socket new connections may go to, somebody accepts from it soon.
    fn check_attendance(&mut self) {
        let now = self.now;
        let supervisor = &self.fleet.supervisor;
        if supervisor.is_draining() || supervisor.is_starting() {
            return;
        }
        for process in &self.processes {
            let child = self.children.get(&process.pid);
            let serves = child.is_some_and(|child| {
                child.slot != ADMIN && child.ready.is_some() && !child.leaving
            });
            let able = process.can_run() && !process.full && !process.clogged;
            if serves && able && process.slow.is_zero() && process.life == Life::Running {
                self.watch.fit.entry(process.pid).or_insert(now);
            } else {
                self.watch.fit.remove(&process.pid);
            }
        }
        let long = |since: &Instant| *since + ATTENDED_WITHIN < now;
        let someone = self.watch.fit.values().any(long);
        let mut choosable = Vec::new();
        for (address, group) in &self.kernel.groups {
            if !self.setup.addresses.contains(address) {
                continue;
            }
            match &group.program {
                Some(positions) => {
                    let member = |it: &u16| group.members.get(usize::from(*it)).copied();
                    choosable.extend(positions.iter().filter_map(member));
                }
                None => choosable.extend(group.members.iter().copied()),
            }
        }
        self.watch.unattended.retain(|socket, _| choosable.contains(socket));
        let mut fault = None;
        for socket in choosable {
            let mut fit = self.processes.iter().filter(|process| process.can_run());
            if fit.any(|process| process.attends_socket(socket)) {
                self.watch.unattended.remove(&socket);
                continue;
            }
            let since = *self.watch.unattended.entry(socket).or_insert(now);
            if someone && since.max(self.watch.slept) + ATTENDED_WITHIN < now {
                fault = Some((socket, since));
            }
        }
        if let Some((socket, since)) = fault {
            let since = self.at(since);
            self.fail("every queue is attended soon", || format!("socket {socket} since {since}"));
        }
    }
}

impl World {
    /// The machine has slept.
    pub(super) fn watch_sleep(&mut self) {
        self.watch.slept = self.now;
        self.watch.fit.clear();
        let by = self.now + END_WITHIN;
        self.watch.exit_by = self.watch.exit_by.map(|at| at.max(by));
    }
}
