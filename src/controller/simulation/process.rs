//! The simulated processes: workers and the admin process, as `src/worker` has them behave.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use super::coverage::{Coverage, Point};
use super::kernel::{Kernel, SocketId};
use super::random::Random;
use crate::controller::supervisor::ADMIN;
use crate::ids::QueueId;
use crate::process::wait::Ending;

/// Sockets by the names of their queues.
type Named = Vec<(QueueId, SocketId)>;

/// A message from the controller, with the descriptors that come along.
#[derive(Clone, Debug)]
pub(super) enum ToProcess {
    Retire { drain: Duration },
    Grant(Vec<(QueueId, SocketId)>),
    GrantHandoff(QueueId, SocketId),
    Release(Vec<QueueId>),
    Sibling(u32, SocketId),
}

impl ToProcess {
    /// The descriptors that are on their way.
    pub(super) fn sockets(&self) -> Vec<SocketId> {
        match self {
            Self::Grant(queues) => queues.iter().map(|(_, socket)| *socket).collect(),
            Self::GrantHandoff(_, socket) => vec![*socket],
            // The sending end is no receiver: it keeps nothing alive.
            Self::Sibling(..) | Self::Retire { .. } | Self::Release(_) => Vec::new(),
        }
    }
}

/// A message to the controller.
#[derive(Clone, Debug)]
pub(super) enum FromProcess {
    /// With the sockets that it has bound.
    Ready(Vec<(QueueId, SocketId)>),
    Retiring,
    Draining,
    Failed,
    Attending(Vec<QueueId>),
    Refused(Vec<QueueId>),
    Released(Vec<QueueId>),
}

/// What becomes of a process that was forked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It gets ready after this time.
    Ready(Duration),
    /// It crashes after this time.
    Crash(Duration),
    /// It says that it failed, and exits with this status.
    Exit(i32),
    /// It never gets ready.
    Never,
    /// It crashes as soon as it is ready.
    CrashWhenReady,
}

/// Where a process is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    /// It holds everything that the controller holds.
    Forked,
    /// It holds what it has inherited.
    Booting,
    Running,
    /// It has ended and was not reaped.
    Zombie(Ending),
}

/// What a running worker does, as `worker::lifecycle::Phase`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Serving,
    Recycling(Instant),
    Retiring(Instant),
    Draining(Instant),
}

/// The settings that a process was forked with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    pub(super) heartbeat: Duration,
    pub(super) graceful: Duration,
    pub(super) drain: Duration,
}

/// The surroundings of a process that runs.
pub(super) struct Surroundings<'a> {
    pub(super) kernel: &'a mut Kernel,
    pub(super) random: &'a mut Random,
    pub(super) coverage: &'a mut Coverage,
    pub(super) now: Instant,
    /// The slots that connections may be handed off to.
    pub(super) listed: &'a [u32],
    /// Handoff queues that got something.
    pub(super) touched: Vec<SocketId>,
    /// Connections end soon and nothing lingers.
    pub(super) calm: bool,
}

/// A process.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) pid: Pid,
    pub(super) slot: u32,
    pub(super) life: Life,
    pub(super) fate: Fate,
    pub(super) settings: Settings,
    /// When it runs next, unless it is stopped or hung.
    pub(super) wake: Instant,
    pub(super) stopped: bool,
    pub(super) hung: bool,
    /// It has no free descriptor.
    pub(super) full: bool,
    /// Its channel takes no message.
    pub(super) clogged: bool,
    /// It takes so long to notice things.
    pub(super) slow: Duration,
    /// Whether it is to say that it has had all the connections it may have.
    pub(super) recycle: bool,
    /// It repeats the next message.
    pub(super) stutters: bool,
    /// Every descriptor of a queue that it has.
    pub(super) holds: Vec<SocketId>,
    pub(super) attends: Vec<(QueueId, SocketId)>,
    pub(super) inboxes: Vec<(QueueId, SocketId)>,
    outboxes: Vec<(u32, SocketId)>,
    balances: bool,
    /// What it inherits and keeps: of accept queues, and of handoff queues.
    inherited: (Named, Named),
    missing: Vec<(QueueId, std::net::SocketAddr)>,
    pub(super) from_controller: VecDeque<ToProcess>,
    /// Said, and not sent yet.
    pub(super) staged: VecDeque<FromProcess>,
    pub(super) to_controller: VecDeque<FromProcess>,
    pub(super) term: bool,
    pub(super) abort: bool,
    pub(super) phase: Phase,
    pub(super) connections: u32,
    next_end: Option<Instant>,
    pub(super) beat: Option<Instant>,
}

