//! Forking a worker or the admin process, and what a new process must forget.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::Instant;

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tracing::error;

use super::Controller;
use super::children::{Role, Wire};
use super::queues::Kind;
use super::supervisor::Event;
use crate::assignment::{AdminAssignment, Assignment, Exchange};
use crate::config::{Balance, Endpoint};
use crate::exit::Exit;
use crate::ids::QueueId;
use crate::logging;
use crate::process::channel::Channel;
use crate::process::{daemon, descriptors, exec, fork, signals};
use crate::protocol::ToWorker;

/// Variables of the environment that are meant for the controller alone.
pub(super) const FOR_CONTROLLER: [&str; 6] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
];

/// The resources of a new process.
struct Given {
    slot: u32,
    channel: Channel,
    block: usize,
    controller: Pid,
    /// The queues that a worker inherits.
    inherited: Vec<QueueId>,
    /// The addresses that a worker is to open sockets for.
    missing: Vec<(QueueId, Endpoint)>,
}

impl Controller<'_> {
    /// Forks a process for this slot and says how that went.
    pub(super) fn spawn(&mut self, slot: u32) {
        match self.try_spawn(slot) {
            Ok(pid) => {
                self.tell(Event::Spawned(slot, pid));
                if let Err(error) = self.children.watch(pid, &self.inputs.registry) {
                    // It exists all the same: unheard, it is taken for one that does not get ready.
                    error!(slot, worker_pid = pid.as_raw(), "cannot watch its channel: {error}");
                }
            }
            Err(error) => {
                match Role::of_slot(slot) {
                    Role::Admin => error!("cannot start the admin process: {error}"),
                    _ => error!(slot, "cannot start a worker: {error}"),
                }
                self.tell(Event::NotSpawned(slot));
            }
        }
    }

    fn try_spawn(&mut self, slot: u32) -> io::Result<Pid> {
        let (channel, theirs) = Channel::pair()?;
        let role = Role::of_slot(slot);
        let balanced = self.config.fleet.balance == Balance::LeastConnections;
        if role != Role::Admin && balanced && self.fleet.queues.handoff_of(slot).is_none() {
            self.open_handoff(slot)?;
        }
        let inherited = self.fleet.inheritance(slot);
        let missing = if role == Role::Admin { Vec::new() } else { self.missing(&inherited) };
        let block = self.publisher.statistics.take_seat().ok_or_else(|| {
            io::Error::other("too many retired workers still drain (--drain-timeout)")
        })?;
        let controller = fork::own_pid();
        let given = Given { slot, channel: theirs, block, controller, inherited, missing };
        let forked = fork::spawn(|| match role {
            Role::Admin => self.become_admin(given).code(),
            _ => self.become_worker(given).code(),
        });
        let statistics = &mut self.publisher.statistics;
        let pid = forked.inspect_err(|_| statistics.free_seat(block))?;
        let uptime = self.publisher.clock.uptime(Instant::now()).as_millis() as u64;
        statistics.seat_worker(block, slot, pid.as_raw() as u64, uptime);
        let handoff = self.fleet.queues.handoff_of(slot).is_some();
        let wire = Wire { channel, block, handoff, legacy: false };
        self.children.insert(pid, role, false, Some(wire));
        Ok(pid)
    }

    /// The addresses that none of these queues is for, each with the name of the queue to be.
    fn missing(&mut self, inherited: &[QueueId]) -> Vec<(QueueId, Endpoint)> {
        let queues = &mut self.fleet.queues;
        let bound = inherited.iter().filter_map(|id| match queues.kind(*id)? {
            Kind::Accept(address) | Kind::External(address) => Some(address),
            Kind::Handoff => None,
        });
        let bound: Vec<_> = bound.collect();
        let endpoints = self.sockets.endpoints().into_iter();
        let missing = endpoints.filter(|endpoint| !bound.contains(&endpoint.address));
        missing.map(|endpoint| (queues.reserve(), endpoint)).collect()
    }

    /// Opens a handoff queue for a slot, and gives the workers that there are the sending end.
    fn open_handoff(&mut self, slot: u32) -> io::Result<()> {
        let id = self.fleet.queues.reserve();
        self.sockets.open_handoff(id, slot)?;
        self.fleet.queues.add(id, Kind::Handoff, slot, None);
        let ends = &self.sockets.handoff[&id];
        for (pid, ..) in self.children.workers() {
            let sent = self.children.send(
                pid,
                &ToWorker::Sibling { slot },
                &[std::os::fd::AsFd::as_fd(&ends.sender)],
            );
            sent.unwrap_or_else(|error| self.complain_of_send(pid, &error));
        }
        Ok(())
    }

    /// In the new process: it forgets the controller and then lives its own life. It never comes back:
    /// the caller ends the process with the exit code.
    fn become_worker(&mut self, given: Given) -> Exit {
        let Given { slot, channel, block, controller, inherited, missing } = given;
        let mut keep = vec![channel.as_raw_fd()];
        keep.extend(self.sockets.for_worker(&inherited));
        let mut listeners: Vec<(QueueId, OwnedFd)> = Vec::new();
        for id in &inherited {
            listeners.extend(self.sockets.listening.remove(id).map(|socket| (*id, socket)));
        }
        let exchange = self.exchange(&inherited);
        self.forget_controller(&keep, &format!("tcp-echo[wrk{slot}]"), || {
            logging::speak_as_worker(slot);
        });
        let statistics = &self.publisher.statistics;
        (self.program.worker_main)(Assignment {
            slot,
            controller,
            missing,
            listeners,
            exchange,
            siblings: statistics.siblings(),
            channel,
            seat: statistics.seat(block),
            config: self.config,
        })
    }

    /// In a new worker: its handoff queue, and the sending ends of all.
    fn exchange(&mut self, inherited: &[QueueId]) -> Option<Exchange> {
        let (mut own, mut outboxes) = (None, Vec::new());
        for (id, ends) in std::mem::take(&mut self.sockets.handoff) {
            outboxes.push((ends.slot, ends.sender));
            if inherited.contains(&id) {
                own = Some((id, ends.receiver));
            } else {
                // Closed with everything else that is not kept.
                std::mem::forget(ends.receiver);
            }
        }
        if own.is_none() {
            // So are these.
            outboxes.drain(..).for_each(std::mem::forget);
        }
        Some(Exchange { inbox: own?, outboxes })
    }

    /// In the new process, as [`Self::become_worker`].
    fn become_admin(&mut self, given: Given) -> Exit {
        let Given { channel, block, controller, .. } = given;
        let Some(front) = self.admin.take_front() else { return Exit::Failure };
        let keep = [channel.as_raw_fd(), front.socket.as_raw_fd()];
        self.forget_controller(&keep, "tcp-echo[admin]", logging::speak_as_admin);
        let statistics = &self.publisher.statistics;
        (self.program.admin_main)(AdminAssignment {
            controller,
            front,
            hosts: &self.config.admin.hosts,
            channel,
            seat: statistics.seat(block),
            layout: statistics.layout(),
            worker_timeout: self.config.fleet.worker_timeout,
        })
    }

    /// In a new process: all that it must forget of the controller, in this order. What is not in
    /// `keep` is closed, and its owners must not be dropped.
    fn forget_controller(&mut self, keep: &[RawFd], title: &str, speak: impl FnOnce()) {
        // 1. The signal pipe: the controller reads it too and would take our signals for its own.
        //    (All signals are blocked until the process has a pipe of its own.)
        drop(self.inputs.signals.take());
        let _ = signals::reset(&[Signal::SIGCHLD]);
        // 2. The log's descriptor, to be opened anew below; a terminal does not keep a daemon's worker.
        logging::close();
        if self.program.launch.is_some() {
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
        self.program.title.set(title);
    }
}
