//! Actions of the fleet, carried out as in `runtime.rs`, `sockets/queue_effects.rs`, and
//! `children/spawn.rs`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::coverage::Point;
use super::manager::Datagram;
use super::message::ToProcess;
use super::process::{Fate, ForkParameters, Life, Process, Settings};
use super::world::{Child, MOST_DESCRIPTORS, World};
use crate::daemon::controller::fleet::{Action, Event};
use crate::daemon::controller::queues::{self, Kind};
use crate::daemon::controller::supervisor::{self, ADMIN_DRAIN_TIMEOUT};
use crate::daemon::ids::{QueueId, SlotId};
use crate::sys::wait::ExitStatus;

/// Smallest pid. The smallest free pid is always used next, so pids are reused soon.
const FIRST_PID: i32 = 100;

impl World {
    /// Carries out the pending actions and those that follow from them.
    pub(super) fn act(&mut self) {
        while !self.actions.is_empty() {
            for action in std::mem::take(&mut self.actions) {
                self.coverage.action(&action);
                if self.trace.is_some() {
                    let text = format!("  action {action:?}");
                    self.log(|| text);
                }
                self.watch_action(&action);
                match action {
                    Action::Process(supervisor::Action::Exit(exit)) => return self.exit(exit),
                    Action::Process(action) => self.act_on_process(action),
                    Action::Queue(action) => self.act_on_queue(action),
                }
                if self.failure.is_some() {
                    return;
                }
            }
        }
        self.steer();
        self.publish_health_table();
    }

    fn act_on_process(&mut self, action: supervisor::Action) {
        match action {
            supervisor::Action::Spawn(slot) => self.spawn(slot),
            supervisor::Action::Signal(pid, signal) => self.send_signal(pid, signal),
            supervisor::Action::Kill(pid, _) => self.send_signal(pid, Signal::SIGKILL),
            supervisor::Action::Retire(pid) => {
                let admin =
                    self.children.get(&pid).is_some_and(|child| child.slot == SlotId::ADMIN);
                let drain = if admin { ADMIN_DRAIN_TIMEOUT } else { self.setup.drain_timeout };
                let _ = self.send(pid, ToProcess::Retire { drain });
            }
            supervisor::Action::CloseAddresses => {
                self.publish_health_table();
                self.closing = true;
            }
            supervisor::Action::CountRestart(..)
            | supervisor::Action::FinishStartup
            | supervisor::Action::CountReload(_)
            | supervisor::Action::Log(_)
            | supervisor::Action::Exit(_) => {}
        }
    }

    /// Forks the process of a slot, as `Controller::try_spawn`.
    fn spawn(&mut self, slot: SlotId) {
        if !self.fleet.supervisor.is_forking(slot) {
            return;
        }
        self.watch_spawn(slot);
        let admin = slot == SlotId::ADMIN;
        if !admin && self.setup.handoff && self.fleet.queues.handoff_of(slot).is_none() {
            self.open_handoff(slot);
        }
        let inherited = self.fleet.queues_for_slot(slot);
        let missing = if admin { Vec::new() } else { self.missing(&inherited) };
        if self.faults.forks > 0 {
            self.faults.forks -= 1;
            return self.apply(supervisor::Event::NotSpawned(slot));
        }
        let pid = self.free_pid();
        let (mut accept, mut handoff) = (Vec::new(), Vec::new());
        for id in inherited {
            accept.extend(self.listening.get(&id).map(|socket| (id, *socket)));
            handoff.extend(self.handoff.get(&id).map(|(_, socket)| (id, *socket)));
        }
        let fate = self.fate(slot);
        let receivers = self.handoff.values().map(|(_, socket)| *socket);
        let siblings = self.handoff.values().copied().collect();
        let beat = self
            .setup
            .worker_timeout
            .map_or(1000, |limit| (limit.as_millis() as u64 / 3).min(1000));
        let settings = Settings {
            heartbeat: Duration::from_millis(beat),
            graceful: self.setup.graceful_timeout,
            drain: self.setup.drain_timeout,
        };
        let parameters = ForkParameters {
            pid,
            slot,
            fate,
            settings,
            everything: self.listening.values().copied().chain(receivers).collect(),
            inherited: (accept, handoff),
            missing,
            siblings,
        };
        let wake = self.now + Duration::from_micros(self.random.between(100, 4000));
        let process = Process::fork(parameters, wake, &mut self.kernel);
        self.processes.push(process);
        let handoff = self.fleet.queues.handoff_of(slot).is_some();
        let child =
            Child { slot, handoff, last_beat: None, ready: None, leaving: false, fit: None };
        if self.children.insert(pid, child).is_some() {
            self.fail("a pid names one process", || format!("{pid} was forked twice"));
        }
        self.apply(supervisor::Event::Spawned(slot, pid));
    }

