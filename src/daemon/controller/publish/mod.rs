//! Publication of the daemon's state: shared statistics, event history, log lines, the stats dump,
//! the state file, and notifications to the service manager.
//!
//! | module | contents |
//! |---|---|
//! | `log` | log lines of the controller, for example the one of a drain that begins |
//! | `events` | event history and restart counters in the shared statistics |
//! | `stats_dump` | SIGUSR2: one line of JSON on standard output |
//! | `state_file` | `--state-file`: totals that outlive the daemon |
//! | `service_manager`, [`notify`] | sd_notify(3): sending, and what to send |

pub(crate) mod controller_log;
pub(crate) mod events;
pub(crate) mod notify;
pub(crate) mod service_manager;
pub(crate) mod state_file;
pub(crate) mod stats_dump;

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use self::state_file::StateFile;
use self::stats_dump::StatsDump;
use super::Controller;
use super::supervisor::SlotView;
use crate::config::Balance;
use crate::daemon::ids::SlotId;
use crate::daemon::stats::events::Kind;
use crate::daemon::stats::{Field, FleetField, SlotField, Snapshot, Statistics, rates, reading};
use crate::event_loop::timers::Clock;
use crate::logging;
use crate::sys::clock;
use crate::sys::fork::own_pid;
use crate::sys::sockets;

/// Time between two samples of the rates.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);

/// The shared statistics and the state of everything that is published from them.
#[derive(Debug)]
pub(crate) struct Publisher {
    pub(crate) statistics: Statistics,
    pub(crate) clock: Clock,
    pub(crate) stats_dump: StatsDump,
    pub(crate) state_file: Option<StateFile>,
    /// Reason of the first worker that failed to start.
    pub(crate) startup_failure: Option<String>,
    /// Time of the next sample; `None` until the first iteration of the loop.
    next_sample: Option<Instant>,
    /// Workers that had paused accepting at the last sample, with the reason code.
    paused: BTreeMap<SlotId, u64>,
}

impl Publisher {
    pub(crate) fn new(statistics: Statistics, clock: Clock, state_file: Option<StateFile>) -> Self {
        Self {
            statistics,
            clock,
            stats_dump: StatsDump::default(),
            state_file,
            startup_failure: None,
            next_sample: None,
            paused: BTreeMap::new(),
        }
    }

    /// Returns the time of the next sample.
    pub(crate) fn next_sample(&self) -> Option<Instant> {
        self.next_sample
    }
}

/// Creates the shared statistics of a daemon that starts.
///
/// # Errors
/// No memory or no descriptors.
pub(crate) fn new_statistics() -> io::Result<Statistics> {
    let statistics = Statistics::new()?;
    let layout = statistics.layout();
    layout.set_fleet(FleetField::StartedAt, clock::unix_ms());
    layout.set_fleet(FleetField::StartedUptime, clock::millis(clock::uptime()));
    Ok(statistics)
}

