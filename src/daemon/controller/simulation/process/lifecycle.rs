//! The phases of a simulated process: closing what it does not inherit, startup, serving, draining.

use std::time::{Duration, Instant};

use super::super::coverage::Point;
use super::super::kernel::SocketId;
use super::super::message::{FromProcess, ToProcess};
use super::{Context, Fate, Life, Phase, Process};
use crate::daemon::ids::{QueueId, SlotId};
use crate::sys::wait::ExitStatus;

impl Process {
    /// Closes every descriptor that the process does not inherit.
    pub(super) fn close_uninherited(&mut self, context: &mut Context<'_>) {
        let (accept, handoff) = std::mem::take(&mut self.inherited);
        // As `spawn::handoff_queues`: the last queue is the process's own; other receivers are closed.
        let own = handoff.last().copied();
        self.balances = own.is_some();
        if !self.balances {
            self.siblings.clear();
        }
        let keep: Vec<SocketId> = accept.iter().chain(&own).map(|(_, socket)| *socket).collect();
        self.holds.retain(|socket| {
            let kept = keep.contains(socket);
            if !kept {
                context.kernel.close(*socket);
            }
            kept
        });
        self.attends = accept;
        self.handoff_queues = own.into_iter().collect();
        self.life = Life::Starting;
        self.wake = match self.fate {
            Fate::Ready(after) | Fate::Crash(after) => context.now + after,
            Fate::Exit(_) | Fate::CrashWhenReady => context.now + Duration::from_millis(1),
            Fate::Never => context.now + Duration::from_secs(1_000_000),
        };
    }

    pub(super) fn start_up(&mut self, context: &mut Context<'_>) {
        match self.fate {
            Fate::Ready(_) | Fate::CrashWhenReady => {}
            Fate::Crash(_) => return self.die(ExitStatus::Signal(6), context.kernel),
            Fate::Exit(code) => {
                self.stage(FromProcess::Failed);
                self.flush();
                return self.die(ExitStatus::Code(code), context.kernel);
            }
            Fate::Never => return,
        }
        let mut opened = Vec::new();
        for (queue, address) in std::mem::take(&mut self.missing) {
            let socket = context.kernel.open(Some(address));
            self.holds.push(socket);
            self.attends.push((queue, socket));
            opened.push((queue, context.kernel.duplicate(socket)));
        }
        self.stage(FromProcess::Ready(opened));
        self.flush();
        self.life = Life::Running;
        self.wake = context.now;
        if self.fate == Fate::CrashWhenReady {
            self.die(ExitStatus::Signal(6), context.kernel);
        }
    }

    /// Runs one loop iteration of a worker, as `Server::tick`.
    pub(super) fn tick(&mut self, context: &mut Context<'_>) {
        let now = context.now;
        self.flush();
        if std::mem::take(&mut self.abort) {
            return self.die(ExitStatus::Signal(6), context.kernel);
        }
        if self.slot == SlotId::ADMIN {
            return self.tick_admin(context);
        }
        if std::mem::take(&mut self.term) {
            self.drain(now + self.settings.graceful, context);
        }
        while let Some(message) = self.from_controller.pop_front() {
            self.on_message(message, context);
        }
        self.accept(context);
        if std::mem::take(&mut self.recycle) && self.phase == Phase::Serving {
            self.recycle(context);
        }
        self.end_connections(context);
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
                context.coverage.hit(if drained { Point::Drained } else { Point::DrainDeadline });
                self.flush();
                return self.die(ExitStatus::Code(0), context.kernel);
            }
            self.wake = self.wake.min(until);
        }
        self.wake = self.next_end.map_or(self.wake, |at| self.wake.min(at));
        // The message about an action may follow later than the action.
        if !context.random.chance(12) {
            self.flush();
        } else if !self.staged.is_empty() {
            context.coverage.hit(Point::AnsweredLate);
            let latest = if context.random.chance(10) { 900_000 } else { 20_000 };
            self.wake = now + Duration::from_micros(context.random.between(10, latest)) + self.slow;
        }
    }

    fn tick_admin(&mut self, context: &mut Context<'_>) {
        let mut retired = false;
        for message in self.from_controller.drain(..) {
            retired |= matches!(message, ToProcess::Retire { .. });
            message.sockets().into_iter().for_each(|socket| context.kernel.close(socket));
        }
        self.beat = Some(context.now);
        self.wake = context.now + self.settings.heartbeat;
        if retired || self.term {
            self.die(ExitStatus::Code(0), context.kernel);
        }
    }

    fn on_message(&mut self, message: ToProcess, context: &mut Context<'_>) {
        match message {
            ToProcess::Retire { drain } => {
                if !matches!(self.phase, Phase::Retiring(_) | Phase::Draining(_)) {
                    self.phase = Phase::Retiring(context.now + drain);
                    self.hurry_connections(context);
                }
            }
            ToProcess::Sibling(slot, socket) => {
                if self.balances {
                    self.siblings.retain(|(known, _)| *known != slot);
                    self.siblings.push((slot, socket));
                }
            }
            ToProcess::Grant(queues) => self.on_grant(queues, context),
            ToProcess::GrantHandoff(queue, socket) => {
                self.on_grant(vec![(queue, socket)], context);
            }
            ToProcess::Release(queues) => self.release(&queues, context),
        }
    }

    fn recycle(&mut self, context: &mut Context<'_>) {
        let all = self.attends.iter().chain(&self.handoff_queues);
        let queues: Vec<QueueId> = all.map(|(queue, _)| *queue).collect();
        self.phase = Phase::Recycling(context.now + self.settings.drain);
        self.stage(FromProcess::Retiring);
        self.close_queues(&queues, context);
    }

    /// Drains the accept queues and begins to drain connections, as `Server::drain`.
    fn drain(&mut self, until: Instant, context: &mut Context<'_>) {
        if let Phase::Draining(earlier) = self.phase {
            self.phase = Phase::Draining(until.min(earlier));
            return;
        }
        let queues: Vec<QueueId> = self.attends.iter().map(|(queue, _)| *queue).collect();
        let handoff_queues: Vec<QueueId> =
            self.handoff_queues.iter().map(|(queue, _)| *queue).collect();
        self.accept_all(&queues, context);
        self.accept_all(&handoff_queues, context);
        if self.phase == Phase::Serving {
            self.stage(FromProcess::Draining);
        }
        self.close_queues(&queues, context);
        self.phase = Phase::Draining(until);
        self.hurry_connections(context);
    }
}
