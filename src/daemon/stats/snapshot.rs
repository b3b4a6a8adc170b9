//! A snapshot of all statistics, which `/stats` and the stats dump serialize.

use std::sync::atomic::Ordering;

use serde::{Serialize, Serializer};

use super::events::Event;
use super::fields::{
    ACCEPT_ERRORS, BLOCK_WORDS, CLOSED, DURATION, Field, FleetField, LAG, SlotField,
};
use super::histogram::{DURATION_BOUNDS, Histogram, LAG_BOUNDS};
use super::labels::{AcceptError, Cause, Phase, Reason, SlotState, Stage, from_number};
use super::layout::Layout;
use super::rates::{self, Rates};
use super::reading::{Reading, Sum};
use crate::daemon::ids::SlotId;

/// Time without a sign of life of the controller, in milliseconds, after which the daemon counts as not
/// alive and not ready.
pub(crate) const SILENCE_MS: u64 = 10_000;

/// The statistics of the whole daemon.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Snapshot {
    pub(crate) version: &'static str,
    /// Pid of the controller.
    pub(crate) pid: u64,
    /// Time of the start, in seconds since 1970.
    pub(crate) started_at: f64,
    pub(crate) uptime_seconds: f64,
    pub(crate) phase: Phase,
    /// `true` if it serves with enough healthy workers.
    pub(crate) ready: bool,
    /// Time since the last sign of life of the controller, in seconds; it gives one every second.
    pub(crate) controller_silence_seconds: f64,
    pub(crate) workers: WorkerCounts,
    pub(crate) reloads: Reloads,
    pub(crate) rates: Rates,
    /// Sums over all workers, former ones and those of former daemons included.
    pub(crate) totals: Metrics,
    /// All slots, removed ones included.
    pub(crate) slots: Vec<Slot>,
    /// Workers that leave their slot or will take it over.
    pub(crate) others: Vec<Worker>,
    /// Dropped log lines of all processes.
    pub(crate) log_lines_dropped: u64,
    /// Restarts of the admin process.
    pub(crate) admin_restarts: u64,
    /// Last events, the latest first.
    pub(crate) events: Vec<Event>,
}

/// Numbers of workers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct WorkerCounts {
    /// Configured number, as changed by scaling.
    pub(crate) wanted: u64,
    /// Ready and responsive workers.
    pub(crate) healthy: u64,
    /// Healthy workers required for readiness.
    pub(crate) min_healthy: u64,
}

/// Reloads by result.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Reloads {
    /// Completed reloads.
    pub(crate) done: u64,
    /// Rejected and aborted reloads.
    pub(crate) failed: u64,
}

/// The statistics of a slot.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Slot {
    /// Number of the slot, from 1.
    pub(crate) slot: u32,
    pub(crate) state: SlotState,
    pub(crate) worker: Option<Worker>,
    /// Time until the next worker is forked, in seconds.
    pub(crate) backoff_seconds: f64,
    /// Connections waiting to be accepted.
    pub(crate) queue_length: u64,
    /// Connections that may wait to be accepted.
    pub(crate) queue_limit: u64,
    /// Replaced workers by cause.
    pub(crate) restarts: Counted<Cause>,
    pub(crate) rates: Rates,
    /// Sums over all workers it ever had.
    #[serde(rename = "figures")]
    pub(crate) metrics: Metrics,
}

/// The state of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Worker {
    pub(crate) slot: u32,
    pub(crate) pid: u64,
    pub(crate) stage: Stage,
    /// Open connections.
    pub(crate) connections: u64,
    /// Accepted connections.
    pub(crate) accepted: u64,
    /// Time since the fork, in seconds.
    pub(crate) age_seconds: f64,
    /// Time since the last event loop iteration, in seconds.
    pub(crate) heartbeat_age_seconds: f64,
    /// `true` while accepting is paused.
    pub(crate) paused: bool,
}