impl Controller<'_> {
    /// Publishes the current state and returns a snapshot of all statistics.
    pub(super) fn snapshot(&self) -> Snapshot {
        let now = Instant::now();
        self.publish_state(now);
        Snapshot::take(self.publisher.statistics.layout(), self.uptime_ms(now))
    }

    /// Publishes the current state; once a second, also queue lengths, rates, and the state file.
    pub(super) fn publish(&mut self, now: Instant) {
        self.publish_state(now);
        if self.publisher.next_sample.is_some_and(|at| at > now) {
            return;
        }
        // Samples are a whole second apart, also across a reload.
        if self.publisher.next_sample.is_none() {
            let last = rates::last_at(self.publisher.statistics.layout());
            let age = last.map_or(SAMPLE_INTERVAL, |at| {
                Duration::from_millis(self.uptime_ms(now).saturating_sub(at))
            });
            if age < SAMPLE_INTERVAL {
                self.publisher.next_sample = Some(now + SAMPLE_INTERVAL - age);
                return;
            }
        }
        self.publisher.next_sample = Some(now + SAMPLE_INTERVAL);
        self.publish_queues();
        self.record_pauses();
        self.count_dropped_lines();
        self.save_state(now);
        reading::sample(self.publisher.statistics.layout(), self.uptime_ms(now));
    }

    /// Counts the log lines that this process has dropped.
    pub(super) fn count_dropped_lines(&self) {
        let layout = self.publisher.statistics.layout();
        let dropped =
            layout.fleet(FleetField::LogDropped).saturating_add(logging::report_dropped());
        layout.set_fleet(FleetField::LogDropped, dropped);
    }

    fn uptime_ms(&self, now: Instant) -> u64 {
        self.publisher.clock.uptime_ms(now)
    }

    /// Publishes the state of the daemon and of every slot.
    pub(super) fn publish_state(&self, now: Instant) {
        let layout = self.publisher.statistics.layout();
        let supervisor = &self.fleet.supervisor;
        layout.set_fleet(FleetField::Phase, self.phase() as u64);
        layout.set_fleet(FleetField::Pid, own_pid().as_raw() as u64);
        layout.set_fleet(FleetField::Wanted, u64::from(supervisor.wanted()));
        layout.set_fleet(FleetField::Healthy, supervisor.healthy().len() as u64);
        layout.set_fleet(FleetField::MinHealthy, u64::from(self.config.admin.min_healthy.get()));
        let admin = supervisor.admin().map_or(0, |pid| pid.as_raw() as u64);
        layout.set_fleet(FleetField::AdminPid, admin);
        layout.set_fleet(FleetField::ReloadsDone, self.reload.done);
        layout.set_fleet(FleetField::ReloadsFailed, self.reload.failed);
        // Slots that were removed are empty.
        let views = supervisor.views(now).chain(std::iter::repeat(SlotView::EMPTY));
        for (slot, view) in SlotId::workers(self.slots_used()).zip(views) {
            let pid = view.pid.map_or(0, |pid| pid.as_raw() as u64);
            layout.set_slot_word(slot, SlotField::State, view.state as u64);
            layout.set_slot_word(slot, SlotField::Pid, pid);
            layout.set_slot_word(slot, SlotField::Backoff, view.backoff.as_millis() as u64);
        }
    }

    /// Returns the highest number of workers that there ever was, limited because workers can write
    /// to the shared memory.
    fn slots_used(&self) -> u32 {
        let used = self.publisher.statistics.layout().fleet(FleetField::SlotsUsed);
        used.clamp(u64::from(self.fleet.supervisor.wanted()), u64::from(SlotId::MAX.0)) as u32
    }

    /// Publishes the length of each slot's accept queues, summed over the addresses.
    fn publish_queues(&self) {
        let layout = self.publisher.statistics.layout();
        for slot in SlotId::workers(self.slots_used()) {
            let of_slot = self.fleet.queues.of_slot(slot);
            let listening = of_slot.filter_map(|(id, _)| self.sockets.listener(id));
            let queues = listening.map(|socket| sockets::queue(&socket));
            let (length, limit) = queues.fold((0, 0), |(length, limit), (more, most)| {
                (length + u64::from(more), limit + u64::from(most))
            });
            layout.set_slot_word(slot, SlotField::QueueLength, length);
            layout.set_slot_word(slot, SlotField::QueueLimit, limit);
        }
    }

    /// Records the workers that have paused or resumed accepting since the last sample.
    fn record_pauses(&mut self) {
        let mut paused = BTreeMap::new();
        for (slot, pid) in self.fleet.supervisor.healthy_workers() {
            let Some(link) = self.children.link(pid) else { continue };
            let reason = self.publisher.statistics.block(link.block_id).get(Field::Paused);
            if reason != 0 {
                paused.insert(slot, reason);
            }
        }
        for (slot, reason) in &paused {
            if !self.publisher.paused.contains_key(slot) {
                self.record(Kind::Paused, *slot, *reason);
            }
        }
        let wanted = SlotId(self.fleet.supervisor.wanted());
        for slot in self.publisher.paused.keys().filter(|slot| **slot <= wanted) {
            if !paused.contains_key(slot) {
                self.record(Kind::Resumed, *slot, 0);
            }
        }
        self.publisher.paused = paused;
    }

    /// Publishes which workers siblings may hand connections off to: none once the daemon stops,
    /// before any worker is told to drain.
    pub(super) fn publish_health_table(&self) {
        if self.sockets.handoff.is_empty() {
            return;
        }
        let mut blocks = BTreeMap::new();
        let supervisor = &self.fleet.supervisor;
        // After a reload that has switched to the kernel's hash, nothing is handed off.
        if self.config.fleet.balance == Balance::LeastConnections && !supervisor.is_draining() {
            for (slot, pid) in supervisor.healthy_workers() {
                let link = self.children.link(pid).filter(|link| link.handoff && !link.legacy);
                blocks.extend(link.map(|link| (slot, link.block_id)));
            }
        }
        for slot in SlotId::workers(SlotId::MAX.0) {
            self.publisher.statistics.set_healthy_block(slot, blocks.get(&slot).copied());
        }
    }
}
