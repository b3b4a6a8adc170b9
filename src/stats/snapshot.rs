//! All figures at one moment. Every rendering is one of this.

use std::sync::atomic::Ordering;

use serde::{Serialize, Serializer};

use super::events::Event;
use super::histogram::{DURATION_BOUNDS, Histogram, LAG_BOUNDS};
use super::labels::{AcceptError, Cause, Phase, Reason, SlotState, Stage};
use super::layout::Layout;
use super::rates::{self, Rates};
use super::reading::{Reading, Sum};
use super::words::{ACCEPT_ERRORS, BLOCK_WORDS, CLOSED, DURATION, FleetWord, LAG, SlotWord, Word};

/// A controller that has not been heard of for so long, in milliseconds, is in trouble: what it says was
/// true once.
pub const SILENCE_MS: u64 = 10_000;

/// The whole daemon.
#[derive(Clone, Debug, Serialize)]
pub struct Snapshot {
    /// The build.
    pub version: &'static str,
    /// The controller's pid.
    pub pid: u64,
    /// When the daemon was started, in seconds since 1970.
    pub started_at: f64,
    /// How long ago that is, in seconds.
    pub uptime_seconds: f64,
    /// Where it is in its life.
    pub phase: Phase,
    /// Whether it serves, with enough healthy workers.
    pub ready: bool,
    /// How long ago the controller was heard of, in seconds: it stirs once a second.
    pub controller_silence_seconds: f64,
    /// How many workers there are.
    pub workers: WorkerCounts,
    /// Reloads.
    pub reloads: Reloads,
    /// Amounts a second.
    pub rates: Rates,
    /// The sums over all workers there ever were.
    pub totals: Figures,
    /// Every slot that is, or was.
    pub slots: Vec<Slot>,
    /// Workers that have left their slots, or will take them over.
    pub others: Vec<Worker>,
    /// Log lines that could not be written, in all processes.
    pub log_lines_dropped: u64,
    /// Former admin processes.
    pub admin_restarts: u64,
    /// The last events, the latest first.
    pub events: Vec<Event>,
}

/// How many workers there are.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct WorkerCounts {
    /// So many are wanted.
    pub wanted: u64,
    /// So many accept and respond.
    pub healthy: u64,
    /// Fewer are too few.
    pub min_healthy: u64,
}

/// Reloads.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Reloads {
    /// Done.
    pub done: u64,
    /// Refused or given up.
    pub failed: u64,
}

/// A slot.
#[derive(Clone, Debug, Serialize)]
pub struct Slot {
    /// Its number, from 1.
    pub slot: u32,
    /// What it has.
    pub state: SlotState,
    /// Its worker.
    pub worker: Option<Worker>,
    /// Until its next worker is forked, in seconds.
    pub backoff_seconds: f64,
    /// Connections that wait to be accepted.
    pub queue_length: u64,
    /// How many may.
    pub queue_limit: u64,
    /// Workers that were replaced.
    pub restarts: Counted<Cause>,
    /// Amounts a second.
    pub rates: Rates,
    /// The sums over all workers it ever had.
    pub figures: Figures,
}

/// A worker.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Worker {
    /// Its slot.
    pub slot: u32,
    /// Its pid.
    pub pid: u64,
    /// Where it is in its life.
    pub stage: Stage,
    /// Connections open now.
    pub connections: u64,
    /// Connections that it has accepted.
    pub accepted: u64,
    /// How long ago it was forked, in seconds.
    pub age_seconds: f64,
    /// How long ago its loop turned, in seconds.
    pub heartbeat_age_seconds: f64,
    /// Whether it accepts nothing now, because it is full.
    pub paused: bool,
}

/// What workers count.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// Connections open now.
    pub connections_active: u64,
    /// Connections accepted.
    pub connections_accepted: u64,
    /// Connections that have ended.
    pub connections_closed: Counted<Reason>,
    /// Receives that were answered.
    pub messages: u64,
    /// Bytes that were received and answered.
    pub bytes_received: u64,
    /// Bytes that were sent.
    pub bytes_sent: u64,
    /// Bytes that wait to be sent.
    pub bytes_buffered: u64,
    /// Bytes that will never be sent, because their connections were reset.
    pub bytes_abandoned: u64,
    /// Bytes sent that no client had sent (idle messages).
    pub bytes_injected: u64,
    /// received + injected − sent − buffered − abandoned: bytes that have vanished without a reset.
    /// Workers go on counting while they are read, so it may be off by what is on the move in that
    /// moment; when nothing moves it is 0, or bytes were lost.
    pub bytes_lost: i64,
    /// Failures of accept(2).
    pub accept_errors: Counted<AcceptError>,
    /// How often accepting was paused.
    pub accept_pauses: u64,
    /// Workers that accept nothing now.
    pub accept_paused: u64,
    /// How long the turns of the event loop took.
    pub event_loop_lag: Histogram,
    /// How long connections lasted.
    pub connection_duration: Histogram,
}

/// A number for each kind, as a map from labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Counted<K>(pub Vec<(K, u64)>);

impl<K> Counted<K> {
    /// The sum.
    pub fn sum(&self) -> u64 {
        self.0.iter().fold(0, |sum, (_, count)| count.saturating_add(sum))
    }
}

impl<K: Serialize> Serialize for Counted<K> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(kind, count)| (kind, count)))
    }
}