/// What a process gets at its fork.
pub(super) struct Given {
    pub(super) pid: Pid,
    pub(super) slot: u32,
    pub(super) fate: Fate,
    pub(super) settings: Settings,
    /// Everything that the controller holds.
    pub(super) everything: Vec<SocketId>,
    pub(super) inherited: (Named, Named),
    pub(super) missing: Vec<(QueueId, std::net::SocketAddr)>,
    pub(super) outboxes: Vec<(u32, SocketId)>,
}

impl Process {
    pub(super) fn fork(given: Given, wake: Instant, kernel: &mut Kernel) -> Self {
        let holds = given.everything.iter().map(|socket| kernel.duplicate(*socket)).collect();
        Self {
            pid: given.pid,
            slot: given.slot,
            life: Life::Forked,
            fate: given.fate,
            settings: given.settings,
            wake,
            stopped: false,
            hung: false,
            full: false,
            clogged: false,
            slow: Duration::ZERO,
            recycle: false,
            stutters: false,
            holds,
            attends: Vec::new(),
            inboxes: Vec::new(),
            outboxes: given.outboxes,
            balances: false,
            inherited: given.inherited,
            missing: given.missing,
            from_controller: VecDeque::new(),
            staged: VecDeque::new(),
            to_controller: VecDeque::new(),
            term: false,
            abort: false,
            phase: Phase::Serving,
            connections: 0,
            next_end: None,
            beat: None,
        }
    }

    pub(super) fn is_alive(&self) -> bool {
        !matches!(self.life, Life::Zombie(_))
    }

    /// Whether it would run if its time came.
    pub(super) fn can_run(&self) -> bool {
        self.is_alive() && !self.stopped && !self.hung
    }

    /// Whether it accepts from this socket, or would if it ran.
    pub(super) fn attends_socket(&self, socket: SocketId) -> bool {
        let queues = self.attends.iter().chain(&self.inboxes);
        self.is_alive() && queues.into_iter().any(|(_, other)| *other == socket)
    }

    /// Something has arrived for it.
    pub(super) fn notify(&mut self, now: Instant, random: &mut Random) {
        if self.life == Life::Running {
            let latency = Duration::from_micros(random.between(20, 2000)) + self.slow;
            self.wake = self.wake.min(now + latency);
        }
    }

    /// Ends the process: everything that it holds is closed, and what it has said and not sent is lost.
    pub(super) fn die(&mut self, ending: Ending, kernel: &mut Kernel) {
        if !self.is_alive() {
            return;
        }
        self.life = Life::Zombie(ending);
        std::mem::take(&mut self.holds).into_iter().for_each(|socket| kernel.close(socket));
        for message in std::mem::take(&mut self.from_controller) {
            message.sockets().into_iter().for_each(|socket| kernel.close(socket));
        }
        for message in std::mem::take(&mut self.staged) {
            if let FromProcess::Ready(opened) = message {
                opened.into_iter().for_each(|(_, socket)| kernel.close(socket));
            }
        }
        (self.attends, self.inboxes) = (Vec::new(), Vec::new());
    }

    /// Sends what was said.
    fn flush(&mut self) {
        self.to_controller.append(&mut self.staged);
    }

    fn say(&mut self, message: FromProcess) {
        let brings = matches!(&message, FromProcess::Ready(opened) if !opened.is_empty());
        if !brings && std::mem::take(&mut self.stutters) {
            self.staged.push_back(message.clone());
        }
        self.staged.push_back(message);
    }

