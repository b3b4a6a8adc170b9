//! Effects on queues: grants and releases by message, closing, and steering.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::unistd::Pid;
use tracing::warn;

use crate::config::Fault;
use crate::daemon::controller::Controller;
use crate::daemon::controller::fleet::Event;
use crate::daemon::controller::queues::{Action, Kind};
use crate::daemon::ids::{QueueId, SlotId};
use crate::daemon::protocol::ToWorker;
use crate::sys::channel::MOST_DESCRIPTORS;

impl Controller<'_> {
    /// Carries out an action on a queue.
    pub(crate) fn act_on_queue(&mut self, action: Action) {
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
                    return self.apply(Event::NotEmpty(queue));
                }
                self.sockets.close(queue);
                self.apply(Event::Closed(queue));
            }
            Action::Store(queue) => self.store(queue),
            Action::Unstore(queue) => self.unstore(queue),
        }
    }

    /// Sends queues to a worker, in messages of one slot each that fit the limit of descriptors.
    fn grant(&mut self, pid: Pid, queues: &[QueueId]) {
        let mut by_slot: BTreeMap<SlotId, Vec<QueueId>> = BTreeMap::new();
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
                    None => Err(io::Error::other("no such socket")),
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
            self.log_send_error(pid, &error);
            self.apply(Event::Unsent(pid, queues.to_vec()));
        }
    }

    /// Logs that a message could not be sent, unless the process has ended, which is handled when
    /// it is reaped.
    pub(crate) fn log_send_error(&self, pid: Pid, error: &io::Error) {
        if error.kind() != io::ErrorKind::BrokenPipe {
            warn!(worker_pid = pid.as_raw(), "cannot send message to process: {error}");
        }
    }

    /// Updates the steering program of each group.
    pub(crate) fn steer(&mut self) {
        // The positions are unknown in groups with members of other daemons.
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