    fn open_handoff(&mut self, slot: SlotId) {
        let id = self.fleet.queues.reserve();
        let socket = self.kernel.open(None);
        self.handoff.insert(id, (slot, socket));
        self.fleet.queues.add(id, Kind::Handoff, slot, None);
        let workers = self.children.iter().filter(|(_, child)| child.slot != SlotId::ADMIN);
        for pid in workers.map(|(pid, _)| *pid).collect::<Vec<_>>() {
            let _ = self.send(pid, ToProcess::Sibling(slot, socket));
        }
    }

    /// Reserves queues for the addresses without an inherited queue, as `Controller::missing`.
    fn missing(&mut self, inherited: &[QueueId]) -> Vec<(QueueId, std::net::SocketAddr)> {
        let queues = &mut self.fleet.queues;
        let bound = inherited.iter().filter_map(|id| match queues.kind(*id)? {
            Kind::Accept(address) | Kind::External(address) => Some(address),
            Kind::Handoff => None,
        });
        let bound: Vec<_> = bound.collect();
        let missing = self.setup.addresses.iter().filter(|address| !bound.contains(address));
        missing.map(|address| (queues.reserve(), *address)).collect()
    }

    /// Returns the smallest free pid.
    fn free_pid(&mut self) -> Pid {
        let used = |raw: i32| self.processes.iter().any(|process| process.pid.as_raw() == raw);
        let pid = Pid::from_raw((FIRST_PID..).find(|raw| !used(*raw)).unwrap_or(FIRST_PID));
        if self.watch.freed.contains(&pid) {
            self.coverage.hit(Point::PidReused);
        }
        pid
    }

    fn fate(&mut self, slot: SlotId) -> Fate {
        match self.faults.slot {
            Some((one, fate, until)) if one == slot && self.now < until => return fate,
            _ => {}
        }
        let ready = Fate::Ready(Duration::from_micros(self.random.between(300, 6000)));
        self.faults.fates.pop().unwrap_or(ready)
    }

    /// Sends a signal from the controller.
    pub(super) fn send_signal(&mut self, pid: Pid, signal: Signal) {
        if !self.children.contains_key(&pid) {
            return self
                .fail("signals go to processes that are there", || format!("{pid} {signal}"));
        }
        self.deliver(pid, signal);
    }

    /// Delivers a signal to a process.
    pub(super) fn deliver(&mut self, pid: Pid, signal: Signal) {
        let (now, calm) = (self.now, self.calm);
        let Self { processes, random, kernel, doomed, .. } = self;
        let Some(process) = processes.iter_mut().find(|process| process.pid == pid) else { return };
        match signal {
            Signal::SIGKILL | Signal::SIGSEGV => {
                let status = ExitStatus::Signal(signal as i32);
                // A process may end late, for example while a page is read.
                if !calm && random.chance(10) {
                    doomed.push((pid, now + Duration::from_millis(random.between(1, 400)), status));
                } else {
                    process.die(status, kernel);
                }
            }
            // Signals are blocked until a process is ready.
            Signal::SIGABRT if process.life == Life::Running && !process.stopped => {
                process.die(ExitStatus::Signal(6), kernel);
            }
            Signal::SIGABRT => process.abort = true,
            _ => {
                process.term = true;
                process.notify(now, random);
            }
        }
        if !process.is_alive() {
            self.wake_controller();
        }
    }

    /// Sends a message; returns `true` on success.
    fn send(&mut self, pid: Pid, message: ToProcess) -> bool {
        if !self.children.contains_key(&pid) {
            self.fail("messages go to processes that are there", || format!("{pid} {message:?}"));
            return false;
        }
        let Self { processes, random, kernel, now, .. } = self;
        let Some(process) = processes.iter_mut().find(|process| process.pid == pid) else {
            return false;
        };
        if !process.is_alive() || process.clogged {
            return false;
        }
        for socket in message.sockets() {
            kernel.duplicate(socket);
        }
        process.from_controller.push_back(message);
        process.notify(*now, random);
        true
    }

    fn act_on_queue(&mut self, action: queues::Action) {
        match action {
            queues::Action::Grant(pid, queues) => self.grant(pid, &queues),
            queues::Action::Release(pid, queues) => {
                for queues in queues.chunks(MOST_DESCRIPTORS) {
                    self.send_about(pid, queues, ToProcess::Release(queues.to_vec()));
                }
            }
            queues::Action::Close { queue, .. } if !self.fleet.queues.is_to_be_closed(queue) => {}
            queues::Action::Close { queue, force } => {
                if !force && self.is_waiting(queue) {
                    return self.apply(Event::NotEmpty(queue));
                }
                self.check_close(queue);
                let listening = self.listening.remove(&queue);
                let handoff = self.handoff.remove(&queue).map(|(_, socket)| socket);
                for socket in listening.into_iter().chain(handoff) {
                    self.kernel.close(socket);
                }
                self.apply(Event::Closed(queue));
            }
            queues::Action::Store(queue) => self.store(queue),
            queues::Action::Unstore(queue) => self.unstore(queue),
        }
    }

