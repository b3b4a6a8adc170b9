//! What the controller says in the shared statistics: the state of the daemon and of every slot, the
//! last events, and the samples of the rates.

use std::io;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::unistd::Pid;

use super::Controller;
use super::children::Role;
use super::supervisor::{ADMIN, MOST_SLOTS, Report, SlotView};
use crate::event_loop::timers::Clock;
use crate::logging;
use crate::process::fork::own_pid;
use crate::process::sockets;
use crate::process::wait::Ending;
use crate::stats::Snapshot;
use crate::stats::events::{self, Event, Kind};
use crate::stats::rates;
use crate::stats::reading;
use crate::stats::{Cause, FleetWord, SlotWord, Statistics, Word};

/// From sample to sample.
const SAMPLE: Duration = Duration::from_secs(1);

/// What is remembered from turn to turn.
#[derive(Debug, Default)]
pub(super) struct Figures {
    next_sample: Option<Instant>,
    /// Which slots' workers had paused accepting, and why.
    paused: Vec<u64>,
}

impl Figures {
    /// When the next sample is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.next_sample
    }
}

/// The statistics of a daemon that is started.
pub(super) fn found() -> io::Result<Statistics> {
    let statistics = Statistics::new()?;
    let uptime = Clock::start(Instant::now()).uptime(Instant::now());
    let layout = statistics.layout();
    layout.set_fleet(FleetWord::StartedAt, unix_millis());
    layout.set_fleet(FleetWord::StartedUptime, uptime.as_millis() as u64);
    Ok(statistics)
}

/// The time in milliseconds since 1970.
pub(super) fn unix_millis() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |elapsed| elapsed.as_millis() as u64)
}

