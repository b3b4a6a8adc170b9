//! Forking a worker, and what a new process must forget.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Instant;

use mio::Interest;
use mio::Token;
use mio::unix::SourceFd;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tracing::error;

use super::Controller;
use super::supervisor::Event;
use super::worker_handle::WorkerHandle;
use crate::assignment::{Assignment, Exchange};
use crate::config::Balance;
use crate::exit::Exit;
use crate::logging;
use crate::process::channel::{Channel, Message};
use crate::process::{daemon, descriptors, exec, fork, signals};

/// Variables of the environment that are meant for the controller alone.
pub(super) const FOR_CONTROLLER: [&str; 6] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
];

impl Controller<'_> {
    /// Forks a worker for this slot and says how that went.
    pub(super) fn spawn(&mut self, slot: u32) {
        match self.try_spawn(slot) {
            Ok(pid) => self.tell(Event::Spawned(slot, pid)),
            Err(error) => {
                error!(slot, "cannot start a worker: {error}");
                self.tell(Event::NotSpawned(slot));
            }
        }
    }

    fn try_spawn(&mut self, slot: u32) -> io::Result<Pid> {
        self.listeners.share_foreign(slot)?;
        let (channel, theirs) = Channel::pair()?;
        if self.config.fleet.balance == Balance::LeastConnections && self.inboxes.open(slot)? {
            self.introduce(slot);
        }
        let seat = self.statistics.take_seat().ok_or_else(|| {
            io::Error::other("too many retired workers still drain (--drain-timeout)")
        })?;
        let controller = fork::own_pid();
        let forked = fork::spawn(|| self.become_worker(slot, theirs, seat, controller).code());
        let pid = match forked {
            Ok(pid) => pid,
            Err(error) => {
                self.statistics.free_seat(seat);
                return Err(error);
            }
        };
        let descriptor = channel.as_raw_fd();
        let exchanges = self.inboxes.outbox(slot).is_some();
        let since = Instant::now();
        let uptime = self.clock.uptime(since).as_millis() as u64;
        self.statistics.seat_worker(seat, slot, pid.as_raw() as u64, uptime);
        let handle = WorkerHandle { slot, channel, seat, exchanges, since, ready: false };
        self.handles.insert(pid, handle);
        let token = Token(pid.as_raw() as usize);
        let mut source = SourceFd(&descriptor);
        if let Err(error) = self.registry.register(&mut source, token, Interest::READABLE) {
            // It exists all the same: unheard, it is taken for one that does not get ready.
            error!(slot, worker_pid = pid.as_raw(), "cannot watch the worker's channel: {error}");
        }
        Ok(pid)
    }

    /// Tells the workers that there are the way to a slot that is new.
    fn introduce(&self, slot: u32) {
        for pid in self.supervisor.pids() {
            let outbox: Vec<_> = self.inboxes.outbox(slot).into_iter().collect();
            self.send(pid, &Message::Sibling { slot }, &outbox);
        }
    }

    /// In the new process: it forgets the controller and then lives its own life. It never comes back:
    /// whoever called ends the process with the exit code.
    fn become_worker(&mut self, slot: u32, channel: Channel, seat: usize, controller: Pid) -> Exit {
        let missing = self.listeners.missing(slot, &self.endpoints);
        let listeners = self.listeners.take(slot, &self.endpoints);
        let mut keep = vec![channel.as_raw_fd()];
        keep.extend(listeners.iter().map(AsRawFd::as_raw_fd));
        keep.extend(self.inboxes.descriptors_for(slot));
        self.forget_controller(&keep, &format!("tcp-echo[wrk{slot}]"), || {
            logging::speak_as_worker(slot);
        });
        let siblings = self.statistics.siblings();
        let exchange = self.inboxes.take(slot);
        let exchange = exchange.map(|(inbox, outboxes)| Exchange { inbox, outboxes, siblings });
        (self.worker_main)(Assignment {
            slot,
            controller,
            missing,
            listeners,
            exchange,
            channel,
            seat: self.statistics.seat(seat),
            config: self.config,
        })
    }

    /// In a new process: all that it must forget of the controller, in this order. What is not in
    /// `keep` is closed, and whatever owns it must not be dropped.
    pub(super) fn forget_controller(&mut self, keep: &[RawFd], title: &str, speak: impl FnOnce()) {
        // 1. The signal pipe: the controller reads it too and would take our signals for its own.
        //    (All signals are blocked until the process has a pipe of its own.)
        drop(self.signals.take());
        let _ = signals::reset(&[Signal::SIGCHLD]);
        // 2. The log's descriptor, to be opened anew below; a terminal does not keep a daemon's worker.
        logging::close();
        if self.launch.is_some() {
            let _ = daemon::release_terminal();
        }
        // 3. Every descriptor but its own: the epoll instance (closed, nothing deregistered: the set is
        //    shared), the other slots' listeners, their channels (or their ends of file would never
        //    come), the claims, the pid file.
        descriptors::close_all_but(keep);
        // 4. What the service manager told the controller, and the name.
        exec::forget_variables(&FOR_CONTROLLER);
        speak();
        logging::reopen();
        self.title.set(title);
    }
}
