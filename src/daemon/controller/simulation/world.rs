//! The simulated daemon: the fleet, its runtime, and the environment.
//!
//! `controller.rs` and `actions.rs` must read events and carry out actions as `runtime.rs`,
//! `sockets/queue_effects.rs`, and `children/spawn.rs` do.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Instant;

use nix::unistd::Pid;

use super::coverage::{Coverage, Point};
use super::history::History;
use super::kernel::{Kernel, SocketId};
use super::manager::Manager;
use super::process::{Fate, Process};
use super::random::Random;
use super::setup::Setup;
use crate::daemon::controller::fleet::{Action, Fleet};
use crate::daemon::controller::queues::{Kind, NO_SLOT, Queues};
use crate::daemon::controller::supervisor::Supervisor;
use crate::daemon::ids::{QueueId, SlotId};
use crate::exit::Exit;
use crate::sys::wait::ExitStatus;

pub(super) use crate::sys::channel::MOST_DESCRIPTORS;

/// Process as the controller knows it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Child {
    pub(super) slot: SlotId,
    pub(super) handoff: bool,
    /// Time of the last reported heartbeat.
    pub(super) last_beat: Option<Instant>,
    /// Time at which it became ready.
    pub(super) ready: Option<Instant>,
    /// `true` if it was asked to end, or has announced its end.
    pub(super) leaving: bool,
    /// Time since which it is a responsive worker, as of the last check.
    pub(super) fit: Option<Instant>,
}

/// Pending signals; equal signals merge.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Signals {
    pub(super) stop: bool,
    pub(super) add_worker: bool,
    pub(super) remove_worker: bool,
    pub(super) reload: bool,
}

/// State of a reload, as `reload::Reload`.
#[derive(Clone, Debug, Default)]
pub(super) struct Reload {
    /// Configuration on disk.
    pub(super) next: Option<Setup>,
    pub(super) wanted: bool,
    /// Time at which the configuration check ends.
    pub(super) check: Option<Instant>,
}

/// Faults of the next forks.
#[derive(Debug, Default)]
pub(super) struct Faults {
    /// Number of forks that fail.
    pub(super) forks: u32,
    /// Startup outcomes of the next processes.
    pub(super) fates: Vec<Fate>,
    /// Startup outcome of all processes of a slot until a time.
    pub(super) slot: Option<(SlotId, Fate, Instant)>,
}

/// State of a simulation.
pub(super) struct World {
    pub(super) start: Instant,
    pub(super) now: Instant,
    pub(super) random: Random,
    pub(super) kernel: Kernel,
    pub(super) processes: Vec<Process>,
    /// Processes that end at a time, with their exit status.
    pub(super) doomed: Vec<(Pid, Instant, ExitStatus)>,
    pub(super) manager: Manager,
    pub(super) setup: Setup,
    pub(super) faults: Faults,
    /// `true` once faults have stopped.
    pub(super) calm: bool,
    // The controller.
    pub(super) fleet: Fleet,
    pub(super) actions: Vec<Action>,
    pub(super) children: BTreeMap<Pid, Child>,
    pub(super) listening: BTreeMap<QueueId, SocketId>,
    pub(super) handoff: BTreeMap<QueueId, (SlotId, SocketId)>,
    pub(super) attached: BTreeMap<SocketAddr, Option<Vec<u16>>>,
    pub(super) listed: Vec<SlotId>,
    pub(super) closing: bool,
    pub(super) signals: Signals,
    pub(super) reload: Reload,
    /// Ended processes that the controller did not fork.
    pub(super) unknown_exits: Vec<(Pid, ExitStatus)>,
    /// Time at which the controller notices an event.
    pub(super) wake: Option<Instant>,
    /// Time of the controller's last loop iteration.
    pub(super) last_tick: Instant,
    /// Next deadline of the fleet.
    pub(super) deadline: Option<Instant>,
    /// Time until which the controller does not run.
    pub(super) suspended: Option<Instant>,
    pub(super) exited: Option<Exit>,
    // The checks.
    pub(super) watch: History,
    pub(super) coverage: Coverage,
    pub(super) failure: Option<(&'static str, String)>,
    pub(super) trace: Option<Vec<String>>,
}

impl World {
    /// Returns a daemon that has just started.
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
            unknown_exits: Vec::new(),
            wake: Some(now),
            last_tick: now,
            deadline: None,
            suspended: None,
            exited: None,
            watch: History::new(now),
            coverage: Coverage::default(),
            failure: None,
            trace: traced.then(Vec::new),
            setup,
        };
        world.adopt();
        world
    }

    /// Adopts the passed sockets, as `socket_activation::adopt`.
    fn adopt(&mut self) {
        if self.setup.passed.len() > MOST_DESCRIPTORS {
            self.coverage.hit(Point::ManyPassed);
        }
        for (address, name) in self.setup.passed.clone() {
            let socket = self.kernel.open(Some(address));
            self.kernel.listen(socket);
            match name {
                // The socket unit keeps a descriptor.
                None => self.watch.external.push(self.kernel.duplicate(socket)),
                Some(name) => {
                    let kept = self.kernel.duplicate(socket);
                    self.manager.store.push((name, kept));
                }
            }
            let queues = &mut self.fleet.queues;
            let id = queues.reserve();
            queues.add(id, Kind::External(address), name.map_or(NO_SLOT, |(slot, _)| slot), None);
            if let Some((_, number)) = name {
                queues.stored(id, number);
            }
            self.listening.insert(id, socket);
        }
    }

    /// Records a violated invariant; later ones are ignored.
    pub(super) fn fail(&mut self, invariant: &'static str, detail: impl FnOnce() -> String) {
        if self.failure.is_none() {
            let detail = detail();
            self.log(|| format!("FAILED {invariant}: {detail}"));
            self.failure = Some((invariant, detail));
        }
    }

    /// Appends a line to the trace.
    pub(super) fn log(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            let at = self.now - self.start;
            trace.push(format!("{:>11.6}  {}", at.as_secs_f64(), line()));
        }
    }

    /// Returns an instant in the format of the trace.
    pub(super) fn at(&self, instant: Instant) -> String {
        let at = instant.saturating_duration_since(self.start);
        format!("{:.6}", at.as_secs_f64())
    }

    pub(super) fn process_mut(&mut self, pid: Pid) -> Option<&mut Process> {
        self.processes.iter_mut().find(|process| process.pid == pid)
    }
}
