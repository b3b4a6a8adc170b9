//! The simulated daemon: the pure fleet with a runtime around it, and everything that it talks to.
//!
//! [`World::turn`] is `Controller::tick`: what it reads, in which order, and what it does with the
//! actions, must be what `runtime.rs`, `queue_actions.rs` and `spawn.rs` do.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::coverage::{Coverage, Point};
use super::invariants::Watch;
use super::kernel::{Kernel, SocketId};
use super::manager::{Manager, StoredName};
use super::process::{Fate, FromProcess, Life, Process};
use super::random::Random;
use crate::controller::fleet::{Action, Event, Fleet};
use crate::controller::queues::{Kind, Queues};
use crate::controller::supervisor::{self, ADMIN, Plan, Supervisor};
use crate::exit::Exit;
use crate::ids::QueueId;
use crate::process::wait::Ending;

pub(super) use crate::process::channel::MOST_DESCRIPTORS;

/// How often heartbeats are looked at, as `controller::ROUND`.
const ROUND: Duration = Duration::from_secs(1);

/// A configuration.
#[derive(Clone, Debug)]
pub(super) struct Setup {
    pub(super) slots: u32,
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) handoff: bool,
    pub(super) admin: bool,
    /// A service manager keeps duplicates.
    pub(super) stores: bool,
    /// Sockets that were passed, with the names under which they were stored.
    pub(super) passed: Vec<(SocketAddr, Option<StoredName>)>,
    pub(super) worker_timeout: Option<Duration>,
    pub(super) graceful_timeout: Duration,
    pub(super) shutdown_delay: Duration,
    pub(super) drain_timeout: Duration,
}

impl Setup {
    pub(super) fn plan(&self) -> Plan {
        Plan {
            slots: self.slots,
            worker_timeout: self.worker_timeout,
            graceful_timeout: self.graceful_timeout,
            shutdown_delay: self.shutdown_delay,
            drain_timeout: self.drain_timeout,
            admin: self.admin,
        }
    }
}

/// A process as the controller knows it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Child {
    pub(super) slot: u32,
    pub(super) handoff: bool,
    /// The last heartbeat that was told.
    pub(super) told: Option<Instant>,
    /// When it got ready.
    pub(super) ready: Option<Instant>,
    /// It was told to go, or has said that it goes.
    pub(super) leaving: bool,
}

/// Signals that have arrived; equal ones merge.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Signals {
    pub(super) stop: bool,
    pub(super) more: bool,
    pub(super) fewer: bool,
    pub(super) reload: bool,
}

/// Where a reload stands, as `reload::Reload`.
#[derive(Clone, Debug, Default)]
pub(super) struct Reload {
    /// The configuration on the disk.
    pub(super) next: Option<Setup>,
    pub(super) wanted: bool,
    /// When the check ends.
    pub(super) check: Option<Instant>,
}

/// What goes wrong from now on.
#[derive(Debug, Default)]
pub(super) struct Faults {
    /// So many forks fail.
    pub(super) forks: u32,
    /// What becomes of the next processes.
    pub(super) fates: Vec<Fate>,
    /// What becomes of all processes of a slot, until then.
    pub(super) slot: Option<(u32, Fate, Instant)>,
}