    /// Runs once.
    pub(super) fn step(&mut self, around: &mut Surroundings<'_>) {
        match self.life {
            Life::Zombie(_) => {}
            Life::Forked => self.forget(around),
            Life::Booting => self.boot(around),
            Life::Running => self.turn(around),
        }
    }

    /// Closes everything that is not inherited.
    fn forget(&mut self, around: &mut Surroundings<'_>) {
        let (accept, handoff) = std::mem::take(&mut self.inherited);
        // `spawn::exchange`: the last one is the process's own, the receivers of others are closed.
        let inbox = handoff.last().copied();
        self.balances = inbox.is_some();
        if !self.balances {
            self.outboxes.clear();
        }
        let keep: Vec<SocketId> = accept.iter().chain(&inbox).map(|(_, socket)| *socket).collect();
        self.holds.retain(|socket| {
            let kept = keep.contains(socket);
            if !kept {
                around.kernel.close(*socket);
            }
            kept
        });
        self.attends = accept;
        self.inboxes = inbox.into_iter().collect();
        self.life = Life::Booting;
        self.wake = match self.fate {
            Fate::Ready(after) | Fate::Crash(after) => around.now + after,
            Fate::Exit(_) | Fate::CrashWhenReady => around.now + Duration::from_millis(1),
            Fate::Never => around.now + Duration::from_secs(1_000_000),
        };
    }

    fn boot(&mut self, around: &mut Surroundings<'_>) {
        match self.fate {
            Fate::Ready(_) | Fate::CrashWhenReady => {}
            Fate::Crash(_) => return self.die(Ending::Signal(6), around.kernel),
            Fate::Exit(code) => {
                self.say(FromProcess::Failed);
                self.flush();
                return self.die(Ending::Code(code), around.kernel);
            }
            Fate::Never => return,
        }
        let mut opened = Vec::new();
        for (queue, address) in std::mem::take(&mut self.missing) {
            let socket = around.kernel.open(Some(address));
            self.holds.push(socket);
            self.attends.push((queue, socket));
            opened.push((queue, around.kernel.duplicate(socket)));
        }
        self.say(FromProcess::Ready(opened));
        self.flush();
        self.life = Life::Running;
        self.wake = around.now;
        if self.fate == Fate::CrashWhenReady {
            self.die(Ending::Signal(6), around.kernel);
        }
    }

    /// As `Server::tick`.
    fn turn(&mut self, around: &mut Surroundings<'_>) {
        let now = around.now;
        self.flush();
        if std::mem::take(&mut self.abort) {
            return self.die(Ending::Signal(6), around.kernel);
        }
        if self.slot == ADMIN {
            return self.turn_admin(around);
        }
        if std::mem::take(&mut self.term) {
            self.drain(now + self.settings.graceful, around);
        }
        while let Some(message) = self.from_controller.pop_front() {
            self.on_message(message, around);
        }
        self.accept(around);
        if std::mem::take(&mut self.recycle) && self.phase == Phase::Serving {
            self.recycle(around);
        }
        self.end_connections(around);
        self.beat = Some(now);
        self.wake = now + self.settings.heartbeat;
        let until = match self.phase {
            Phase::Serving => None,
            Phase::Recycling(until) | Phase::Retiring(until) | Phase::Draining(until) => {
                Some(until)
            }
        };
        if let Some(until) = until {
            let drained = self.connections == 0 && self.attends.is_empty();
            if drained || until <= now {
                around.coverage.hit(if drained { Point::Drained } else { Point::DrainDeadline });
                self.flush();
                return self.die(Ending::Code(0), around.kernel);
            }
            self.wake = self.wake.min(until);
        }
        self.wake = self.next_end.map_or(self.wake, |at| self.wake.min(at));
        // Between an act and its message there may be time.
        if !around.random.chance(12) {
            self.flush();
        } else if !self.staged.is_empty() {
            around.coverage.hit(Point::AnsweredLate);
            let latest = if around.random.chance(10) { 900_000 } else { 20_000 };
            self.wake = now + Duration::from_micros(around.random.between(10, latest)) + self.slow;
        }
    }

