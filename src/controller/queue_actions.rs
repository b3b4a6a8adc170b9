//! Carrying out what the owner of the queues decides: grants and releases by message, closing, the
//! service manager's duplicates, and steering.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::unistd::Pid;
use tracing::warn;

use super::Controller;
use super::fleet::Event;
use super::queues::{Action, Kind};
use super::supervisor::MOST_SLOTS;
use crate::config::{Balance, Fault};
use crate::ids::QueueId;
use crate::process::channel::MOST_DESCRIPTORS;
use crate::protocol::ToWorker;

impl Controller<'_> {
    pub(super) fn act_on_queue(&mut self, action: Action) {
        match action {
            Action::Grant(pid, queues) => self.grant(pid, &queues),
            Action::Release(pid, queues) => {
                for queues in queues.chunks(MOST_DESCRIPTORS) {
                    let message = ToWorker::Release { queues: queues.to_vec() };
                    self.send_about(pid, queues, &message, &[]);
                }
            }
            Action::Close { queue, .. } if !self.fleet.queues.is_to_be_closed(queue) => {}
            Action::Close { queue, force } => {
                if !force && self.sockets.is_waiting(queue) {
                    return self.tell(Event::NotEmpty(queue));
                }
                self.sockets.close(queue);
                self.tell(Event::Closed(queue));
            }
            Action::Store(queue) => self.store(queue),
            Action::Unstore(queue) => self.unstore(queue),
        }
    }

    /// In portions that fit into a message, each of one slot, as the log names it.
    fn grant(&mut self, pid: Pid, queues: &[QueueId]) {
        let mut by_slot: BTreeMap<u32, Vec<QueueId>> = BTreeMap::new();
        for &queue in queues {
            match (self.fleet.queues.kind(queue), self.sockets.handoff.get(&queue)) {
                (Some(Kind::Handoff), Some(ends)) => {
                    let message = ToWorker::GrantHandoff { queue, slot: ends.slot };
                    let sent = self.children.send(pid, &message, &[ends.receiver.as_fd()]);
                    self.sent(pid, &[queue], sent);
                }
                _ => by_slot.entry(self.fleet.queues.slot(queue)).or_default().push(queue),
            }
        }
        for (slot, queues) in by_slot {
            for queues in queues.chunks(MOST_DESCRIPTORS) {
                let message = ToWorker::Grant { queues: queues.to_vec(), slot };
                let sockets: Option<Vec<BorrowedFd<'_>>> =
                    queues.iter().map(|queue| self.sockets.listener(*queue)).collect();
                let sent = match sockets {
                    Some(sockets) => self.children.send(pid, &message, &sockets),
                    None => Err(io::Error::other("a socket is missing")),
                };
                self.sent(pid, queues, sent);
            }
        }
    }

    fn send_about(
        &mut self,
        pid: Pid,
        queues: &[QueueId],
        message: &ToWorker,
        sockets: &[BorrowedFd<'_>],
    ) {
        let sent = self.children.send(pid, message, sockets);
        self.sent(pid, queues, sent);
    }

    fn sent(&mut self, pid: Pid, queues: &[QueueId], sent: io::Result<()>) {
        if let Err(error) = sent {
            self.complain_of_send(pid, &error);
            self.tell(Event::Unsent(pid, queues.to_vec()));
        }
    }

    /// Logs that a worker could not be told something, unless it has ended: that is dealt with when it
    /// is reaped.
    pub(super) fn complain_of_send(&self, pid: Pid, error: &io::Error) {
        if error.kind() != io::ErrorKind::BrokenPipe {
            warn!(worker_pid = pid.as_raw(), "cannot tell a worker: {error}");
        }
    }

    /// Says in the health table which workers connections may be handed off to: none once the daemon
    /// stops, before any worker is told.
    pub(super) fn list_healthy(&self) {
        if self.sockets.handoff.is_empty() {
            return;
        }
        let mut blocks = [None; MOST_SLOTS as usize + 1];
        let supervisor = &self.fleet.supervisor;
        // After a reload that has switched to the hash nothing is handed off any more.
        if self.config.fleet.balance == Balance::LeastConnections && !supervisor.is_draining() {
            for (slot, pid) in supervisor.healthy_workers() {
                let wire = self.children.wire(pid).filter(|wire| wire.handoff && !wire.legacy);
                blocks[slot as usize] = wire.map(|wire| wire.block);
            }
        }
        for (slot, block) in (0..).zip(blocks).skip(1) {
            self.publisher.statistics.list(slot, block);
        }
    }

    /// Brings the groups' programs in line with the queues.
    pub(super) fn steer(&mut self) {
        // Members of another daemon have positions that we do not know.
        if self.config.listen.share_port || self.fleet.supervisor.is_draining() {
            return;
        }
        if self.config.faults.contains(&Fault::NoSteering) {
            return;
        }
        for (address, member, wanted) in self.fleet.queues.steering() {
            if let Some(member) = self.sockets.listening.get(&member) {
                self.sockets.steering.steer(address, member.as_fd(), wanted.as_deref());
            }
        }
    }
}