/// Counters and gauges of workers.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Metrics {
    /// Open connections.
    pub(crate) connections_active: u64,
    /// Accepted connections.
    pub(crate) connections_accepted: u64,
    /// Closed connections by reason.
    pub(crate) connections_closed: Counted<Reason>,
    /// Answered receives.
    pub(crate) messages: u64,
    /// Bytes received and answered.
    pub(crate) bytes_received: u64,
    /// Bytes sent.
    pub(crate) bytes_sent: u64,
    /// Bytes waiting to be sent.
    pub(crate) bytes_buffered: u64,
    /// Unsent bytes of connections that were reset.
    pub(crate) bytes_abandoned: u64,
    /// Bytes sent that no client sent: idle messages, and those that services make.
    pub(crate) bytes_injected: u64,
    /// Bytes received that no service owes back.
    pub(crate) bytes_consumed: u64,
    /// received + injected − consumed − sent − buffered − abandoned. Bytes in flight while workers are busy; if
    /// no connection is open, bytes lost.
    pub(crate) bytes_lost: i64,
    /// Failures of accept(2) by errno.
    pub(crate) accept_errors: Counted<AcceptError>,
    /// Pauses of accepting.
    pub(crate) accept_pauses: u64,
    /// Workers with accepting paused.
    pub(crate) accept_paused: u64,
    /// Durations of event loop iterations.
    pub(crate) event_loop_lag: Histogram,
    /// Durations of closed connections.
    pub(crate) connection_duration: Histogram,
}

/// A count for each kind, serialized as a map from labels.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Counted<K>(pub(crate) Vec<(K, u64)>);

#[cfg(test)]
impl<K> Counted<K> {
    pub(crate) fn sum(&self) -> u64 {
        self.0.iter().fold(0, |sum, (_, count)| count.saturating_add(sum))
    }
}

impl<K: Serialize> Serialize for Counted<K> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(kind, count)| (kind, count)))
    }
}

impl Snapshot {
    /// Takes a snapshot at this uptime, in milliseconds.
    pub(crate) fn take(layout: Layout<'_>, uptime_ms: u64) -> Self {
        let mut reading = Reading::read(layout);
        let fleet = |word| layout.fleet(word);
        let phase = from_number(Phase::ALL, fleet(FleetField::Phase));
        let workers = WorkerCounts {
            wanted: fleet(FleetField::Wanted),
            healthy: fleet(FleetField::Healthy),
            min_healthy: fleet(FleetField::MinHealthy),
        };
        let silence_ms = rates::silence_ms(layout, uptime_ms);
        let silent = silence_ms >= SILENCE_MS;
        if silent {
            // The last samples are too old for current rates.
            reading.samples.iter_mut().for_each(Vec::clear);
        }
        let serves = matches!(phase, Phase::Serving | Phase::Reloading) && !silent;
        let (slots, others) = slots(layout, &reading, uptime_ms);
        let total = reading.total();
        Self {
            version: env!("CARGO_PKG_VERSION"),
            pid: fleet(FleetField::Pid),
            started_at: seconds(fleet(FleetField::StartedAt)),
            uptime_seconds: age(uptime_ms, fleet(FleetField::StartedUptime)),
            phase,
            ready: serves && workers.healthy >= workers.min_healthy,
            controller_silence_seconds: seconds(silence_ms),
            workers,
            reloads: Reloads {
                done: fleet(FleetField::ReloadsDone),
                failed: fleet(FleetField::ReloadsFailed),
            },
            rates: Rates::of(&reading.samples[0]),
            log_lines_dropped: total
                .get(Field::LogDropped)
                .saturating_add(fleet(FleetField::LogDropped)),
            admin_restarts: fleet(FleetField::AdminRestarts),
            totals: metrics(&total),
            slots,
            others,
            events: reading.events,
        }
    }

    /// Returns `true` if the controller gave no sign of life for [`SILENCE_MS`].
    pub(crate) fn controller_is_silent(&self) -> bool {
        self.controller_silence_seconds >= seconds(SILENCE_MS)
    }
}

