//! What the controller hears and what it does: signals, messages and endings in, actions out.

use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tracing::{debug, error, info, warn};

use super::supervisor::{Action, Event, Report};
use super::worker_handle::WorkerHandle;
use super::{Controller, report};
use crate::exit::Exit;
use crate::logging;
use crate::process::channel::{Message, Received};
use crate::process::daemon;
use crate::process::signals::SignalStream;
use crate::process::wait::Ending;
use crate::stats::Word;

/// How long the queue of a slot that is given up is still looked after: a handshake that has begun
/// must be able to end.
const LAST_CALL: Duration = Duration::from_secs(1);

/// How long emptying a queue may take before somebody else has a try.
const HEIR_TIMEOUT: Duration = Duration::from_secs(5);

/// Who is emptying the queue of which slot that was given up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heir {
    slot: u32,
    pid: Pid,
    since: Instant,
}

impl Controller<'_> {
    pub(super) fn tell(&mut self, event: Event) {
        self.supervisor.on(event, Instant::now(), &mut self.actions);
    }

    pub(super) fn on_signals(&mut self) {
        let mut stop = false;
        for signal in self.signals.as_mut().map(SignalStream::pending).unwrap_or_default() {
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
                    self.dump.begin(&snapshot, Instant::now());
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

    /// Reads what a worker has to say, to the end.
    pub(super) fn on_channel(&mut self, pid: Pid) {
        loop {
            let Some(handle) = self.handles.get(&pid) else { return };
            let slot = handle.slot;
            match handle.channel.receive() {
                Ok(Received::Message(message, sockets)) => {
                    self.on_message(pid, slot, message, sockets);
                }
                // The ending of one that has closed is told by SIGCHLD.
                Ok(Received::Nothing | Received::Closed) => return,
                // A worker that is not understood cannot be led.
                Err(error) => {
                    self.on_failed(pid, slot, format!("unreadable message: {error}"));
                    return self.signal(pid, Signal::SIGKILL);
                }
            }
        }
    }

    fn on_message(&mut self, pid: Pid, slot: u32, message: Message, sockets: Vec<OwnedFd>) {
        match message {
            Message::Ready => self.on_ready(pid, slot, sockets),
            Message::Retiring => self.tell(Event::Retiring(pid)),
            Message::Draining => self.tell(Event::Draining(pid)),
            Message::Closed { slot } => self.on_closed(slot, pid),
            Message::Failed(reason) => self.on_failed(pid, slot, reason),
            other => warn!(slot, worker_pid = pid.as_raw(), "unexpected message {other:?}"),
        }
    }

    fn on_ready(&mut self, pid: Pid, slot: u32, sockets: Vec<OwnedFd>) {
        // Nobody waits for one that was given up.
        if !self.supervisor.is_in_slot(pid) || self.closing {
            return;
        }
        for socket in sockets {
            if let Err(error) = self.listeners.start(slot, socket, &self.config.listen) {
                self.on_failed(pid, slot, error.to_string());
                return self.signal(pid, Signal::SIGKILL);
            }
        }
        self.store_sockets(slot);
        self.tell(Event::Ready(pid));
    }

    /// If nobody has gone who could empty the queues of addresses that are no longer wanted, the new
    /// worker does.
    fn on_serving(&mut self, slot: u32, pid: Pid) {
        if self.listeners.give_up_others(slot, &self.endpoints) {
            self.unstore_sockets(slot);
            self.store_sockets(slot);
            self.bequeath(slot, pid);
        }
    }

    /// All of the first generation fail alike: it is said once, at the end.
    fn on_failed(&mut self, pid: Pid, slot: u32, reason: String) {
        if self.serving {
            error!(slot, worker_pid = pid.as_raw(), "{reason}");
        } else {
            self.failure.get_or_insert(reason);
        }
    }

    fn on_closed(&mut self, slot: u32, pid: Pid) {
        let before = self.heirs.len();
        self.heirs.retain(|heir| (heir.slot, heir.pid) != (slot, pid));
        if self.heirs.len() < before {
            self.listeners.closed(slot);
        }
    }

    pub(super) fn on_ending(&mut self, pid: Pid, ending: Ending) {
        if self.on_check_ending(pid, ending) || self.on_admin_ending(pid, ending) {
            return;
        }
        // What is still to be sent to it would reach nobody, or another process of the same number.
        self.actions.retain(|action| !matches!(action, Action::Signal(to, _) if *to == pid));
        // What it said last comes before its end.
        self.on_channel(pid);
        let of_pid = self.heirs.iter().filter(|heir| heir.pid == pid);
        let orphaned: Vec<u32> = of_pid.map(|heir| heir.slot).collect();
        orphaned.into_iter().for_each(|slot| self.find_heir(slot, pid));
        self.count_restart(pid, ending);
        if let Some(handle) = self.handles.remove(&pid) {
            let channel = handle.channel.as_raw_fd();
            let _ = mio::event::Source::deregister(&mut SourceFd(&channel), &self.registry);
            self.statistics.free_seat(handle.seat);
        }
        self.tell(Event::Exited(pid, ending));
    }

    /// Compares what the workers have stamped with the time. A stamp from the future is as good as
    /// one from now: nothing in the shared memory can do more than that.
    pub(super) fn look_at_heartbeats(&mut self, now: Instant) {
        let uptime = self.clock.uptime(now).as_millis() as u64;
        let beats: Vec<(Pid, u64)> = self
            .handles
            .iter()
            .map(|(&pid, handle)| (pid, self.statistics.seat(handle.seat).get(Word::Heartbeat)))
            .filter(|(_, stamp)| *stamp > 0)
            .collect();
        for (pid, stamp) in beats {
            let age = Duration::from_millis(uptime.saturating_sub(stamp));
            if let Some(at) = now.checked_sub(age) {
                self.tell(Event::Beat(pid, at));
            }
        }
    }

    /// Carries out what the brain has decided, and what it decides upon hearing of that.
    pub(super) fn act(&mut self) -> ControlFlow<Exit> {
        while !self.actions.is_empty() {
            // A reader may act on a log line at once, so its effects come first.
            self.steer();
            self.list_healthy();
            self.publish_state(Instant::now());
            for action in std::mem::take(&mut self.actions) {
                match action {
                    Action::Spawn(slot) => self.spawn(slot),
                    Action::Signal(pid, signal) => self.signal(pid, signal),
                    Action::Retire(pid) => self.retire(pid),
                    Action::CloseSlot(slot, heir) => self.close_slot(slot, heir),
                    Action::Rescue(slot, pid) => self.rescue(slot, pid),
                    Action::Release(slot, pid) => self.send(pid, &Message::Release { slot }, &[]),
                    Action::CloseListeners => {
                        self.closing = true;
                        self.listeners.clear();
                        self.claims.clear();
                    }
                    Action::Report(report) => self.report(report),
                    Action::Exit(exit) => return ControlFlow::Break(exit),
                }
            }
        }
        self.steer();
        self.list_healthy();
        ControlFlow::Continue(())
    }

    /// The successor accepts from the slot's queues; those that are no longer wanted are left to the
    /// one that goes.
    fn retire(&mut self, pid: Pid) {
        let Some(slot) = self.handles.get(&pid).map(|handle| handle.slot) else { return };
        let has_heirlooms = self.listeners.give_up_others(slot, &self.endpoints);
        if has_heirlooms {
            self.heirs.push(Heir { slot, pid, since: Instant::now() });
            self.unstore_sockets(slot);
            self.store_sockets(slot);
        }
        self.send_retire(pid, if has_heirlooms { LAST_CALL } else { Duration::ZERO });
    }

    fn close_slot(&mut self, slot: u32, heir: Option<Pid>) {
        self.keep_foreign_attended(slot);
        self.listeners.give_up(slot);
        self.unstore_sockets(slot);
        let slot_of_heir = heir.and_then(|pid| self.handles.get(&pid)).map(|handle| handle.slot);
        match (heir, slot_of_heir) {
            (Some(pid), Some(own)) if own == slot => {
                self.heirs.push(Heir { slot, pid, since: Instant::now() });
                self.send_retire(pid, LAST_CALL);
            }
            (Some(pid), Some(_)) => self.bequeath(slot, pid),
            // It has ended in the meantime.
            (Some(pid), None) => self.find_heir(slot, pid),
            (None, _) => self.listeners.closed(slot),
        }
    }

    /// Sockets that were passed to us stay open whatever we do: the first slot takes them over.
    fn keep_foreign_attended(&mut self, slot: u32) {
        if self.listeners.foreign().is_empty() {
            return;
        }
        self.listeners.reassign_foreign(slot, 1);
        if let Some((_, pid)) = self.supervisor.healthy_workers().first() {
            let message = Message::Adopt { slot: 1, for_ms: None };
            self.send(*pid, &message, &self.listeners.of(1));
        }
    }

    fn rescue(&self, slot: u32, pid: Pid) {
        self.send(pid, &Message::Adopt { slot, for_ms: None }, &self.listeners.of(slot));
        if let Some(inbox) = self.inboxes.inbox(slot) {
            let of_slot = |handle: &&WorkerHandle| handle.slot == slot && handle.exchanges;
            let seat = self.handles.values().rfind(of_slot).map(|handle| handle.seat);
            self.send(pid, &Message::AdoptInbox { slot, seat }, &[inbox]);
        }
    }

    /// Leaves the queues of `slot` that were given up to a worker of another slot.
    fn bequeath(&mut self, slot: u32, pid: Pid) {
        let sockets = self.listeners.closing(slot);
        // A slot whose worker was not ready yet leaves nothing.
        if sockets.is_empty() {
            return;
        }
        let for_ms = Some(LAST_CALL.as_millis() as u64);
        self.send(pid, &Message::Adopt { slot, for_ms }, &sockets);
        self.heirs.push(Heir { slot, pid, since: Instant::now() });
    }

    /// An heir that does not get done, because it hangs, is replaced by another one.
    pub(super) fn replace_late_heirs(&mut self, now: Instant) {
        let is_late = |heir: &&Heir| heir.since + HEIR_TIMEOUT <= now;
        while let Some(Heir { slot, pid, .. }) = self.heirs.iter().find(is_late).copied() {
            self.find_heir(slot, pid);
        }
    }

    /// An heir has died: somebody else inherits, if there is anybody.
    fn find_heir(&mut self, slot: u32, dead: Pid) {
        self.heirs.retain(|heir| (heir.slot, heir.pid) != (slot, dead));
        let candidates = self.supervisor.healthy_workers();
        match candidates.iter().map(|(_, pid)| *pid).find(|pid| *pid != dead) {
            Some(pid) if !self.closing => self.bequeath(slot, pid),
            _ => self.listeners.closed(slot),
        }
    }

    fn send_retire(&self, pid: Pid, accept: Duration) {
        let fleet = &self.config.fleet;
        let retire = Message::Retire {
            accept_ms: accept.as_millis() as u64,
            drain_ms: fleet.drain_timeout.as_millis() as u64,
            spread_ms: fleet.drain_spread.as_millis() as u64,
        };
        self.send(pid, &retire, &[]);
    }

    pub(super) fn send(&self, pid: Pid, message: &Message, sockets: &[BorrowedFd<'_>]) {
        let Some(handle) = self.handles.get(&pid) else { return };
        match handle.channel.send(message, sockets) {
            // It has ended, which is dealt with when it is reaped.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            Err(error) => {
                warn!(
                    slot = handle.slot,
                    worker_pid = pid.as_raw(),
                    "cannot tell a worker: {error}"
                );
            }
            Ok(_) => {}
        }
    }

    pub(super) fn signal(&self, pid: Pid, signal: Signal) {
        // Only a process that has not been reaped is ever named here, so the pid is not another's.
        if let Err(errno) = kill(pid, signal) {
            warn!(worker_pid = pid.as_raw(), "cannot send {signal}: {errno}");
        }
    }

    fn report(&mut self, report: Report) {
        self.remember(report);
        match report {
            Report::Serving(_) => {
                self.serving = true;
                if let Some(reason) = self.failure.take() {
                    error!("{reason}");
                }
                if let Some(launch) = self.launch.take() {
                    launch.succeeded();
                    let _ = daemon::release_terminal();
                    logging::reopen();
                }
            }
            Report::Ready(slot, pid) => self.on_serving(slot, pid),
            Report::Renewed => return self.on_renewed(),
            Report::NotRenewed(slot) => return self.on_not_renewed(slot),
            _ => {}
        }
        let since = |pid: &Pid| self.handles.get(pid).map(|handle| handle.since.elapsed());
        report::log(report, &self.endpoints, since);
    }
}