/// Everything.
pub(super) struct World {
    pub(super) start: Instant,
    pub(super) now: Instant,
    pub(super) random: Random,
    pub(super) kernel: Kernel,
    pub(super) processes: Vec<Process>,
    /// Deaths that are due.
    pub(super) doomed: Vec<(Pid, Instant, Ending)>,
    pub(super) manager: Manager,
    pub(super) setup: Setup,
    pub(super) faults: Faults,
    pub(super) calm: bool,
    // The controller.
    pub(super) fleet: Fleet,
    pub(super) actions: Vec<Action>,
    pub(super) children: BTreeMap<Pid, Child>,
    pub(super) listening: BTreeMap<QueueId, SocketId>,
    pub(super) handoff: BTreeMap<QueueId, (u32, SocketId)>,
    pub(super) attached: BTreeMap<SocketAddr, Option<Vec<u16>>>,
    pub(super) listed: Vec<u32>,
    pub(super) closing: bool,
    pub(super) signals: Signals,
    pub(super) reload: Reload,
    /// Endings of processes that are none of ours.
    pub(super) strangers: Vec<(Pid, Ending)>,
    /// When something has arrived for the controller.
    pub(super) wake: Option<Instant>,
    /// When it has turned last, and when the fleet wants to hear of it again.
    pub(super) turned: Instant,
    pub(super) deadline: Option<Instant>,
    /// It does not run before.
    pub(super) suspended: Option<Instant>,
    pub(super) exited: Option<Exit>,
    // The judge.
    pub(super) watch: Watch,
    pub(super) coverage: Coverage,
    pub(super) failure: Option<(&'static str, String)>,
    pub(super) trace: Option<Vec<String>>,
}

impl World {
    /// A daemon that has just been started.
    pub(super) fn new(setup: Setup, seed: u64, traced: bool) -> Self {
        let now = Instant::now();
        let mut queues = Queues::new(setup.stores);
        queues.want(setup.addresses.clone(), setup.handoff);
        let supervisor = Supervisor::new(setup.plan(), seed, now);
        let mut world = Self {
            start: now,
            now,
            random: Random::new(seed),
            kernel: Kernel::default(),
            processes: Vec::new(),
            doomed: Vec::new(),
            manager: Manager::default(),
            faults: Faults::default(),
            calm: false,
            fleet: Fleet { supervisor, queues },
            actions: Vec::new(),
            children: BTreeMap::new(),
            listening: BTreeMap::new(),
            handoff: BTreeMap::new(),
            attached: BTreeMap::new(),
            listed: Vec::new(),
            closing: false,
            signals: Signals::default(),
            reload: Reload::default(),
            strangers: Vec::new(),
            wake: Some(now),
            turned: now,
            deadline: None,
            suspended: None,
            exited: None,
            watch: Watch::new(now),
            coverage: Coverage::default(),
            failure: None,
            trace: traced.then(Vec::new),
            setup,
        };
        world.adopt();
        world
    }

    /// Takes the sockets that were passed, as `activation::adopt`.
    fn adopt(&mut self) {
        if self.setup.passed.len() > MOST_DESCRIPTORS {
            self.coverage.hit(Point::ManyPassed);
        }
        for (address, name) in self.setup.passed.clone() {
            let socket = self.kernel.open(Some(address));
            self.kernel.listen(socket);
            match name {
                // The unit keeps its own descriptor.
                None => self.watch.foreign.push(self.kernel.duplicate(socket)),
                Some(name) => {
                    let kept = self.kernel.duplicate(socket);
                    self.manager.store.push((name, kept));
                }
            }
            let queues = &mut self.fleet.queues;
            let id = queues.reserve();
            queues.add(id, Kind::External(address), name.map_or(0, |(slot, _)| slot), None);
            if let Some((_, number)) = name {
                queues.stored(id, number);
            }
            self.listening.insert(id, socket);
        }
    }

    /// Notes a fault; the first one counts.
    pub(super) fn fail(&mut self, invariant: &'static str, detail: impl FnOnce() -> String) {
        if self.failure.is_none() {
            let detail = detail();
            self.note(|| format!("FAILED {invariant}: {detail}"));
            self.failure = Some((invariant, detail));
        }
    }

