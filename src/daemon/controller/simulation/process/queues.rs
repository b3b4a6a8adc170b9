//! The queues of a simulated worker: grants, releases, and closing.

use super::super::coverage::Point;
use super::super::kernel::SocketId;
use super::super::message::FromProcess;
use super::super::world::MOST_DESCRIPTORS;
use super::{Context, Phase, Process, QueueSockets};
use crate::daemon::ids::QueueId;

impl Process {
    /// Attends granted queues, as `Server::on_message`. A worker without free descriptors attends
    /// only the first few and refuses the others.
    pub(super) fn on_grant(&mut self, queues: QueueSockets, context: &mut Context<'_>) {
        let arrived = match self.full {
            false => queues.len(),
            true => context.random.index(queues.len()),
        };
        for (index, (queue, socket)) in queues.iter().enumerate() {
            let handoff = context.kernel.sockets[*socket].address.is_none();
            let list = if handoff { &mut self.handoff_queues } else { &mut self.attends };
            if index >= arrived || list.iter().any(|(known, _)| known == queue) {
                context.kernel.close(*socket);
            } else {
                list.push((*queue, *socket));
                self.holds.push(*socket);
            }
        }
        let names: Vec<QueueId> = queues.iter().map(|(queue, _)| *queue).collect();
        let (taken, refused) = names.split_at(arrived);
        if !taken.is_empty() {
            self.stage(FromProcess::Attending(taken.to_vec()));
        }
        if !refused.is_empty() {
            context.coverage.hit(if arrived > 0 {
                Point::PartlyRefused
            } else {
                Point::GrantRefused
            });
            self.stage(FromProcess::Refused(refused.to_vec()));
        }
        if matches!(self.phase, Phase::Draining(_)) {
            let taken = taken.to_vec();
            self.release(&taken, context);
        }
    }

    /// Drains and closes queues, and reports all of them as released.
    pub(super) fn release(&mut self, queues: &[QueueId], context: &mut Context<'_>) {
        self.accept_all(queues, context);
        let known = self.close_queues(queues, context);
        // Unknown queues are reported as well: the controller waits for an answer.
        let unknown = queues.iter().copied().filter(|queue| !known.contains(queue));
        let unknown: Vec<QueueId> = unknown.collect();
        if !unknown.is_empty() {
            self.stage(FromProcess::Released(unknown));
        }
    }

    /// Accepts every connection that waits in these queues.
    pub(super) fn accept_all(&mut self, queues: &[QueueId], context: &mut Context<'_>) {
        if self.full {
            return;
        }
        let all = self.attends.iter().chain(&self.handoff_queues);
        let these: Vec<SocketId> =
            all.filter(|(queue, _)| queues.contains(queue)).map(|(_, socket)| *socket).collect();
        for socket in these {
            let accepted = std::mem::take(&mut context.kernel.sockets[socket].waiting).len();
            self.admit(accepted, context);
        }
    }

    /// Closes queues of either kind, reports them as released, and returns those that were open.
    pub(super) fn close_queues(
        &mut self,
        queues: &[QueueId],
        context: &mut Context<'_>,
    ) -> Vec<QueueId> {
        let mut closed = Vec::new();
        for list in [&mut self.attends, &mut self.handoff_queues] {
            list.retain(|(queue, socket)| {
                let stays = !queues.contains(queue);
                if !stays {
                    closed.push((*queue, *socket));
                }
                stays
            });
        }
        for (_, socket) in &closed {
            if let Some(place) = self.holds.iter().position(|held| held == socket) {
                self.holds.swap_remove(place);
                context.kernel.close(*socket);
            }
        }
        let names: Vec<QueueId> = closed.into_iter().map(|(queue, _)| queue).collect();
        for names in names.chunks(MOST_DESCRIPTORS) {
            self.stage(FromProcess::Released(names.to_vec()));
        }
        names
    }
}
