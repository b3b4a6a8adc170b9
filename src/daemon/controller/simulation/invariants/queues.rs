//! Invariants of accept queues: positions in a group, steering, and attendance.

use std::time::{Duration, Instant};

use nix::unistd::Pid;

use super::super::coverage::Point;
use super::super::kernel::SocketId;
use super::super::process::Life;
use super::super::world::World;
use crate::daemon::controller::queues::Kind;
use crate::daemon::ids::SlotId;

/// Time within which every queue has a responsive attendant, if any worker is responsive. It covers
/// the detection of a hung worker and grants that other workers do not answer.
const ATTENDED_WITHIN: Duration = Duration::from_secs(8);

impl World {
    /// Checks that the controller knows the position of each socket in its group.
    pub(super) fn check_groups(&mut self) {
        if self.watch.moves == self.kernel.moves || self.fleet.supervisor.is_draining() {
            return;
        }
        self.watch.moves = self.kernel.moves;
        self.coverage.hit(Point::GroupMoved);
        let known = self.fleet.queues.serialize();
        let mut fault = None;
        for (address, group) in &self.kernel.groups {
            let of_address =
                known.queues.iter().filter(|queue| queue.kind == Kind::Accept(*address));
            let known: Vec<_> = of_address.map(|queue| self.listening.get(&queue.id)).collect();
            let actual: Vec<_> = group.members.iter().map(Some).collect();
            if known != actual && !self.is_external(*address) {
                fault = Some(format!("{address}: {known:?} is {actual:?}"));
            }
        }
        if let Some(fault) = fault {
            self.fail("the positions in a group are known", || fault);
        }
    }

    fn is_external(&self, address: std::net::SocketAddr) -> bool {
        self.setup.passed.iter().any(|(passed, _)| *passed == address)
    }

    /// Checks that steering programs name only positions that exist and are attended.
    pub(super) fn check_steering(&mut self) {
        if self.fleet.supervisor.is_draining() {
            return;
        }
        let mut fault = None;
        for (address, group) in &self.kernel.groups {
            let Some(positions) = &group.program else { continue };
            if !self.setup.addresses.contains(address) {
                continue;
            }
            let healthy = self.fleet.supervisor.healthy_workers();
            let healthy: Vec<Pid> = healthy.into_iter().map(|(_, pid)| pid).collect();
            let member = |position: &u16| group.members.get(usize::from(*position)).copied();
            if let Some(position) = positions.iter().find(|position| member(position).is_none()) {
                fault = Some(format!("{address}: no position {position}"));
            }
            let named: Vec<SocketId> = positions.iter().filter_map(member).collect();
            // The only queues of an address stay in use.
            let replaced = group.members.iter().any(|socket| !self.is_surplus(*socket));
            if let Some(socket) = named.iter().find(|it| replaced && self.is_surplus(**it)) {
                fault = Some(format!("{address}: socket {socket} is of no slot that is wanted"));
            }
            let attended = |socket: &SocketId| self.is_attended(*socket);
            // If no healthy worker accepts, the program names all remaining queues.
            let any = self.processes.iter().any(|process| {
                healthy.contains(&process.pid)
                    && named.iter().any(|socket| process.attends_socket(*socket))
            });
            let unattended = named.iter().find(|socket| any && !attended(socket));
            if let Some(socket) = unattended.filter(|_| self.is_any_known(&named, &healthy)) {
                fault = Some(format!("{address}: socket {socket} is not attended"));
            }
        }
        if let Some(fault) = fault {
            self.fail("steering names positions that are attended", || fault);
        }
    }

    /// Returns `true` if the controller knows that a healthy worker attends one of these sockets.
    fn is_any_known(&self, sockets: &[SocketId], healthy: &[Pid]) -> bool {
        self.fleet.queues.serialize().queues.iter().any(|queue| {
            let socket = self.listening.get(&queue.id);
            let known = |pid: &i32| healthy.contains(&Pid::from_raw(*pid));
            socket.is_some_and(|it| sockets.contains(it)) && queue.attendants.iter().any(known)
        })
    }

    /// Returns `true` if a socket belongs to a slot that is no longer wanted.
    fn is_surplus(&self, socket: SocketId) -> bool {
        let mut queues = self.listening.iter();
        let queue = queues.find(|(_, other)| **other == socket).map(|(queue, _)| *queue);
        queue.is_some_and(|it| self.fleet.queues.slot(it).0 > self.fleet.supervisor.wanted())
    }

    /// Returns `true` if a process attends a socket as far as the controller can know. The
    /// controller learns of an exit or a release only after the process was reaped or its message
    /// was read.
    fn is_attended(&self, socket: SocketId) -> bool {
        self.processes.iter().any(|process| {
            let silent = process.staged.is_empty() && process.to_controller.is_empty();
            process.attends_socket(socket) || !silent || !process.is_alive()
        })
    }

    /// Checks that every socket that receives new connections is attended within
    /// [`ATTENDED_WITHIN`].
    pub(super) fn check_attendance(&mut self) {
        let now = self.now;
        let supervisor = &self.fleet.supervisor;
        if supervisor.is_draining() || supervisor.is_starting() {
            return;
        }
        for process in &self.processes {
            let Some(child) = self.children.get_mut(&process.pid) else { continue };
            let serves = child.slot != SlotId::ADMIN && child.ready.is_some() && !child.leaving;
            let able = process.can_run() && !process.full && !process.clogged;
            let fit = serves && able && process.slow.is_zero() && process.life == Life::Running;
            child.fit = fit.then(|| child.fit.unwrap_or(now));
        }
        let long = |since: Instant| since + ATTENDED_WITHIN < now;
        let someone = self.children.values().any(|child| child.fit.is_some_and(long));
        let mut choosable = Vec::new();
        for (address, group) in &self.kernel.groups {
            if !self.setup.addresses.contains(address) {
                continue;
            }
            match &group.program {
                Some(positions) => {
                    let member = |it: &u16| group.members.get(usize::from(*it)).copied();
                    choosable.extend(positions.iter().filter_map(member));
                }
                None => choosable.extend(group.members.iter().copied()),
            }
        }
        self.watch.unattended.retain(|socket, _| choosable.contains(socket));
        let mut fault = None;
        for socket in choosable {
            let mut fit = self.processes.iter().filter(|process| process.can_run());
            if fit.any(|process| process.attends_socket(socket)) {
                self.watch.unattended.remove(&socket);
                continue;
            }
            let since = *self.watch.unattended.entry(socket).or_insert(now);
            if someone && since.max(self.watch.slept) + ATTENDED_WITHIN < now {
                fault = Some((socket, since));
            }
        }
        if let Some((socket, since)) = fault {
            let since = self.at(since);
            self.fail("every queue is attended soon", || format!("socket {socket} since {since}"));
        }
    }
}