    /// Writes a line of the trace.
    pub(super) fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            let at = self.now - self.start;
            trace.push(format!("{:>11.6}  {}", at.as_secs_f64(), line()));
        }
    }

    /// An instant as the trace has it.
    pub(super) fn at(&self, instant: Instant) -> String {
        let at = instant.saturating_duration_since(self.start);
        format!("{:.6}", at.as_secs_f64())
    }

    /// Something has arrived for the controller.
    pub(super) fn rouse(&mut self) {
        let latency = Duration::from_micros(self.random.between(10, 1500));
        let at = self.now + latency;
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }

    /// When the controller turns next.
    pub(super) fn controller_due(&self) -> Instant {
        let round = self.setup.worker_timeout.map_or(ROUND, |limit| ROUND.min(limit / 3));
        let due = [self.wake, self.deadline, self.reload.check];
        let due = due.into_iter().flatten().chain([self.turned + round]).min();
        let due = due.unwrap_or(self.turned).max(self.turned);
        self.suspended.map_or(due, |until| until.max(due))
    }

    /// One turn of the controller, as `Controller::tick`.
    pub(super) fn turn(&mut self) {
        if self.now - self.turned > Duration::from_secs(3) {
            self.coverage.hit(Point::OwnSilence);
        }
        (self.wake, self.suspended, self.turned) = (None, None, self.now);
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
            self.tell(Event::Unstored(queue, number));
        }
        self.look_at_heartbeats();
        self.tell(supervisor::Event::Tick);
        self.act();
        if self.exited.is_none() {
            let reloaded = self.advance_reload();
            self.deadline = self.fleet.deadline();
            // The next image begins with a turn of its own.
            if !reloaded {
                self.check_turn();
            }
        }
    }

    /// Tells the fleet of an event.
    pub(super) fn tell(&mut self, event: impl Into<Event>) {
        let event = event.into();
        self.coverage.event(&event);
        let regular =
            matches!(event, Event::Process(supervisor::Event::Tick | supervisor::Event::Beat(..)));
        if self.trace.is_some() && !regular {
            let text = format!("  event  {event:?}");
            self.note(|| text);
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
        if signals.more {
            self.tell(supervisor::Event::More);
        }
        if signals.fewer {
            self.tell(supervisor::Event::Fewer);
        }
        if signals.stop {
            self.tell(supervisor::Event::Stop);
        }
    }

    /// Reads what a process has to say, as `Controller::on_channel`.
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
                FromProcess::Retiring => self.tell(supervisor::Event::Retiring(pid)),
                FromProcess::Draining => self.tell(supervisor::Event::Draining(pid)),
                FromProcess::Failed => {}
                FromProcess::Attending(queues) => self.tell(Event::Attending(pid, queues)),
                FromProcess::Refused(queues) => self.tell(Event::Refused(pid, queues)),
                FromProcess::Released(queues) => self.tell(Event::Released(pid, queues)),
            }
        }
    }

    /// As `Controller::on_ready`; `false` if the process was killed for it.
    fn on_ready(&mut self, pid: Pid, slot: u32, opened: Vec<(QueueId, SocketId)>) -> bool {
        if slot == ADMIN {
            self.tell(supervisor::Event::Ready(pid));
            return true;
        }
        let wanted = self.fleet.supervisor.is_in_slot(pid) && !self.closing;
        for (index, (id, socket)) in opened.iter().copied().enumerate() {
            if !wanted {
                self.kernel.close(socket);
                continue;
            }
            // Another socket on the address that does not share it, say.
            if !self.calm && self.random.chance(1) && self.random.chance(30) {
                let rest = &opened[index..];
                rest.iter().for_each(|(_, socket)| self.kernel.close(*socket));
                self.send_signal(pid, Signal::SIGKILL);
                return false;
            }
            if let Some(former) = self.listening.insert(id, socket) {
                // The same message once more.
                self.kernel.close(former);
            }
            self.kernel.listen(socket);
            if let Some(address) = self.kernel.sockets[socket].address {
                self.tell(Event::Opened(pid, id, Kind::Accept(address), slot));
            }
        }
        self.tell(supervisor::Event::Ready(pid));
        true
    }

    /// Reaps the dead in any order, as `Controller::on_ending`.
    fn reap(&mut self) {
        for (pid, ending) in std::mem::take(&mut self.strangers) {
            if !self.children.contains_key(&pid) {
                self.tell(supervisor::Event::Exited(pid, ending));
            }
        }
        loop {
            let zombies = self.processes.iter().enumerate().filter_map(|(index, process)| {
                let Life::Zombie(ending) = process.life else { return None };
                Some((index, process.pid, ending))
            });
            let zombies: Vec<_> = zombies.collect();
            if zombies.is_empty() {
                return;
            }
            let (_, pid, ending) = zombies[self.random.index(zombies.len())];
            self.on_channel(pid);
            self.watch_end(pid, ending);
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
            self.tell(supervisor::Event::Exited(pid, ending));
        }
    }

    fn look_at_heartbeats(&mut self) {
        for index in 0..self.processes.len() {
            let process = &self.processes[index];
            let (pid, beat) = (process.pid, process.beat);
            let Some(child) = self.children.get_mut(&pid) else { continue };
            // The same stamp once more changes nothing.
            if beat.is_some() && beat != child.told {
                child.told = beat;
                beat.into_iter().for_each(|at| self.tell(supervisor::Event::Beat(pid, at)));
            }
        }
    }

    pub(super) fn process_mut(&mut self, pid: Pid) -> Option<&mut Process> {
        self.processes.iter_mut().find(|process| process.pid == pid)
    }
}
