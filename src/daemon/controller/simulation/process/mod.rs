//! The simulated processes: workers and the admin process, which behave as in `src/daemon/worker`.

mod connections;
mod lifecycle;
mod queues;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use super::coverage::Coverage;
use super::kernel::{Kernel, SocketId};
use super::message::{FromProcess, ToProcess};
use super::random::Random;
use crate::daemon::ids::{QueueId, SlotId};
use crate::sys::wait::ExitStatus;

/// Queues with their sockets.
type QueueSockets = Vec<(QueueId, SocketId)>;

/// Outcome of a process's startup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// The process becomes ready after this time.
    Ready(Duration),
    /// The process crashes after this time.
    Crash(Duration),
    /// The process reports a failure and exits with this status.
    Exit(i32),
    /// The process never becomes ready.
    Never,
    /// The process crashes as soon as it is ready.
    CrashWhenReady,
}

/// Life cycle state of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    /// The process still holds every descriptor of the controller.
    Forked,
    /// The process holds only the descriptors that it inherits.
    Starting,
    Running,
    /// The process has ended and was not reaped.
    Zombie(ExitStatus),
}

/// Phase of a running worker, as `worker::lifecycle::Phase`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Serving,
    Recycling(Instant),
    Retiring(Instant),
    Draining(Instant),
}

/// Settings that a process is forked with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    pub(super) heartbeat: Duration,
    pub(super) graceful: Duration,
    pub(super) drain: Duration,
}

/// Environment of a process while it runs.
pub(super) struct Context<'a> {
    pub(super) kernel: &'a mut Kernel,
    pub(super) random: &'a mut Random,
    pub(super) coverage: &'a mut Coverage,
    pub(super) now: Instant,
    /// Slots that accept handed-off connections.
    pub(super) listed: &'a [SlotId],
    /// Handoff queues that received a connection.
    pub(super) touched: Vec<SocketId>,
    /// `true` if connections are short.
    pub(super) calm: bool,
}

/// Simulated process.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) pid: Pid,
    pub(super) slot: SlotId,
    pub(super) life: Life,
    pub(super) fate: Fate,
    pub(super) settings: Settings,
    /// Time of its next loop iteration, unless it is stopped or hung.
    pub(super) wake: Instant,
    pub(super) stopped: bool,
    pub(super) hung: bool,
    /// `true` if it has no free descriptor.
    pub(super) full: bool,
    /// `true` if its channel is full.
    pub(super) clogged: bool,
    /// Additional latency of its wakeups and answers.
    pub(super) slow: Duration,
    /// `true` if it has reached its connection limit and must be recycled.
    pub(super) recycle: bool,
    /// `true` if it sends its next message twice.
    pub(super) stutters: bool,
    /// Every queue descriptor that it holds.
    pub(super) holds: Vec<SocketId>,
    pub(super) attends: Vec<(QueueId, SocketId)>,
    pub(super) handoff_queues: Vec<(QueueId, SocketId)>,
    siblings: Vec<(SlotId, SocketId)>,
    balances: bool,
    /// Accept queues and handoff queues that it inherits.
    inherited: (QueueSockets, QueueSockets),
    missing: Vec<(QueueId, std::net::SocketAddr)>,
    pub(super) from_controller: VecDeque<ToProcess>,
    /// Messages that were not sent yet.
    pub(super) staged: VecDeque<FromProcess>,
    pub(super) to_controller: VecDeque<FromProcess>,
    pub(super) term: bool,
    pub(super) abort: bool,
    pub(super) phase: Phase,
    pub(super) connections: u32,
    next_end: Option<Instant>,
    pub(super) beat: Option<Instant>,
}

/// Parameters of a fork.
pub(super) struct ForkParameters {
    pub(super) pid: Pid,
    pub(super) slot: SlotId,
    pub(super) fate: Fate,
    pub(super) settings: Settings,
    /// Every queue socket that the controller holds.
    pub(super) everything: Vec<SocketId>,
    pub(super) inherited: (QueueSockets, QueueSockets),
    pub(super) missing: Vec<(QueueId, std::net::SocketAddr)>,
    pub(super) siblings: Vec<(SlotId, SocketId)>,
}

impl Process {
    pub(super) fn fork(parameters: ForkParameters, wake: Instant, kernel: &mut Kernel) -> Self {
        let holds = parameters.everything.iter().map(|socket| kernel.duplicate(*socket)).collect();
        Self {
            pid: parameters.pid,
            slot: parameters.slot,
            life: Life::Forked,
            fate: parameters.fate,
            settings: parameters.settings,
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
            handoff_queues: Vec::new(),
            siblings: parameters.siblings,
            balances: false,
            inherited: parameters.inherited,
            missing: parameters.missing,
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

    /// Returns `true` if the process is alive and neither stopped nor hung.
    pub(super) fn can_run(&self) -> bool {
        self.is_alive() && !self.stopped && !self.hung
    }

    /// Returns `true` if the process is alive and attends the queue of `socket`.
    pub(super) fn attends_socket(&self, socket: SocketId) -> bool {
        let queues = self.attends.iter().chain(&self.handoff_queues);
        self.is_alive() && queues.into_iter().any(|(_, other)| *other == socket)
    }

    /// Schedules a wakeup of a running process, because an event has arrived for it.
    pub(super) fn notify(&mut self, now: Instant, random: &mut Random) {
        if self.life == Life::Running {
            let latency = Duration::from_micros(random.between(20, 2000)) + self.slow;
            self.wake = self.wake.min(now + latency);
        }
    }

    /// Ends the process, closes its descriptors, and discards its unsent messages.
    pub(super) fn die(&mut self, status: ExitStatus, kernel: &mut Kernel) {
        if !self.is_alive() {
            return;
        }
        self.life = Life::Zombie(status);
        std::mem::take(&mut self.holds).into_iter().for_each(|socket| kernel.close(socket));
        for message in std::mem::take(&mut self.from_controller) {
            message.sockets().into_iter().for_each(|socket| kernel.close(socket));
        }
        for message in std::mem::take(&mut self.staged) {
            if let FromProcess::Ready(opened) = message {
                opened.into_iter().for_each(|(_, socket)| kernel.close(socket));
            }
        }
        (self.attends, self.handoff_queues) = (Vec::new(), Vec::new());
    }

    /// Sends the staged messages.
    fn flush(&mut self) {
        self.to_controller.append(&mut self.staged);
    }

    /// Stages a message to the controller.
    fn stage(&mut self, message: FromProcess) {
        let brings = matches!(&message, FromProcess::Ready(opened) if !opened.is_empty());
        if !brings && std::mem::take(&mut self.stutters) {
            self.staged.push_back(message.clone());
        }
        self.staged.push_back(message);
    }

    /// Runs one loop iteration.
    pub(super) fn step(&mut self, context: &mut Context<'_>) {
        match self.life {
            Life::Zombie(_) => {}
            Life::Forked => self.close_uninherited(context),
            Life::Starting => self.start_up(context),
            Life::Running => self.tick(context),
        }
    }
}
