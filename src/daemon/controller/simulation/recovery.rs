//! The end of a simulation: faults stop, and the fleet must reach the state of a new one.

use std::collections::BTreeMap;
use std::time::Duration;

use super::coverage::Point;
use super::kernel::SocketId;
use super::process::{Fate, Life, Phase};
use super::world::World;
use crate::daemon::controller::queues::Kind;
use crate::daemon::ids::SlotId;
use crate::daemon::stats::Phase as DaemonPhase;
use crate::exit::Exit;

/// Time within which the fleet recovers, in addition to the longest drain.
const RECOVERED_WITHIN: Duration = Duration::from_secs(60);

impl World {
    /// Stops the faults, and waits until the fleet has recovered or the daemon has ended.
    pub(super) fn recover(&mut self) {
        self.log(|| "--- no more faults".into());
        self.calm = true;
        self.faults = super::world::Faults::default();
        (self.manager.failing, self.manager.losing) = (0, 0);
        let supervised = self.setup.worker_timeout.is_some();
        for index in 0..self.processes.len() {
            let stays = supervised && self.random.chance(30);
            let now = self.now;
            let Self { processes, random, .. } = self;
            let process = &mut processes[index];
            // A process that the controller replaces for it may remain stopped or hung.
            process.stopped &= stays && process.life == Life::Running;
            process.hung &= stays;
            (process.full, process.clogged, process.slow) = (false, false, Duration::ZERO);
            if matches!(process.fate, Fate::Ready(after) if after > Duration::from_secs(5)) {
                process.wake = process.wake.min(now + Duration::from_secs(5));
            }
            process.notify(now, random);
        }
        let bound = self.now + RECOVERED_WITHIN + self.setup.drain_timeout;
        let mut pace = Duration::from_millis(400);
        loop {
            let until = self.now + pace;
            self.advance(until);
            if self.failure.is_some() || self.exited.is_some() {
                return;
            }
            let Some(reason) = self.unrecovered() else { break };
            if self.now > bound && self.watch.draining.is_none() {
                return self.fail("everything recovers", || reason);
            }
            pace = (pace + pace / 4).min(Duration::from_secs(2));
        }
        self.coverage.hit(if self.is_passed() {
            Point::ExternalRecovered
        } else {
            Point::Recovered
        });
    }

    /// Stops the daemon and waits until it has ended.
    pub(super) fn end(&mut self) {
        self.log(|| "--- stop".into());
        self.signals.stop = true;
        self.wake_controller();
        while self.failure.is_none() && self.exited.is_none() {
            let until = self.now + Duration::from_secs(1);
            self.advance(until);
        }
        if self.failure.is_none() && self.exited != Some(Exit::Ok) {
            let exited = self.exited;
            self.fail("a daemon that is well ends well", || format!("{exited:?}"));
        }
    }

    /// Returns the reason why the fleet has not recovered, if any.
    fn unrecovered(&self) -> Option<String> {
        let supervisor = &self.fleet.supervisor;
        if self.watch.draining.is_some() {
            return Some("stopping".into());
        }
        if !supervisor.is_steady() || supervisor.phase(false) != DaemonPhase::Serving {
            return Some(format!("not steady: {:?}", supervisor.phase(false)));
        }
        if self.reload.wanted || self.reload.check.is_some() {
            return Some("a reload is under way".into());
        }
        let given_up = |slot: &SlotId| self.watch.refusals.contains(slot);
        let wanted = supervisor.wanted();
        let mut slots: Vec<SlotId> = SlotId::workers(wanted).collect();
        if self.setup.admin {
            slots.insert(0, SlotId::ADMIN);
        }
        let mut actual: Vec<SlotId> = self.processes.iter().map(|process| process.slot).collect();
        actual.sort_unstable();
        let gaps = slots.iter().any(|slot| !actual.contains(slot) && given_up(slot));
        slots.retain(|slot| actual.contains(slot) || !given_up(slot));
        if actual != slots {
            return Some(format!("slots {slots:?} have processes of {actual:?}"));
        }
        for process in self.processes.iter().filter(|process| process.slot != SlotId::ADMIN) {
            if process.life != Life::Running || process.phase != Phase::Serving {
                return Some(format!("{} is {:?} {:?}", process.pid, process.life, process.phase));
            }
        }
        let waiting = |(index, socket): (usize, &super::kernel::Socket)| {
            (!socket.waiting.is_empty() && socket.descriptors > 0).then_some(index)
        };
        if let Some(socket) = self.kernel.sockets.iter().enumerate().find_map(waiting) {
            return Some(format!("connections wait in socket {socket}"));
        }
        if gaps || self.watch.mixed {
            self.unrecovered_with_gaps()
        } else {
            self.unrecovered_queues()
        }
    }

    /// Checks that every queue is attended although some slots were abandoned.
    fn unrecovered_with_gaps(&self) -> Option<String> {
        let members = self.kernel.groups.values().flat_map(|group| &group.members);
        let unattended =
            |socket: &&SocketId| !self.processes.iter().any(|it| it.attends_socket(**socket));
        let unattended = members.copied().find(|socket| unattended(&socket))?;
        Some(format!("no process attends socket {unattended}"))
    }

