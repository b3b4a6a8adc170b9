//! The controller's loop, as `Controller::tick`.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::coverage::Point;
use super::kernel::SocketId;
use super::message::FromProcess;
use super::process::Life;
use super::world::World;
use crate::daemon::controller::fleet::Event;
use crate::daemon::controller::queues::Kind;
use crate::daemon::controller::supervisor;
use crate::daemon::ids::{QueueId, SlotId};

/// Interval between checks of the heartbeats, as `controller::HEARTBEAT_CHECK`.
const HEARTBEAT_CHECK: Duration = Duration::from_secs(1);

impl World {
    /// Schedules an iteration of the controller's loop, because an event has arrived for it.
    pub(super) fn wake_controller(&mut self) {
        let latency = Duration::from_micros(self.random.between(10, 1500));
        let at = self.now + latency;
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }

    /// Returns the time of the controller's next loop iteration.
    pub(super) fn controller_due(&self) -> Instant {
        let interval = self
            .setup
            .worker_timeout
            .map_or(HEARTBEAT_CHECK, |limit| HEARTBEAT_CHECK.min(limit / 3));
        let due = [self.wake, self.deadline, self.reload.check];
        let due = due.into_iter().flatten().chain([self.last_tick + interval]).min();
        let due = due.unwrap_or(self.last_tick).max(self.last_tick);
        self.suspended.map_or(due, |until| until.max(due))
    }

    /// Runs one iteration of the controller's loop, as `Controller::tick`.
    pub(super) fn tick(&mut self) {
        if self.now - self.last_tick > Duration::from_secs(3) {
            self.coverage.hit(Point::OwnSilence);
        }
        (self.wake, self.suspended, self.last_tick) = (None, None, self.now);
        self.on_signals();
        let mut pids: Vec<Pid> = self.children.keys().copied().collect();
        if pids.len() > 1 {
            // Channels are ready in any order.
            let first = self.random.index(pids.len());
            pids.rotate_left(first);
        }
        pids.iter().for_each(|pid| self.on_channel(*pid));
        self.reap();
        for (queue, number) in self.manager.take_answers() {
            self.apply(Event::Unstored(queue, number));
        }
        self.read_heartbeats();
        self.apply(supervisor::Event::Tick);
        self.act();
        if self.exited.is_none() {
            let reloaded = self.advance_reload();
            self.deadline = self.fleet.deadline();
            // The new image begins with a separate iteration.
            if !reloaded {
                self.check_invariants();
            }
        }
    }

    /// Applies an event to the fleet.
    pub(super) fn apply(&mut self, event: impl Into<Event>) {
        let event = event.into();
        self.coverage.event(&event);
        let regular =
            matches!(event, Event::Process(supervisor::Event::Tick | supervisor::Event::Beat(..)));
        if self.trace.is_some() && !regular {
            let text = format!("  event  {event:?}");
            self.log(|| text);
        }
        let ended = match event {
            Event::Process(supervisor::Event::Exited(pid, _)) => Some(pid),
            _ => None,
        };
        self.watch_event(&event);
        self.fleet.apply(event, self.now, &mut self.actions);
        if let Some(pid) = ended {
            self.check_nothing_for(pid);
        }
    }

    pub(super) fn on_signals(&mut self) {
        let signals = std::mem::take(&mut self.signals);
        if signals.reload {
            self.reload.wanted = true;
        }
        if signals.add_worker {
            self.apply(supervisor::Event::AddWorker);
        }
        if signals.remove_worker {
            self.apply(supervisor::Event::RemoveWorker);
        }
        if signals.stop {
            self.apply(supervisor::Event::Stop);
        }
    }

    /// Reads the messages of a process, as `Controller::on_channel`.
    fn on_channel(&mut self, pid: Pid) {
        while let Some(slot) = self.children.get(&pid).map(|child| child.slot) {
            let Some(process) = self.process_mut(pid) else { return };
            let Some(message) = process.to_controller.pop_front() else { return };
            match message {
                FromProcess::Ready(opened) => {
                    if !self.on_ready(pid, slot, opened) {
                        return;
                    }
                }
                FromProcess::Retiring => self.apply(supervisor::Event::Retiring(pid)),
                FromProcess::Draining => self.apply(supervisor::Event::Draining(pid)),
                FromProcess::Failed => {}
                FromProcess::Attending(queues) => self.apply(Event::Attending(pid, queues)),
                FromProcess::Refused(queues) => self.apply(Event::Refused(pid, queues)),
                FromProcess::Released(queues) => self.apply(Event::Released(pid, queues)),
            }
        }
    }

    /// Registers the sockets of a ready process, as `Controller::on_ready`. Returns `false` if the
    /// process was killed because a socket was rejected.
    fn on_ready(&mut self, pid: Pid, slot: SlotId, opened: Vec<(QueueId, SocketId)>) -> bool {
        if slot == SlotId::ADMIN {
            self.apply(supervisor::Event::Ready(pid));
            return true;
        }
        let wanted = self.fleet.supervisor.is_in_slot(pid) && !self.closing;
        for (index, (id, socket)) in opened.iter().copied().enumerate() {
            if !wanted {
                self.kernel.close(socket);
                continue;
            }
            // For example, another socket is bound to the address without sharing it.
            if !self.calm && self.random.chance(1) && self.random.chance(30) {
                let rest = &opened[index..];
                rest.iter().for_each(|(_, socket)| self.kernel.close(*socket));
                self.send_signal(pid, Signal::SIGKILL);
                return false;
            }
            if let Some(previous) = self.listening.insert(id, socket) {
                // The message was repeated.
                self.kernel.close(previous);
            }
            self.kernel.listen(socket);
            if let Some(address) = self.kernel.sockets[socket].address {
                self.apply(Event::Opened(pid, id, Kind::Accept(address), slot));
            }
        }
        self.apply(supervisor::Event::Ready(pid));
        true
    }

    /// Reaps ended processes in random order, as `Controller::on_exit`.
    fn reap(&mut self) {
        for (pid, status) in std::mem::take(&mut self.unknown_exits) {
            if !self.children.contains_key(&pid) {
                self.apply(supervisor::Event::Exited(pid, status));
            }
        }
        loop {
            let zombies = self.processes.iter().enumerate().filter_map(|(index, process)| {
                let Life::Zombie(status) = process.life else { return None };
                Some((index, process.pid, status))
            });
            let zombies: Vec<_> = zombies.collect();
            if zombies.is_empty() {
                return;
            }
            let (_, pid, status) = zombies[self.random.index(zombies.len())];
            self.on_channel(pid);
            self.watch_end(pid, status);
            self.children.remove(&pid);
            let Some(index) = self.processes.iter().position(|process| process.pid == pid) else {
                continue;
            };
            let process = self.processes.swap_remove(index);
            for message in process.to_controller {
                if let FromProcess::Ready(opened) = message {
                    opened.into_iter().for_each(|(_, socket)| self.kernel.close(socket));
                }
            }
            self.watch.freed.push(pid);
            self.apply(supervisor::Event::Exited(pid, status));
        }
    }

    fn read_heartbeats(&mut self) {
        for index in 0..self.processes.len() {
            let process = &self.processes[index];
            let (pid, beat) = (process.pid, process.beat);
            let Some(child) = self.children.get_mut(&pid) else { continue };
            // A heartbeat is reported once.
            if beat.is_some() && beat != child.last_beat {
                child.last_beat = beat;
                beat.into_iter().for_each(|at| self.apply(supervisor::Event::Beat(pid, at)));
            }
        }
    }
}