impl Snapshot {
    /// Reads all figures. `uptime_ms` is the system's uptime (`CLOCK_MONOTONIC`) now.
    pub fn take(layout: Layout<'_>, uptime_ms: u64) -> Self {
        let mut reading = Reading::take(layout);
        let fleet = |word| layout.fleet(word);
        let phase = Phase::numbered(fleet(FleetWord::Phase));
        let workers = WorkerCounts {
            wanted: fleet(FleetWord::Wanted),
            healthy: fleet(FleetWord::Healthy),
            min_healthy: fleet(FleetWord::MinHealthy),
        };
        let silence_ms = rates::silence_ms(layout, uptime_ms);
        let silent = silence_ms >= SILENCE_MS;
        if silent {
            // They do not say what goes on now.
            reading.samples.iter_mut().for_each(Vec::clear);
        }
        let serves = matches!(phase, Phase::Serving | Phase::Reloading) && !silent;
        let (slots, others) = slots(layout, &reading, uptime_ms);
        let total = reading.total();
        Self {
            version: env!("CARGO_PKG_VERSION"),
            pid: fleet(FleetWord::Pid),
            started_at: seconds(fleet(FleetWord::StartedAt)),
            uptime_seconds: age(uptime_ms, fleet(FleetWord::StartedUptime)),
            phase,
            ready: serves && workers.healthy >= workers.min_healthy,
            controller_silence_seconds: seconds(silence_ms),
            workers,
            reloads: Reloads {
                done: fleet(FleetWord::ReloadsDone),
                failed: fleet(FleetWord::ReloadsFailed),
            },
            rates: Rates::of(&reading.samples[0]),
            log_lines_dropped: total
                .get(Word::LogDropped)
                .saturating_add(fleet(FleetWord::LogDropped)),
            admin_restarts: fleet(FleetWord::AdminRestarts),
            totals: figures(&total),
            slots,
            others,
            events: reading.events,
        }
    }

    /// Whether the controller has not been heard of for too long.
    pub fn controller_is_silent(&self) -> bool {
        self.controller_silence_seconds >= seconds(SILENCE_MS)
    }
}

fn slots(layout: Layout<'_>, reading: &Reading, uptime_ms: u64) -> (Vec<Slot>, Vec<Worker>) {
    let mut workers: Vec<Worker> =
        reading.seats.iter().map(|words| worker(words, uptime_ms)).collect();
    let mut slots = Vec::new();
    for ((slot, sum), samples) in (0_u32..).zip(&reading.sums).zip(&reading.samples).skip(1) {
        let word = |word| layout.slot_word(slot, word);
        let pid = word(SlotWord::Pid);
        let own = workers.iter().position(|worker| worker.slot == slot && worker.pid == pid);
        let first = SlotWord::Restarts as usize;
        let restarts = layout.slot(slot as usize).map_or(&[][..], |words| &words[first..]);
        let causes = Cause::ALL.iter().zip(restarts);
        slots.push(Slot {
            slot,
            state: SlotState::numbered(word(SlotWord::State)),
            worker: own.map(|index| workers.remove(index)),
            backoff_seconds: seconds(word(SlotWord::Backoff)),
            queue_length: word(SlotWord::QueueLength),
            queue_limit: word(SlotWord::QueueLimit),
            restarts: Counted(
                causes.map(|(&cause, word)| (cause, word.load(Ordering::Relaxed))).collect(),
            ),
            rates: Rates::of(samples),
            figures: figures(sum),
        });
    }
    (slots, workers)
}

fn worker(words: &[u64; BLOCK_WORDS], uptime_ms: u64) -> Worker {
    let word = |word: Word| words[word as usize];
    let heartbeat = word(Word::Heartbeat);
    Worker {
        slot: word(Word::Slot) as u32,
        pid: word(Word::Pid),
        stage: Stage::numbered(word(Word::Stage)),
        connections: word(Word::Connections),
        accepted: word(Word::Accepted),
        age_seconds: age(uptime_ms, word(Word::Forked)),
        heartbeat_age_seconds: if heartbeat == 0 { 0.0 } else { age(uptime_ms, heartbeat) },
        paused: word(Word::Paused) != 0,
    }
}

fn figures(sum: &Sum) -> Figures {
    let family = |family: super::words::Family| &sum.0[family.first..][..family.len];
    let get = |word| sum.get(word);
    let owed = get(Word::Received).wrapping_add(get(Word::Injected));
    let gone = [Word::Sent, Word::Buffered, Word::Abandoned].map(get);
    Figures {
        connections_active: get(Word::Connections),
        connections_accepted: get(Word::Accepted),
        connections_closed: counted(Reason::ALL, family(CLOSED)),
        messages: get(Word::Messages),
        bytes_received: get(Word::Received),
        bytes_sent: get(Word::Sent),
        bytes_buffered: get(Word::Buffered),
        bytes_abandoned: get(Word::Abandoned),
        bytes_injected: get(Word::Injected),
        bytes_lost: gone.into_iter().fold(owed, u64::wrapping_sub) as i64,
        accept_errors: counted(AcceptError::ALL, family(ACCEPT_ERRORS)),
        accept_pauses: get(Word::Pauses),
        accept_paused: get(Word::Paused),
        event_loop_lag: Histogram::new(&LAG_BOUNDS, family(LAG), get(Word::LagSum), 1e6),
        connection_duration: Histogram::new(
            &DURATION_BOUNDS,
            family(DURATION),
            get(Word::DurationSum),
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