fn slots(layout: Layout<'_>, reading: &Reading, uptime_ms: u64) -> (Vec<Slot>, Vec<Worker>) {
    let mut workers: Vec<Worker> =
        reading.blocks.iter().map(|words| worker(words, uptime_ms)).collect();
    let mut slots = Vec::new();
    for ((slot, sum), samples) in (0_u32..).zip(&reading.sums).zip(&reading.samples).skip(1) {
        let word = |word| layout.slot_word(SlotId(slot), word);
        let pid = word(SlotField::Pid);
        let own = workers.iter().position(|worker| worker.slot == slot && worker.pid == pid);
        let first = SlotField::Restarts as usize;
        let restarts = layout.slot(slot as usize).map_or(&[][..], |words| &words[first..]);
        let causes = Cause::ALL.iter().zip(restarts);
        slots.push(Slot {
            slot,
            state: from_number(SlotState::ALL, word(SlotField::State)),
            worker: own.map(|index| workers.remove(index)),
            backoff_seconds: seconds(word(SlotField::Backoff)),
            queue_length: word(SlotField::QueueLength),
            queue_limit: word(SlotField::QueueLimit),
            restarts: Counted(
                causes.map(|(&cause, word)| (cause, word.load(Ordering::Relaxed))).collect(),
            ),
            rates: Rates::of(samples),
            metrics: metrics(sum),
        });
    }
    (slots, workers)
}

fn worker(words: &[u64; BLOCK_WORDS], uptime_ms: u64) -> Worker {
    let word = |word: Field| words[word as usize];
    let heartbeat = word(Field::Heartbeat);
    Worker {
        slot: word(Field::Slot) as u32,
        pid: word(Field::Pid),
        stage: from_number(Stage::ALL, word(Field::Stage)),
        connections: word(Field::Connections),
        accepted: word(Field::Accepted),
        age_seconds: age(uptime_ms, word(Field::Forked)),
        heartbeat_age_seconds: if heartbeat == 0 { 0.0 } else { age(uptime_ms, heartbeat) },
        paused: word(Field::Paused) != 0,
    }
}

fn metrics(sum: &Sum) -> Metrics {
    let family = |family: super::fields::FieldRange| &sum.0[family.first..][..family.len];
    let get = |word| sum.get(word);
    let owed = get(Field::Received).wrapping_add(get(Field::Injected));
    let gone = [Field::Sent, Field::Consumed, Field::Buffered, Field::Abandoned].map(get);
    Metrics {
        connections_active: get(Field::Connections),
        connections_accepted: get(Field::Accepted),
        connections_closed: counted(Reason::ALL, family(CLOSED)),
        messages: get(Field::Messages),
        bytes_received: get(Field::Received),
        bytes_sent: get(Field::Sent),
        bytes_buffered: get(Field::Buffered),
        bytes_abandoned: get(Field::Abandoned),
        bytes_injected: get(Field::Injected),
        bytes_consumed: get(Field::Consumed),
        bytes_lost: gone.into_iter().fold(owed, u64::wrapping_sub) as i64,
        accept_errors: counted(AcceptError::ALL, family(ACCEPT_ERRORS)),
        accept_pauses: get(Field::Pauses),
        accept_paused: get(Field::Paused),
        event_loop_lag: Histogram::new(&LAG_BOUNDS, family(LAG), get(Field::LagSum), 1e6),
        connection_duration: Histogram::new(
            &DURATION_BOUNDS,
            family(DURATION),
            get(Field::DurationSum),
            1e3,
        ),
    }
}

fn counted<K: Copy>(kinds: &[K], counts: &[u64]) -> Counted<K> {
    Counted(kinds.iter().copied().zip(counts.iter().copied()).collect())
}

fn seconds(millis: u64) -> f64 {
    millis as f64 / 1000.0
}

fn age(now_ms: u64, then_ms: u64) -> f64 {
    seconds(now_ms.saturating_sub(then_ms))
}
