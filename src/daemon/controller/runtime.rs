//! The runtime: turns signals, messages, and exit statuses into events, and carries out the actions
//! that the [`super::fleet`] decides on.

use std::io;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tracing::{debug, error, info, warn};

use super::Controller;
use super::children::Role;
use super::fleet::{Action as FleetAction, Event as FleetEvent};
use super::publish::controller_log;
use super::supervisor::{ADMIN_DRAIN_TIMEOUT, Action, Event};
use crate::daemon::ids::{QueueId, SlotId};
use crate::daemon::protocol::{FromAdmin, FromWorker, ToAdmin, ToWorker};
use crate::daemon::stats::Field;
use crate::exit::Exit;
use crate::logging;
use crate::sys::channel::Received;
use crate::sys::clock::millis;
use crate::sys::daemon;
use crate::sys::signals::SignalStream;
use crate::sys::wait::ExitStatus;

impl Controller<'_> {
    /// Applies an event; the actions that follow are carried out by [`Self::act`].
    pub(super) fn apply(&mut self, event: impl Into<FleetEvent>) {
        self.fleet.apply(event.into(), Instant::now(), &mut self.actions);
    }

    /// Acts on all pending signals.
    pub(super) fn on_signals(&mut self) {
        let mut stop = false;
        for signal in self.inputs.signals.as_mut().map(SignalStream::pending).unwrap_or_default() {
            if !matches!(signal, Signal::SIGCHLD | Signal::SIGUSR1 | Signal::SIGUSR2) {
                info!("received {signal}");
            }
            match signal {
                Signal::SIGTERM | Signal::SIGINT | Signal::SIGQUIT => stop = true,
                Signal::SIGHUP => self.reload.request(),
                Signal::SIGTTIN => self.apply(Event::AddWorker),
                Signal::SIGTTOU => self.apply(Event::RemoveWorker),
                Signal::SIGUSR1 => controller_log::connections(&self.snapshot()),
                Signal::SIGUSR2 => {
                    let snapshot = self.snapshot();
                    self.publisher.stats_dump.begin(&snapshot, Instant::now());
                }
                // Every loop iteration reaps.
                Signal::SIGCHLD => {}
                other => debug!("ignored {other}"),
            }
        }
        // Different stop signals at the same time count as one.
        if stop {
            self.apply(Event::Stop);
        }
    }

    /// Handles all pending messages of a process.
    pub(super) fn on_channel(&mut self, pid: Pid) {
        while let Some(role) = self.children.role(pid) {
            let more = match role {
                Role::Worker(slot) => self.on_worker_message(pid, slot),
                Role::Admin => self.on_admin_message(pid),
                Role::ReloadCheck => Ok(false),
            };
            match more {
                Ok(true) => {}
                Ok(false) => return,
                // A protocol error on the channel is fatal for the process.
                Err(error) => {
                    self.on_failed(pid, role, format!("invalid message on channel: {error}"));
                    return self.signal(pid, Signal::SIGKILL);
                }
            }
        }
    }

    /// Handles the next message of a worker, and returns `false` if there is none. A closed channel
    /// is no error: the exit status follows.
    fn on_worker_message(&mut self, pid: Pid, slot: SlotId) -> io::Result<bool> {
        let Received::Message(message, sockets) = self.children.receive(pid)? else {
            return Ok(false);
        };
        match message {
            FromWorker::Ready { opened } => self.on_ready(pid, slot, opened, sockets),
            FromWorker::Retiring => self.apply(Event::Retiring(pid)),
            FromWorker::Draining => self.apply(Event::Draining(pid)),
            FromWorker::Failed(reason) => self.on_failed(pid, Role::Worker(slot), reason),
            FromWorker::Attending { queues } => self.apply(FleetEvent::Attending(pid, queues)),
            FromWorker::Refused { queues } => self.apply(FleetEvent::Refused(pid, queues)),
            FromWorker::Released { queues } => self.apply(FleetEvent::Released(pid, queues)),
            // A worker of handover version 1 holds its queues until it ends.
            FromWorker::Closed { .. } => {}
        }
        Ok(true)
    }

    /// Handles the next message of an admin process, and returns `false` if there is none.
    fn on_admin_message(&mut self, pid: Pid) -> io::Result<bool> {
        match self.children.receive(pid)? {
            Received::Message(FromAdmin::Ready, _) => {
                self.apply(Event::Ready(pid));
                Ok(true)
            }
            Received::Nothing | Received::Closed => Ok(false),
        }
    }

    /// Lets the sockets of a ready worker listen, in the order in which it has bound them.
    fn on_ready(&mut self, pid: Pid, slot: SlotId, opened: Vec<QueueId>, sockets: Vec<OwnedFd>) {
        // The sockets of a worker that has left its slot are not needed.
        let wanted = self.fleet.supervisor.is_in_slot(pid) && !self.sockets.closing;
        if wanted && sockets.len() < opened.len() {
            self.on_failed(
                pid,
                Role::Worker(slot),
                "cannot keep the sockets of a worker: too many open files".into(),
            );
            return self.signal(pid, Signal::SIGKILL);
        }
        for (id, socket) in opened.into_iter().zip(sockets).filter(|_| wanted) {
            match self.sockets.listen(id, socket, &self.config.listen) {
                Ok(kind) => self.apply(FleetEvent::Opened(pid, id, kind, slot)),
                Err(error) => {
                    self.on_failed(pid, Role::Worker(slot), error.to_string());
                    return self.signal(pid, Signal::SIGKILL);
                }
            }
        }
        self.apply(Event::Ready(pid));
    }

    /// Logs why a process has failed. While the daemon starts, only the first reason is kept,
    /// because all workers fail alike.
    fn on_failed(&mut self, pid: Pid, role: Role, reason: String) {
        match role {
            Role::Worker(_) if self.fleet.supervisor.is_starting() => {
                self.publisher.startup_failure.get_or_insert(reason);
            }
            Role::Worker(slot) => error!(slot = slot.0, worker_pid = pid.as_raw(), "{reason}"),
            Role::Admin | Role::ReloadCheck => warn!(admin_pid = pid.as_raw(), "{reason}"),
        }
    }

    /// Handles the exit of a process that was reaped.
    pub(super) fn on_exit(&mut self, pid: Pid, status: ExitStatus) {
        self.children.reaped(pid);
        // Its last messages precede its exit.
        self.on_channel(pid);
        let child = self.children.remove(pid, &self.inputs.registry);
        if child.as_ref().is_some_and(|child| child.role == Role::ReloadCheck) {
            return self.on_check_exit(pid, status);
        }
        if let Some(link) = child.and_then(|child| child.link) {
            self.publisher.statistics.release(link.block_id);
        }
        self.apply(Event::Exited(pid, status));
    }

    /// Reads the heartbeats of all processes from the shared memory. A time in the future counts as
    /// now.
    pub(super) fn check_heartbeats(&mut self, now: Instant) {
        let uptime = self.publisher.clock.uptime_ms(now);
        let statistics = &self.publisher.statistics;
        let beats = self
            .children
            .iter()
            .map(|(pid, _, link)| (pid, statistics.block(link.block_id).get(Field::Heartbeat)));
        let beats: Vec<(Pid, u64)> = beats.filter(|(_, stamp)| *stamp > 0).collect();
        for (pid, stamp) in beats {
            let age = Duration::from_millis(uptime.saturating_sub(stamp));
            if let Some(at) = now.checked_sub(age) {
                self.apply(Event::Beat(pid, at));
            }
        }
    }

    /// Carries out the pending actions and those that follow from them.
    pub(super) fn act(&mut self) -> ControlFlow<Exit> {
        while !self.actions.is_empty() {
            // A reader may act on a log line at once, so the statistics are current before it. No
            // connection is handed off to a worker that is about to drain.
            self.steer();
            self.publish_health_table();
            self.publish_state(Instant::now());
            for action in std::mem::take(&mut self.actions) {
                match action {
                    FleetAction::Process(Action::Exit(exit)) => return ControlFlow::Break(exit),
                    FleetAction::Process(action) => self.act_on_process(action),
                    FleetAction::Queue(action) => self.act_on_queue(action),
                }
            }
        }
        self.steer();
        self.publish_health_table();
        ControlFlow::Continue(())
    }

    fn act_on_process(&mut self, action: Action) {
        match action {
            // The daemon may have been told to stop since.
            Action::Spawn(slot) if self.fleet.supervisor.is_forking(slot) => self.spawn(slot),
            Action::Spawn(_) => {}
            Action::Signal(pid, signal) => self.signal(pid, signal),
            Action::Kill(pid, reason) => {
                warn!(admin_pid = pid.as_raw(), reason, "killing admin process");
                self.signal(pid, Signal::SIGKILL);
            }
            Action::Retire(pid) => self.retire(pid),
            Action::CloseAddresses => {
                self.sockets.closing = true;
                self.sockets.reservations.clear();
            }
            Action::CountRestart(slot, pid, cause) => self.count_restart(slot, pid, cause),
            Action::FinishStartup => self.finish_startup(),
            Action::CountReload(done) => {
                self.reload.count(done);
                self.publish_state(Instant::now());
            }
            Action::Log(event) => {
                self.record_event(event);
                self.log_event(event);
            }
            Action::Exit(_) => {}
        }
    }

    /// Tells a process that its successor has taken over.
    fn retire(&mut self, pid: Pid) {
        let fleet = &self.config.fleet;
        let sent = if self.children.role(pid) == Some(Role::Admin) {
            let drain_ms = millis(ADMIN_DRAIN_TIMEOUT);
            let message = ToAdmin::Retire { accept_ms: 0, drain_ms, spread_ms: 0 };
            self.children.send(pid, &message, &[])
        } else {
            let (drain_ms, spread_ms) = (millis(fleet.drain_timeout), millis(fleet.drain_spread));
            let message = ToWorker::Retire { accept_ms: 0, drain_ms, spread_ms };
            self.children.send(pid, &message, &[])
        };
        // A worker that cannot be reached is killed at its deadline.
        sent.unwrap_or_else(|error| self.log_send_error(pid, &error));
    }

    /// Sends a signal to a process that was not reaped.
    pub(super) fn signal(&self, pid: Pid, signal: Signal) {
        // The pid of a reaped process may belong to another one.
        if self.children.get(pid).is_none_or(|child| child.reaped) {
            return;
        }
        if let Err(errno) = kill(pid, signal) {
            warn!(worker_pid = pid.as_raw(), "cannot send {signal}: {errno}");
        }
    }

    /// Reports to the process that launched the daemon that it is up, and logs a worker that
    /// failed.
    fn finish_startup(&mut self) {
        if let Some(reason) = self.publisher.startup_failure.take() {
            error!("{reason}");
        }
        if let Some(launch) = self.program.launch.take() {
            launch.succeeded();
            let _ = daemon::release_terminal();
            logging::reopen();
        }
    }
}
