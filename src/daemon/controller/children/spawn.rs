//! Forking of workers and the admin process, and removal of the controller's state in the new
//! process.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::Instant;

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tracing::error;

use crate::config::{Balance, Endpoint};
use crate::daemon::assignment::{AdminAssignment, Assignment, HandoffQueues};
use crate::daemon::controller::Controller;
use crate::daemon::controller::children::{ProcessLink, Role};
use crate::daemon::controller::queues::Kind;
use crate::daemon::controller::supervisor::Event;
use crate::daemon::ids::{BlockId, QueueId, SlotId};
use crate::daemon::protocol::ToWorker;
use crate::exit::Exit;
use crate::logging;
use crate::sys::channel::Channel;
use crate::sys::{daemon, descriptors, exec, fork, signals};

/// Environment variables for the controller only.
pub(crate) const CONTROLLER_VARIABLES: [&str; 6] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
];

/// Resources of a new process.
struct Resources {
    slot: SlotId,
    channel: Channel,
    block_id: BlockId,
    controller: Pid,
    /// Queues that a worker inherits.
    inherited: Vec<QueueId>,
    /// Addresses that a worker opens sockets for, with the identifiers of the new queues.
    missing: Vec<(QueueId, Endpoint)>,
}

impl Controller<'_> {
    /// Forks the process of a slot, and applies the outcome.
    pub(crate) fn spawn(&mut self, slot: SlotId) {
        match self.try_spawn(slot) {
            Ok(pid) => {
                self.apply(Event::Spawned(slot, pid));
                if let Err(error) = self.children.watch(pid, &self.inputs.registry) {
                    // Without its READY it counts as a process that did not become ready.
                    error!(
                        slot = slot.0,
                        worker_pid = pid.as_raw(),
                        "cannot watch channel: {error}"
                    );
                }
            }
            Err(error) => {
                match Role::of_slot(slot) {
                    Role::Admin => error!("cannot fork admin process: {error}"),
                    _ => error!(slot = slot.0, "cannot fork worker: {error}"),
                }
                self.apply(Event::NotSpawned(slot));
            }
        }
    }

    fn try_spawn(&mut self, slot: SlotId) -> io::Result<Pid> {
        let (channel, theirs) = Channel::pair()?;
        let role = Role::of_slot(slot);
        let balanced = self.config.fleet.balance == Balance::LeastConnections;
        if role != Role::Admin && balanced && self.fleet.queues.handoff_of(slot).is_none() {
            self.open_handoff(slot)?;
        }
        let inherited = self.fleet.queues_for_slot(slot);
        let missing = if role == Role::Admin { Vec::new() } else { self.missing(&inherited) };
        let block_id = self.publisher.statistics.allocate().ok_or_else(|| {
            io::Error::other("too many workers still drain (reduce --drain-timeout)")
        })?;
        let controller = fork::own_pid();
        let resources =
            Resources { slot, channel: theirs, block_id, controller, inherited, missing };
        let forked = fork::spawn(|| match role {
            Role::Admin => self.become_admin(resources).code(),
            _ => self.become_worker(resources).code(),
        });
        let statistics = &mut self.publisher.statistics;
        let pid = forked.inspect_err(|_| statistics.release(block_id))?;
        let uptime = self.publisher.clock.uptime_ms(Instant::now());
        statistics.assign(block_id, slot, pid.as_raw() as u64, uptime);
        let handoff = self.fleet.queues.handoff_of(slot).is_some();
        let link = ProcessLink { channel, block_id, handoff, legacy: false };
        self.children.insert(pid, role, Some(link));
        Ok(pid)
    }

    /// Returns the addresses without any of these queues, each with the identifier of a new queue.
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

    /// Opens the handoff queue of a slot, and sends the sending end to all workers.
    fn open_handoff(&mut self, slot: SlotId) -> io::Result<()> {
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
            sent.unwrap_or_else(|error| self.log_send_error(pid, &error));
        }
        Ok(())
    }

    /// Runs a worker in the new process, after removing the controller's state. The caller exits
    /// with the returned code.
    fn become_worker(&mut self, resources: Resources) -> Exit {
        let Resources { slot, channel, block_id, controller, inherited, missing } = resources;
        let mut keep = vec![channel.as_raw_fd()];
        keep.extend(self.sockets.for_worker(&inherited));
        let mut listeners: Vec<(QueueId, OwnedFd)> = Vec::new();
        for id in &inherited {
            listeners.extend(self.sockets.listening.remove(id).map(|socket| (*id, socket)));
        }
        let handoff = self.handoff_queues(&inherited);
        self.remove_controller_state(&keep, &format!("tcp-echo[wrk{slot}]"), || {
            logging::set_role_worker(slot.0);
        });
        let statistics = &self.publisher.statistics;
        (self.program.worker_main)(Assignment {
            slot,
            controller,
            missing,
            listeners,
            handoff,
            siblings: statistics.health_table(),
            channel,
            block: statistics.block(block_id),
            config: self.config,
        })
    }

    /// Returns the handoff queue of a new worker and the sending ends of all; `None` without
    /// handoff.
    fn handoff_queues(&mut self, inherited: &[QueueId]) -> Option<HandoffQueues> {
        let (mut own, mut senders) = (None, Vec::new());
        for (id, ends) in std::mem::take(&mut self.sockets.handoff) {
            senders.push((ends.slot, ends.sender));
            if inherited.contains(&id) {
                own = Some((id, ends.receiver));
            } else {
                // `close_all_but` closes it.
                std::mem::forget(ends.receiver);
            }
        }
        if own.is_none() {
            // `close_all_but` closes them.
            senders.drain(..).for_each(std::mem::forget);
        }
        Some(HandoffQueues { receiver: own?, senders })
    }

    /// Runs the admin process in the new process; as [`Self::become_worker`].
    fn become_admin(&mut self, resources: Resources) -> Exit {
        let Resources { channel, block_id, controller, .. } = resources;
        let Some(admin_socket) = self.admin.take_socket() else { return Exit::Failure };
        let keep = [channel.as_raw_fd(), admin_socket.socket.as_raw_fd()];
        self.remove_controller_state(&keep, "tcp-echo[admin]", logging::set_role_admin);
        let statistics = &self.publisher.statistics;
        (self.program.admin_main)(AdminAssignment {
            controller,
            admin_socket,
            hosts: &self.config.admin.hosts,
            channel,
            block: statistics.block(block_id),
            layout: statistics.layout(),
            worker_timeout: self.config.fleet.worker_timeout,
        })
    }

    /// Removes the controller's state from a new process. Descriptors that are not in `keep` are
    /// closed, and their owners must not be dropped.
    fn remove_controller_state(&mut self, keep: &[RawFd], title: &str, speak: impl FnOnce()) {
        // 1. The signal pipe, which the controller reads too: it would act on signals to this
        // process.    Signals stay blocked until the process has its own pipe.
        drop(self.inputs.signals.take());
        let _ = signals::reset(&[Signal::SIGCHLD]);
        // 2. The descriptor of the log, which is reopened below, and the terminal.
        logging::close();
        if self.program.launch.is_some() {
            let _ = daemon::release_terminal();
        }
        // 3. All other descriptors: the epoll instance (without deregistration, as the set is
        // shared), the    listeners and channels of other slots (or their end of file would never
        // come), the address    reservations, and the pid file.
        descriptors::close_all_but(keep);
        // 4. The variables of the service manager, the log role, and the process title.
        exec::remove_variables(&CONTROLLER_VARIABLES);
        speak();
        logging::reopen();
        self.program.title.set(title);
    }
}