    fn is_waiting(&self, queue: QueueId) -> bool {
        let handoff = self.handoff.get(&queue).map(|(_, socket)| socket);
        let socket = self.listening.get(&queue).or(handoff);
        socket.is_some_and(|socket| !self.kernel.sockets[*socket].waiting.is_empty())
    }

    /// Grants queues to a worker, as `Controller::grant`.
    fn grant(&mut self, pid: Pid, queues: &[QueueId]) {
        let mut by_slot: BTreeMap<SlotId, Vec<QueueId>> = BTreeMap::new();
        for &queue in queues {
            match (self.fleet.queues.kind(queue), self.handoff.get(&queue)) {
                (Some(Kind::Handoff), Some(&(_, socket))) => {
                    self.send_about(pid, &[queue], ToProcess::GrantHandoff(queue, socket));
                }
                _ => by_slot.entry(self.fleet.queues.slot(queue)).or_default().push(queue),
            }
        }
        for queues in by_slot.into_values() {
            for queues in queues.chunks(MOST_DESCRIPTORS) {
                let socket = |queue: &QueueId| Some((*queue, *self.listening.get(queue)?));
                match queues.iter().map(socket).collect::<Option<Vec<_>>>() {
                    Some(sockets) => self.send_about(pid, queues, ToProcess::Grant(sockets)),
                    None => self.fail("what is granted is there", || format!("{queues:?}")),
                }
            }
        }
    }

    fn send_about(&mut self, pid: Pid, queues: &[QueueId], message: ToProcess) {
        if !self.send(pid, message) {
            self.apply(Event::Unsent(pid, queues.to_vec()));
        }
    }

    fn manager_due(&mut self) -> Instant {
        self.now + Duration::from_micros(self.random.between(50, 3000))
    }

    fn store(&mut self, queue: QueueId) {
        let name = self.fleet.queues.stored_number(queue);
        let due = self.manager_due();
        let sent = match self.listening.get(&queue) {
            Some(socket) => {
                let datagram = Datagram::Store(name, *socket);
                self.manager.send(datagram, due, &mut self.kernel)
            }
            None => false,
        };
        self.apply(Event::Stored(queue, sent.then_some(name.1)));
    }

    fn unstore(&mut self, queue: QueueId) {
        let Some(name) = self.fleet.queues.removed_number(queue) else { return };
        let due = self.manager_due();
        if !self.setup.stores {
            return self.apply(Event::Unstored(queue, name.1));
        }
        self.manager.barriers.retain(|((other, _), _)| *other != queue);
        if self.manager.send(Datagram::Remove(name), due, &mut self.kernel) {
            self.manager.send_barrier((queue, name.1), due, &mut self.kernel);
        }
    }

    fn publish_health_table(&mut self) {
        if self.handoff.is_empty() {
            return;
        }
        self.listed.clear();
        if self.setup.handoff && !self.fleet.supervisor.is_draining() {
            for (slot, pid) in self.fleet.supervisor.healthy_workers() {
                if self.children.get(&pid).is_some_and(|child| child.handoff) {
                    self.listed.push(slot);
                }
            }
        }
    }

    /// Attaches changed steering programs, as `Controller::steer`.
    fn steer(&mut self) {
        if self.fleet.supervisor.is_draining() {
            return;
        }
        let groups = self.fleet.queues.steering();
        let changed = groups.filter(|(address, _, to)| self.attached.get(address) != Some(to));
        for (address, member, wanted) in changed.collect::<Vec<_>>() {
            let Some(socket) = self.listening.get(&member).copied() else {
                return self.fail("a member that is there stands for its group", || {
                    format!("{address} {member}")
                });
            };
            self.log(|| format!("  steer  {address} {wanted:?}"));
            let known = self.attached.get(&address).is_some_and(Option::is_some);
            match &wanted {
                Some(_) => self.coverage.hit(Point::SteeredAway),
                None if known => self.coverage.hit(Point::SteeringEnded),
                None => {}
            }
            if !self.kernel.steer(socket, wanted.clone()) {
                return self.fail("only groups are steered", || format!("{address} {member}"));
            }
            self.attached.insert(address, wanted);
        }
    }
}
