//! The effects of the controller: signals, messages and endings in, actions out.

use std::io;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tracing::{debug, error, info, warn};

use super::children::Role;
use super::fleet::{Action as FleetAction, Event as FleetEvent};
use super::supervisor::{ADMIN_RETIRES, Action, Event, Report};
use super::{Controller, report};
use crate::exit::Exit;
use crate::ids::QueueId;
use crate::logging;
use crate::process::channel::Received;
use crate::process::daemon;
use crate::process::signals::SignalStream;
use crate::process::wait::Ending;
use crate::protocol::{FromAdmin, FromWorker, ToAdmin, ToWorker};
use crate::stats::Word;

impl Controller<'_> {
    pub(super) fn tell(&mut self, event: impl Into<FleetEvent>) {
        self.fleet.apply(event.into(), Instant::now(), &mut self.actions);
    }

    pub(super) fn on_signals(&mut self) {
        let mut stop = false;
        for signal in self.inputs.signals.as_mut().map(SignalStream::pending).unwrap_or_default() {
            if !matches!(signal, Signal::SIGCHLD | Signal::SIGUSR1 | Signal::SIGUSR2) {
                info!("received {signal}");
            }
            match signal {
                Signal::SIGTERM | Signal::SIGINT | Signal::SIGQUIT => stop = true,
                Signal::SIGHUP => self.reload.request(),
                Signal::SIGTTIN => self.tell(Event::More),
                Signal::SIGTTOU => self.tell(Event::Fewer),
                Signal::SIGUSR1 => report::figures(&self.snapshot()),
                Signal::SIGUSR2 => {
                    let snapshot = self.snapshot();
                    self.publisher.dump.begin(&snapshot, Instant::now());
                }
                // The dead are collected on every turn.
                Signal::SIGCHLD => {}
                other => debug!("{other} has no meaning for the controller"),
            }
        }
        // Two different ones at the same time are one.
        if stop {
            self.tell(Event::Stop);
        }
    }

    /// Reads what a process has to say, to the end.
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
                // A process that is not understood cannot be led.
                Err(error) => {
                    self.on_failed(pid, role, format!("unreadable message: {error}"));
                    return self.signal(pid, Signal::SIGKILL);
                }
            }
        }
    }

    /// Handles the next message of a worker; `false` if there is none. The ending of one that has
    /// closed its channel is told by SIGCHLD.
    fn on_worker_message(&mut self, pid: Pid, slot: u32) -> io::Result<bool> {
        let Received::Message(message, sockets) = self.children.receive(pid)? else {
            return Ok(false);
        };
        match message {
            FromWorker::Ready { opened } => self.on_ready(pid, slot, opened, sockets),
            FromWorker::Retiring => self.tell(Event::Retiring(pid)),
            FromWorker::Draining => self.tell(Event::Draining(pid)),
            FromWorker::Failed(reason) => self.on_failed(pid, Role::Worker(slot), reason),
            FromWorker::Attending { queues } => self.tell(FleetEvent::Attending(pid, queues)),
            FromWorker::Refused { queues } => self.tell(FleetEvent::Refused(pid, queues)),
            FromWorker::Released { queues } => self.tell(FleetEvent::Released(pid, queues)),
            // It holds what it has until it ends.
            FromWorker::Closed { .. } => {}
        }
        Ok(true)
    }

    fn on_admin_message(&mut self, pid: Pid) -> io::Result<bool> {
        match self.children.receive(pid)? {
            Received::Message(FromAdmin::Ready, _) => {
                self.tell(Event::Ready(pid));
                Ok(true)
            }
            Received::Nothing | Received::Closed => Ok(false),
        }
    }

    fn on_ready(&mut self, pid: Pid, slot: u32, opened: Vec<QueueId>, sockets: Vec<OwnedFd>) {
        // One that was given up brings nothing that is needed.
        let wanted = self.fleet.supervisor.is_in_slot(pid) && !self.sockets.closing;
        if wanted && sockets.len() < opened.len() {
            self.on_failed(
                pid,
                Role::Worker(slot),
                "cannot keep its sockets: too many open files".into(),
            );
            return self.signal(pid, Signal::SIGKILL);
        }
        for (id, socket) in opened.into_iter().zip(sockets).filter(|_| wanted) {
            match self.sockets.listen(id, socket, &self.config.listen) {
                Ok(kind) => self.tell(FleetEvent::Opened(pid, id, kind, slot)),
                Err(error) => {
                    self.on_failed(pid, Role::Worker(slot), error.to_string());
                    return self.signal(pid, Signal::SIGKILL);
                }
            }
        }
        self.tell(Event::Ready(pid));
    }

    /// All of the first generation fail alike: it is said once, at the end.
    fn on_failed(&mut self, pid: Pid, role: Role, reason: String) {
        match role {
            Role::Worker(_) if self.fleet.supervisor.is_starting() => {
                self.publisher.failure.get_or_insert(reason);
            }
            Role::Worker(slot) => error!(slot, worker_pid = pid.as_raw(), "{reason}"),
            Role::Admin | Role::ReloadCheck => warn!(admin_pid = pid.as_raw(), "{reason}"),
        }
    }

    pub(super) fn on_ending(&mut self, pid: Pid, ending: Ending) {
        self.children.reaped(pid);
        // What it said last comes before its end.
        self.on_channel(pid);
        self.count_restart(pid, ending);
        let child = self.children.remove(pid, &self.inputs.registry);
        if child.as_ref().is_some_and(|child| child.role == Role::ReloadCheck) {
            return self.on_check_ending(pid, ending);
        }
        if let Some(wire) = child.and_then(|child| child.wire) {
            self.publisher.statistics.free_seat(wire.block);
        }
        self.tell(Event::Exited(pid, ending));
    }

    /// Compares what the processes have stamped with the time. A stamp from the future is as good as
    /// one from now: nothing in the shared memory can do more than that.
    pub(super) fn look_at_heartbeats(&mut self, now: Instant) {
        let uptime = self.publisher.clock.uptime(now).as_millis() as u64;
        let statistics = &self.publisher.statistics;
        let beats = self
            .children
            .iter()
            .map(|(pid, _, wire)| (pid, statistics.seat(wire.block).get(Word::Heartbeat)));
        let beats: Vec<(Pid, u64)> = beats.filter(|(_, stamp)| *stamp > 0).collect();
        for (pid, stamp) in beats {
            let age = Duration::from_millis(uptime.saturating_sub(stamp));
            if let Some(at) = now.checked_sub(age) {
                self.tell(Event::Beat(pid, at));
            }
        }
    }

    /// Carries out what was decided, and what is decided upon hearing of that.
    pub(super) fn act(&mut self) -> ControlFlow<Exit> {
        while !self.actions.is_empty() {
            // A reader may act on a log line at once, so its effects come first. And no connection is
            // handed off to a worker that is about to be told to drain.
            self.steer();
            self.list_healthy();
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
        self.list_healthy();
        ControlFlow::Continue(())
    }

    fn act_on_process(&mut self, action: Action) {
        match action {
            // Since it was decided the daemon may have been told to stop.
            Action::Spawn(slot) if self.fleet.supervisor.is_forking(slot) => self.spawn(slot),
            Action::Spawn(_) => {}
            Action::Signal(pid, signal) => self.signal(pid, signal),
            Action::Kill(pid, reason) => {
                warn!(admin_pid = pid.as_raw(), reason, "killing the admin process");
                self.count_admin(pid);
                self.signal(pid, Signal::SIGKILL);
            }
            Action::Retire(pid) => self.retire(pid),
            Action::CloseAddresses => {
                self.sockets.closing = true;
                self.sockets.claims.clear();
            }
            Action::Report(report) => self.report(report),
            Action::Exit(_) => {}
        }
    }

    fn retire(&mut self, pid: Pid) {
        let millis = |duration: Duration| duration.as_millis() as u64;
        let fleet = &self.config.fleet;
        let sent = match self.children.role(pid) {
            Some(Role::Admin) => {
                let drain_ms = millis(ADMIN_RETIRES);
                self.children.send(
                    pid,
                    &ToAdmin::Retire { accept_ms: 0, drain_ms, spread_ms: 0 },
                    &[],
                )
            }
            _ => {
                let (drain_ms, spread_ms) =
                    (millis(fleet.drain_timeout), millis(fleet.drain_spread));
                self.children.send(
                    pid,
                    &ToWorker::Retire { accept_ms: 0, drain_ms, spread_ms },
                    &[],
                )
            }
        };
        // One that does not read is killed when its time is up.
        sent.unwrap_or_else(|error| self.complain_of_send(pid, &error));
    }

    pub(super) fn signal(&self, pid: Pid, signal: Signal) {
        // The pid of one that was reaped may be another process's.
        if self.children.get(pid).is_none_or(|child| child.reaped) {
            return;
        }
        if let Err(errno) = kill(pid, signal) {
            warn!(worker_pid = pid.as_raw(), "cannot send {signal}: {errno}");
        }
    }

    fn report(&mut self, report: Report) {
        self.remember(report);
        let since = |pid: &Pid| self.children.get(*pid).map(|child| child.since.elapsed());
        let stopping = self.fleet.supervisor.is_stopping();
        report::log(report, &self.sockets.endpoints(), since, self.admin.url(), stopping);
        match report {
            Report::Serving(_) => self.on_serving(),
            Report::Renewed => self.on_renewed(),
            Report::NotRenewed(slot) => self.on_not_renewed(slot),
            _ => {}
        }
    }

    fn on_serving(&mut self) {
        if let Some(reason) = self.publisher.failure.take() {
            error!("{reason}");
        }
        if let Some(launch) = self.program.launch.take() {
            launch.succeeded();
            let _ = daemon::release_terminal();
            logging::reopen();
        }
    }
}