    fn unrecovered_queues(&self) -> Option<String> {
        let wanted = self.fleet.supervisor.wanted();
        let mut addresses = self.setup.addresses.clone();
        addresses.sort_unstable();
        if !self.kernel.groups.keys().eq(addresses.iter()) {
            return Some(format!("groups of {:?}", self.kernel.groups.keys()));
        }
        let steered = self.kernel.groups.iter().find(|(_, group)| group.program.is_some());
        if let Some((address, group)) = steered {
            return Some(format!("{address} is steered to {:?}", group.program));
        }
        if !self.is_passed() {
            let queues = wanted as usize * addresses.len();
            if self.listening.len() != queues {
                return Some(format!("{} accept queues for {queues}", self.listening.len()));
            }
            let count = |address| self.kernel.groups[address].members.len();
            if let Some(address) = addresses.iter().find(|it| count(it) != wanted as usize) {
                return Some(format!("{address} has {} members", count(address)));
            }
        }
        let handoff = if self.setup.handoff { wanted as usize } else { 0 };
        if self.handoff.len() != handoff {
            return Some(format!("{} handoff queues for {handoff}", self.handoff.len()));
        }
        self.unrecovered_attendants().or_else(|| self.unrecovered_descriptors())
    }

    /// Checks that every worker attends one queue of each address and its handoff queue, and no
    /// others.
    fn unrecovered_attendants(&self) -> Option<String> {
        let handoff = usize::from(self.setup.handoff);
        let mut attendants: BTreeMap<SocketId, u32> = BTreeMap::new();
        for process in self.processes.iter().filter(|process| process.slot != SlotId::ADMIN) {
            let name = (process.pid, process.slot);
            for address in &self.setup.addresses {
                let of_address =
                    |socket: SocketId| self.kernel.sockets[socket].address == Some(*address);
                let count =
                    process.attends.iter().filter(|(_, socket)| of_address(*socket)).count();
                if count != 1 && !self.is_passed() {
                    return Some(format!("{name:?} attends {count} queues of {address}"));
                }
            }
            for (queue, socket) in process.attends.iter().chain(&process.handoff_queues) {
                *attendants.entry(*socket).or_default() += 1;
                let slot = self.fleet.queues.slot(*queue);
                let external = matches!(self.fleet.queues.kind(*queue), Some(Kind::External(_)));
                if slot != process.slot && !external {
                    return Some(format!("{name:?} attends queue {queue} of slot {slot}"));
                }
            }
            if process.handoff_queues.len() != handoff {
                return Some(format!(
                    "{name:?} attends handoff queues {:?}",
                    process.handoff_queues
                ));
            }
            if process.holds.len() != process.attends.len() + process.handoff_queues.len() {
                return Some(format!("{name:?} holds {:?}", process.holds));
            }
            let expected =
                self.fleet.queues.queues_for_slot(process.slot, self.fleet.supervisor.wanted());
            let mut actual: Vec<_> = process
                .attends
                .iter()
                .chain(&process.handoff_queues)
                .map(|(queue, _)| *queue)
                .collect();
            actual.sort_unstable();
            if expected != actual {
                return Some(format!("{name:?} attends {actual:?} and not {expected:?}"));
            }
        }
        let members = self.kernel.groups.values().flat_map(|group| &group.members);
        let unattended = members.copied().find(|socket| !attendants.contains_key(socket))?;
        Some(format!("no process attends socket {unattended}"))
    }

    /// Checks that every socket has as many descriptors as in a new fleet.
    fn unrecovered_descriptors(&self) -> Option<String> {
        let handoff = self.handoff.values().map(|(_, socket)| *socket);
        let held: Vec<SocketId> = self.listening.values().copied().chain(handoff).collect();
        for (socket, it) in
            self.kernel.sockets.iter().enumerate().filter(|(_, it)| it.descriptors > 0)
        {
            let of_processes = self.processes.iter().flat_map(|process| &process.holds);
            let of_processes = of_processes.filter(|other| **other == socket).count();
            let external = self.watch.external.iter().filter(|other| **other == socket).count();
            let stored = self.manager.store.iter().filter(|(_, other)| *other == socket).count();
            let own = held.iter().filter(|other| **other == socket).count();
            if own != 1 || it.descriptors as usize != own + of_processes + external + stored {
                return Some(format!(
                    "socket {socket} has {} descriptors: {own} of the controller, \
                     {of_processes} of processes, {stored} stored",
                    it.descriptors
                ));
            }
            let accepts = it.address.is_some() && external == 0;
            if accepts
                && stored != usize::from(self.setup.stores)
                && !self.watch.unkept
                && !self.manager.lost
            {
                return Some(format!("socket {socket} is stored {stored} times"));
            }
        }
        let known = self.fleet.queues.serialize();
        if known.queues.len() != held.len() || known.queues.iter().any(|it| !it.holders.is_empty())
        {
            return Some(format!("the owner of the queues has {:?}", known.queues));
        }
        None
    }
}