impl Controller<'_> {
    /// All figures now.
    pub(super) fn snapshot(&self) -> Snapshot {
        let now = Instant::now();
        self.publish_state(now);
        Snapshot::take(self.publisher.statistics.layout(), self.uptime_ms(now))
    }

    /// Brings the shared figures up to date; once a second, also the costly ones.
    pub(super) fn publish(&mut self, now: Instant) {
        self.publish_state(now);
        if self.publisher.figures.next_sample.is_some_and(|at| at > now) {
            return;
        }
        // The image before may have taken one a moment ago: rates want whole seconds.
        if self.publisher.figures.next_sample.is_none() {
            let ago = rates::last_at(self.publisher.statistics.layout())
                .map_or(SAMPLE, |at| Duration::from_millis(self.uptime_ms(now).saturating_sub(at)));
            if ago < SAMPLE {
                self.publisher.figures.next_sample = Some(now + SAMPLE - ago);
                return;
            }
        }
        self.publisher.figures.next_sample = Some(now + SAMPLE);
        self.publish_queues();
        self.notice_pauses();
        self.count_dropped_lines();
        self.keep_state(now);
        reading::sample(self.publisher.statistics.layout(), self.uptime_ms(now));
    }

    /// Counts the log lines of this process that were dropped.
    pub(super) fn count_dropped_lines(&self) {
        let layout = self.publisher.statistics.layout();
        let dropped = layout.fleet(FleetWord::LogDropped).saturating_add(logging::report_dropped());
        layout.set_fleet(FleetWord::LogDropped, dropped);
    }

    fn uptime_ms(&self, now: Instant) -> u64 {
        self.publisher.clock.uptime(now).as_millis() as u64
    }

    /// Publishes the state of the daemon and of every slot.
    pub(super) fn publish_state(&self, now: Instant) {
        let layout = self.publisher.statistics.layout();
        let supervisor = &self.fleet.supervisor;
        layout.set_fleet(FleetWord::Phase, self.phase() as u64);
        layout.set_fleet(FleetWord::Pid, own_pid().as_raw() as u64);
        layout.set_fleet(FleetWord::Wanted, u64::from(supervisor.wanted()));
        layout.set_fleet(FleetWord::Healthy, supervisor.healthy().len() as u64);
        layout.set_fleet(FleetWord::MinHealthy, u64::from(self.config.admin.min_healthy.get()));
        let admin = supervisor.admin().map_or(0, |pid| pid.as_raw() as u64);
        layout.set_fleet(FleetWord::AdminPid, admin);
        layout.set_fleet(FleetWord::ReloadsDone, self.reload.done);
        layout.set_fleet(FleetWord::ReloadsFailed, self.reload.failed);
        // A slot that was given up has nothing any more.
        let views = supervisor.views(now).chain(std::iter::repeat(SlotView::NOTHING));
        for (slot, view) in (1..=self.slots_used()).zip(views) {
            let pid = view.pid.map_or(0, |pid| pid.as_raw() as u64);
            layout.set_slot_word(slot, SlotWord::State, view.state as u64);
            layout.set_slot_word(slot, SlotWord::Pid, pid);
            layout.set_slot_word(slot, SlotWord::Backoff, view.backoff.as_millis() as u64);
        }
    }

    /// The highest slot there ever was. Others could have written anything there.
    fn slots_used(&self) -> u32 {
        let used = self.publisher.statistics.layout().fleet(FleetWord::SlotsUsed);
        used.clamp(u64::from(self.fleet.supervisor.wanted()), u64::from(MOST_SLOTS)) as u32
    }

    /// How long the queues are, at all addresses of a slot together.
    fn publish_queues(&self) {
        let layout = self.publisher.statistics.layout();
        for slot in 1..=self.slots_used() {
            let of_slot = self.fleet.queues.of_slot(slot);
            let listening = of_slot.filter_map(|(id, _)| self.sockets.listener(id));
            let queues = listening.map(|socket| sockets::queue(&socket));
            let (length, limit) = queues.fold((0, 0), |(length, limit), (more, most)| {
                (length + u64::from(more), limit + u64::from(most))
            });
            layout.set_slot_word(slot, SlotWord::QueueLength, length);
            layout.set_slot_word(slot, SlotWord::QueueLimit, limit);
        }
    }

    /// A worker that has reached a limit, or has room again, is an event.
    fn notice_pauses(&mut self) {
        let mut paused = vec![0; self.fleet.supervisor.wanted() as usize];
        for (slot, pid) in self.fleet.supervisor.healthy_workers() {
            let wire = self.children.wire(pid);
            let seat = wire.map(|wire| self.publisher.statistics.seat(wire.block));
            if let Some((entry, seat)) = paused.get_mut(slot as usize - 1).zip(seat) {
                *entry = seat.get(Word::Paused);
            }
        }
        for (slot, &why) in (1..).zip(&paused) {
            match self.publisher.figures.paused.get(slot as usize - 1).copied().unwrap_or(0) {
                0 if why != 0 => self.record(Kind::Paused, slot, why),
                before if before != 0 && why == 0 => self.record(Kind::Resumed, slot, 0),
                _ => {}
            }
        }
        self.publisher.figures.paused = paused;
    }

    /// Counts a worker that has to be replaced because it has ended. One that was given up before, and
    /// so has left its slot, is counted already.
    pub(super) fn count_restart(&self, pid: Pid, ending: Ending) {
        let Some(child) = self.children.get(pid) else { return };
        let Role::Worker(slot) = child.role else { return };
        if !self.fleet.supervisor.is_in_slot(pid) || self.fleet.supervisor.is_stopping() {
            return;
        }
        let cause = match ending {
            _ if !child.ready => Cause::Boot,
            Ending::Signal(_) => Cause::Signal,
            Ending::Code(_) => Cause::Exit,
        };
        self.publisher.statistics.layout().count_restart(slot, cause);
    }

    /// Keeps a report for those who look later.
    pub(super) fn remember(&mut self, report: Report) {
        let number = |pid: Pid| pid.as_raw() as u64;
        match report {
            // Nobody is replaced any more.
            Report::Hung(..) | Report::NotReady(..) if self.fleet.supervisor.is_stopping() => {}
            Report::Hung(slot, _) => {
                self.publisher.statistics.layout().count_restart(slot, Cause::Hung);
            }
            Report::NotReady(slot, _) => {
                self.publisher.statistics.layout().count_restart(slot, Cause::Boot);
            }
            Report::Ready(_, pid) => self.children.ready(pid),
            Report::AdminExited(pid, _, Some(_)) => self.count_admin(pid),
            _ => {}
        }
        let (kind, slot, value) = match report {
            Report::Serving(workers) => (Kind::Serving, 0, u64::from(workers)),
            Report::AdminExited(..) | Report::Ready(ADMIN, _) => return,
            Report::Ready(slot, pid) => (Kind::Ready, slot, number(pid)),
            Report::Exited(slot, pid, _) => (Kind::Exited, slot, number(pid)),
            Report::Waiting(slot, delay) => (Kind::Backoff, slot, delay.as_millis() as u64),
            Report::Unresponsive(slot, pid) => (Kind::Unresponsive, slot, number(pid)),
            Report::Responsive(slot, pid) => (Kind::Responsive, slot, number(pid)),
            Report::Hung(slot, pid) => (Kind::Hung, slot, number(pid)),
            Report::NotReady(slot, pid) => (Kind::NotReady, slot, number(pid)),
            Report::Abandoned(slot) => (Kind::NotReady, slot, 0),
            Report::Renewed => (Kind::Reloaded, 0, self.reload.done + 1),
            Report::NotRenewed(slot) => (Kind::ReloadFailed, slot, self.reload.failed + 1),
            Report::Scaled(workers) => (Kind::Scaled, 0, u64::from(workers)),
            Report::Delaying(delay) => (Kind::Stopping, 0, delay.as_millis() as u64),
            Report::Draining => (Kind::Draining, 0, 0),
            Report::Killing(workers) => (Kind::Killing, 0, u64::from(workers)),
            Report::NoneReady | Report::CannotScale(_) | Report::Stranger(..) => return,
        };
        self.record(kind, slot, value);
    }

    /// Remembers an event.
    pub(super) fn record(&self, kind: Kind, slot: u32, value: u64) {
        let event = Event { at_ms: unix_millis(), kind, slot, value };
        events::record(self.publisher.statistics.layout(), event);
    }
}