    fn turn_admin(&mut self, around: &mut Surroundings<'_>) {
        let mut retired = false;
        for message in self.from_controller.drain(..) {
            retired |= matches!(message, ToProcess::Retire { .. });
            message.sockets().into_iter().for_each(|socket| around.kernel.close(socket));
        }
        self.beat = Some(around.now);
        self.wake = around.now + self.settings.heartbeat;
        if retired || self.term {
            self.die(Ending::Code(0), around.kernel);
        }
    }

    fn on_message(&mut self, message: ToProcess, around: &mut Surroundings<'_>) {
        match message {
            ToProcess::Retire { drain } => {
                if !matches!(self.phase, Phase::Retiring(_) | Phase::Draining(_)) {
                    self.phase = Phase::Retiring(around.now + drain);
                    self.hurry_connections(around);
                }
            }
            ToProcess::Sibling(slot, socket) => {
                if self.balances {
                    self.outboxes.retain(|(known, _)| *known != slot);
                    self.outboxes.push((slot, socket));
                }
            }
            ToProcess::Grant(queues) => self.on_grant(queues, around),
            ToProcess::GrantHandoff(queue, socket) => {
                self.on_grant(vec![(queue, socket)], around);
            }
            ToProcess::Release(queues) => self.release(&queues, around),
        }
    }

    /// As `Server::on_message` for grants: as many queues as found room, in their order.
    fn on_grant(&mut self, queues: Named, around: &mut Surroundings<'_>) {
        let arrived = match self.full {
            false => queues.len(),
            true => around.random.index(queues.len()),
        };
        for (index, (queue, socket)) in queues.iter().enumerate() {
            let handoff = around.kernel.sockets[*socket].address.is_none();
            let list = if handoff { &mut self.inboxes } else { &mut self.attends };
            if index >= arrived || list.iter().any(|(known, _)| known == queue) {
                around.kernel.close(*socket);
            } else {
                list.push((*queue, *socket));
                self.holds.push(*socket);
            }
        }
        let names: Vec<QueueId> = queues.iter().map(|(queue, _)| *queue).collect();
        let (taken, refused) = names.split_at(arrived);
        if !taken.is_empty() {
            self.say(FromProcess::Attending(taken.to_vec()));
        }
        if !refused.is_empty() {
            around.coverage.hit(if arrived > 0 {
                Point::PartlyRefused
            } else {
                Point::GrantRefused
            });
            self.say(FromProcess::Refused(refused.to_vec()));
        }
        if matches!(self.phase, Phase::Draining(_)) {
            let taken = taken.to_vec();
            self.release(&taken, around);
        }
    }

    fn release(&mut self, queues: &[QueueId], around: &mut Surroundings<'_>) {
        self.accept_all(queues, around);
        let known = self.close_queues(queues, around);
        // Those that it does not have are released, too.
        let unknown = queues.iter().copied().filter(|queue| !known.contains(queue));
        let unknown: Vec<QueueId> = unknown.collect();
        if !unknown.is_empty() {
            self.say(FromProcess::Released(unknown));
        }
    }

    fn accept_all(&mut self, queues: &[QueueId], around: &mut Surroundings<'_>) {
        if self.full {
            return;
        }
        let all = self.attends.iter().chain(&self.inboxes);
        let these: Vec<SocketId> =
            all.filter(|(queue, _)| queues.contains(queue)).map(|(_, socket)| *socket).collect();
        for socket in these {
            let accepted = std::mem::take(&mut around.kernel.sockets[socket].waiting).len();
            self.admit(accepted, around);
        }
    }

    /// Closes queues of either kind and says so.
    fn close_queues(&mut self, queues: &[QueueId], around: &mut Surroundings<'_>) -> Vec<QueueId> {
        let mut closed = Vec::new();
        for list in [&mut self.attends, &mut self.inboxes] {
            list.retain(|(queue, socket)| {
                let stays = !queues.contains(queue);
                if !stays {
                    closed.push((*queue, *socket));
                }
                stays
            });
        }
        for (_, socket) in &closed {
            if let Some(place) = self.holds.iter().position(|held| held == socket) {
                self.holds.swap_remove(place);
                around.kernel.close(*socket);
            }
        }
        let names: Vec<QueueId> = closed.into_iter().map(|(queue, _)| queue).collect();
        for names in names.chunks(super::world::MOST_DESCRIPTORS) {
            self.say(FromProcess::Released(names.to_vec()));
        }
        names
    }

    fn recycle(&mut self, around: &mut Surroundings<'_>) {
        let all = self.attends.iter().chain(&self.inboxes);
        let queues: Vec<QueueId> = all.map(|(queue, _)| *queue).collect();
        self.phase = Phase::Recycling(around.now + self.settings.drain);
        self.say(FromProcess::Retiring);
        self.close_queues(&queues, around);
    }

    /// As `Server::drain`.
    fn drain(&mut self, until: Instant, around: &mut Surroundings<'_>) {
        if let Phase::Draining(earlier) = self.phase {
            self.phase = Phase::Draining(until.min(earlier));
            return;
        }
        let queues: Vec<QueueId> = self.attends.iter().map(|(queue, _)| *queue).collect();
        let inboxes: Vec<QueueId> = self.inboxes.iter().map(|(queue, _)| *queue).collect();
        self.accept_all(&queues, around);
        self.accept_all(&inboxes, around);
        if self.phase == Phase::Serving {
            self.say(FromProcess::Draining);
        }
        self.close_queues(&queues, around);
        self.phase = Phase::Draining(until);
        self.hurry_connections(around);
    }

    fn accept(&mut self, around: &mut Surroundings<'_>) {
        if self.full {
            return;
        }
        for index in 0..self.attends.len() {
            let socket = self.attends[index].1;
            while let Some(since) = around.kernel.sockets[socket].waiting.pop_front() {
                if !self.hand_off(since, around) {
                    self.admit(1, around);
                }
            }
        }
        for index in 0..self.inboxes.len() {
            let socket = self.inboxes[index].1;
            let taken = std::mem::take(&mut around.kernel.sockets[socket].waiting).len();
            if taken > 0 {
                around.coverage.hit(Point::HandoffTaken);
                self.admit(taken, around);
            }
        }
    }

    /// Hands a connection off to a sibling, if one has fewer: here, at random.
    fn hand_off(&mut self, since: Instant, around: &mut Surroundings<'_>) -> bool {
        if !self.balances || around.listed.is_empty() || around.random.chance(40) {
            return false;
        }
        let sibling = around.listed[around.random.index(around.listed.len())];
        let Some((_, queue)) = self.outboxes.iter().find(|(slot, _)| *slot == sibling) else {
            return false;
        };
        let queue = *queue;
        let handed = sibling != self.slot && around.kernel.hand_off(queue, since);
        if handed {
            around.coverage.hit(Point::HandedOff);
            around.touched.push(queue);
        }
        handed
    }

    fn admit(&mut self, count: usize, around: &mut Surroundings<'_>) {
        if count == 0 {
            return;
        }
        self.connections += count as u32;
        let longest = if around.calm { 300 } else { 6000 };
        let end = around.now + Duration::from_millis(around.random.between(5, longest));
        self.next_end = Some(self.next_end.map_or(end, |next| next.min(end)));
    }

    fn end_connections(&mut self, around: &mut Surroundings<'_>) {
        if self.next_end.is_none_or(|at| at > around.now) {
            return;
        }
        self.connections -= around.random.between(1, u64::from(self.connections)) as u32;
        self.next_end = None;
        if self.connections > 0 {
            let longest = if around.calm { 300 } else { 6000 };
            let end = Duration::from_millis(around.random.between(5, longest));
            self.next_end = Some(around.now + end);
        }
    }

    /// Connections are told to end.
    fn hurry_connections(&mut self, around: &mut Surroundings<'_>) {
        if let Some(end) = &mut self.next_end {
            let soon = Duration::from_millis(around.random.between(1, 800));
            *end = (*end).min(around.now + soon);
        }
    }
}
