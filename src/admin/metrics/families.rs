//! The families of figures: one after the other, each with all its samples.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use crate::process::usage::Usage;
use crate::stats::histogram::Histogram;
use crate::stats::snapshot::{Counted, Figures, Slot, Worker};
use crate::stats::{Phase, SlotState, Snapshot};

/// The counters of workers: name, help, and where to find it.
type Counter = (&'static str, &'static str, fn(&Figures) -> u64);
const COUNTERS: [Counter; 7] = [
    ("connections_accepted", "Connections accepted", |it| it.connections_accepted),
    ("messages", "Receives that were answered", |it| it.messages),
    ("received_bytes", "Bytes received and answered", |it| it.bytes_received),
    ("sent_bytes", "Bytes sent", |it| it.bytes_sent),
    ("abandoned_bytes", "Bytes whose connections were reset", |it| it.bytes_abandoned),
    ("injected_bytes", "Bytes sent that no client had sent", |it| it.bytes_injected),
    ("accept_pauses", "How often accepting was paused", |it| it.accept_pauses),
];

/// The gauges of workers.
type Gauge = (&'static str, &'static str, fn(&Figures) -> f64);
const GAUGES: [Gauge; 4] = [
    ("connections_active", "Connections open now", |it| it.connections_active as f64),
    ("buffered_bytes", "Bytes that wait to be sent", |it| it.bytes_buffered as f64),
    ("lost_bytes", "Bytes in flight; beyond the end of all connections, bytes lost", |it| {
        it.bytes_lost as f64
    }),
    ("accept_paused", "Workers that accept nothing now", |it| it.accept_paused as f64),
];

/// The figures of the daemon, to be collected.
#[derive(Debug)]
pub(super) struct Daemon {
    pub(super) snapshot: Snapshot,
}

impl Collector for Daemon {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Out(encoder);
        out.daemon(&self.snapshot)?;
        out.counted(&self.snapshot)?;
        out.slots(&self.snapshot)
    }
}

/// The standard figures of a process, here the controller.
#[derive(Debug)]
pub(super) struct Controller {
    pub(super) usage: Usage,
    /// In seconds since 1970.
    pub(super) started_at: f64,
}

impl Collector for Controller {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (mut out, usage) = (Out(encoder), &self.usage);
        if let Some(seconds) = usage.cpu_seconds {
            let help = "Processor time of the controller";
            let mut family = out.family("process_cpu_seconds", help, MetricType::Counter)?;
            family.encode_counter::<NoLabelSet, f64, f64>(&seconds, None)?;
        }
        let float = |value: Option<u64>| value.map(|value| value as f64);
        let gauges = [
            (
                "process_start_time_seconds",
                "When it was started, since 1970",
                Some(self.started_at),
            ),
            ("process_resident_memory_bytes", "Its memory in use", float(usage.resident_bytes)),
            ("process_virtual_memory_bytes", "Its address space", float(usage.virtual_bytes)),
            ("process_open_fds", "Its open descriptors", float(usage.open_descriptors)),
            ("process_max_fds", "Descriptors it may open", float(usage.most_descriptors)),
        ];
        let known = gauges.into_iter().filter_map(|(name, help, value)| Some((name, help, value?)));
        known.into_iter().try_for_each(|(name, help, value)| out.gauge(name, help, value))
    }
}

/// Where families are written to.
struct Out<'a>(DescriptorEncoder<'a>);

impl Out<'_> {
    fn daemon(&mut self, all: &Snapshot) -> fmt::Result {
        let mut build = self.family("build_info", "The build", MetricType::Gauge)?;
        gauge_at(&mut build, [("version", all.version)], 1.0)?;
        self.gauge(
            "start_time_seconds",
            "When the daemon was started, since 1970",
            all.started_at,
        )?;
        self.gauge("uptime_seconds", "How long ago that is", all.uptime_seconds)?;
        self.gauge("ready", "Whether it serves with enough healthy workers", flag(all.ready))?;
        let help = "How long ago the controller was heard of";
        self.gauge("controller_silence_seconds", help, all.controller_silence_seconds)?;
        let draining = all.phase == Phase::Draining;
        self.gauge("draining", "Whether it is stopping", flag(draining))?;
        let mut phase = self.family("phase", "Where it is in its life", MetricType::Gauge)?;
        for one in Phase::ALL {
            gauge_at(&mut phase, [("phase", one.label())], flag(*one == all.phase))?;
        }
        let workers = [
            ("workers_wanted", "Workers that are wanted", all.workers.wanted),
            ("workers_healthy", "Workers that accept and respond", all.workers.healthy),
            ("workers_min_healthy", "Fewer healthy workers are too few", all.workers.min_healthy),
            ("workers_beside", "Workers that leave or take over slots", all.others.len() as u64),
        ];
        for (name, help, value) in workers {
            self.gauge(name, help, value as f64)?;
        }
        let mut reloads = self.family("reloads", "Reloads", MetricType::Counter)?;
        counter_at(&mut reloads, [("result", "done")], all.reloads.done)?;
        counter_at(&mut reloads, [("result", "failed")], all.reloads.failed)?;
        self.counter("log_lines_dropped", "Log lines not written", all.log_lines_dropped)?;
        self.counter("admin_restarts", "Admin processes replaced", all.admin_restarts)
    }

    /// What workers count.
    fn counted(&mut self, all: &Snapshot) -> fmt::Result {
        for (name, help, get) in COUNTERS {
            let mut family = self.family(name, help, MetricType::Counter)?;
            for (worker, value) in with_former(all, get) {
                counter_at(&mut family, [("worker", worker.as_str())], value)?;
            }
        }
        for (name, help, get) in GAUGES {
            let mut family = self.family(name, help, MetricType::Gauge)?;
            for slot in &all.slots {
                gauge_at(&mut family, [("worker", name_of(slot).as_str())], get(&slot.figures))?;
            }
        }
        let help = "Connections that have ended";
        let mut family = self.family("connections_closed", help, MetricType::Counter)?;
        by_kind(&mut family, "reason", all, |it| kinds(&it.connections_closed, |it| it.label()))?;
        let help = "Failures of accept(2)";
        let mut family = self.family("accept_errors", help, MetricType::Counter)?;
        by_kind(&mut family, "errno", all, |it| kinds(&it.accept_errors, |it| it.label()))?;
        let help = "How long turns of the event loop take: so long may an event wait";
        let mut family = self.family("event_loop_lag_seconds", help, MetricType::Histogram)?;
        histograms(&mut family, all, |figures| &figures.event_loop_lag)?;
        let help = "How long connections last";
        let mut family = self.family("connection_duration_seconds", help, MetricType::Histogram)?;
        histograms(&mut family, all, |figures| &figures.connection_duration)
    }

    /// What the controller knows of the slots and their workers.
    fn slots(&mut self, all: &Snapshot) -> fmt::Result {
        let up = |slot: &Slot| flag(slot.state == SlotState::Serving);
        self.of_slots("worker_up", "Whether the slot's worker serves", all, up)?;
        let mut state = self.family("worker_state", "What the slot has", MetricType::Gauge)?;
        for slot in present(all) {
            for one in SlotState::ALL {
                let labels = [("worker", name_of(slot)), ("state", one.label().into())];
                gauge_at(&mut state, labels, flag(*one == slot.state))?;
            }
        }
        let help = "Workers that were replaced";
        let mut restarts = self.family("worker_restarts", help, MetricType::Counter)?;
        for slot in &all.slots {
            for (cause, count) in kinds(&slot.restarts, |cause| cause.label()) {
                let labels = [("worker", name_of(slot)), ("cause", cause.into())];
                counter_at(&mut restarts, labels, count)?;
            }
        }
        let help = "Until the slot's next worker is started";
        self.of_slots("worker_backoff_seconds", help, all, |slot| slot.backoff_seconds)?;
        let help = "How long ago the worker's loop turned";
        self.of_workers("worker_heartbeat_age_seconds", help, all, |it| it.heartbeat_age_seconds)?;
        let help = "How long ago the worker was started";
        self.of_workers("worker_age_seconds", help, all, |worker| worker.age_seconds)?;
        let help = "Connections that wait to be accepted";
        self.of_slots("accept_queue_length", help, all, |slot| slot.queue_length as f64)?;
        let help = "Connections that may wait to be accepted";
        self.of_slots("accept_queue_limit", help, all, |slot| slot.queue_limit as f64)
    }

    fn family<'b>(
        &'b mut self,
        name: &'b str,
        help: &str,
        kind: MetricType,
    ) -> Result<MetricEncoder<'b>, fmt::Error> {
        self.0.encode_descriptor(name, help, None, kind)
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        self.family(name, help, MetricType::Gauge)?.encode_gauge(&value)
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let mut family = self.family(name, help, MetricType::Counter)?;
        family.encode_counter::<NoLabelSet, u64, u64>(&value, None)
    }

    fn of_slots(
        &mut self,
        name: &str,
        help: &str,
        all: &Snapshot,
        get: fn(&Slot) -> f64,
    ) -> fmt::Result {
        let mut family = self.family(name, help, MetricType::Gauge)?;
        present(all).try_for_each(|slot| {
            gauge_at(&mut family, [("worker", name_of(slot).as_str())], get(slot))
        })
    }

    fn of_workers(
        &mut self,
        name: &str,
        help: &str,
        all: &Snapshot,
        get: fn(&Worker) -> f64,
    ) -> fmt::Result {
        let mut family = self.family(name, help, MetricType::Gauge)?;
        let workers = all.slots.iter().filter_map(|slot| Some((slot, slot.worker.as_ref()?)));
        workers.into_iter().try_for_each(|(slot, worker)| {
            gauge_at(&mut family, [("worker", name_of(slot).as_str())], get(worker))
        })
    }
}

/// The slots that there are, without those that were given up.
fn present(all: &Snapshot) -> impl Iterator<Item = &Slot> {
    let wanted = all.workers.wanted;
    let there =
        move |slot: &&Slot| u64::from(slot.slot) <= wanted || slot.state != SlotState::Empty;
    all.slots.iter().filter(there)
}

/// A slot as a label.
fn name_of(slot: &Slot) -> String {
    slot.slot.to_string()
}

fn flag(value: bool) -> f64 {
    f64::from(u8::from(value))
}

/// A counter of every slot; and, as "0", what the total has beyond them.
fn with_former(all: &Snapshot, get: impl Fn(&Figures) -> u64) -> Vec<(String, u64)> {
    let mut values: Vec<_> =
        all.slots.iter().map(|slot| (name_of(slot), get(&slot.figures))).collect();
    let sum = values.iter().fold(0_u64, |sum, (_, value)| sum.saturating_add(*value));
    let former = get(&all.totals).saturating_sub(sum);
    values.extend((former > 0).then(|| ("0".into(), former)));
    values
}

/// Numbers with the labels of their kinds.
fn kinds<K: Copy>(counted: &Counted<K>, label: fn(K) -> &'static str) -> Vec<(&'static str, u64)> {
    counted.0.iter().map(|&(kind, count)| (label(kind), count)).collect()
}

/// A family of counters of every slot, by kind.
fn by_kind(
    family: &mut MetricEncoder<'_>,
    label: &str,
    all: &Snapshot,
    get: fn(&Figures) -> Vec<(&'static str, u64)>,
) -> fmt::Result {
    for (index, (kind, _)) in get(&all.totals).into_iter().enumerate() {
        let of_kind = |it: &Figures| get(it).get(index).map_or(0, |(_, count)| *count);
        for (worker, value) in with_former(all, of_kind) {
            counter_at(family, [("worker", worker.as_str()), (label, kind)], value)?;
        }
    }
    Ok(())
}

/// A histogram of every slot; and, as "0", what the total has beyond them.
fn histograms(
    family: &mut MetricEncoder<'_>,
    all: &Snapshot,
    get: fn(&Figures) -> &Histogram,
) -> fmt::Result {
    let mut former = Buckets::of(get(&all.totals));
    for slot in &all.slots {
        let own = Buckets::of(get(&slot.figures));
        former.subtract(&own);
        own.write(family, name_of(slot))?;
    }
    if former.own.iter().any(|(_, count)| *count > 0) {
        former.write(family, "0".into())
    } else {
        Ok(())
    }
}

/// A histogram in which each bucket has its own values only.
struct Buckets {
    own: Vec<(f64, u64)>,
    sum_seconds: f64,
}

impl Buckets {
    fn of(histogram: &Histogram) -> Self {
        let mut before = 0;
        let own = histogram.buckets.iter().map(|&(bound, count)| {
            let own = count.saturating_sub(std::mem::replace(&mut before, count));
            (bound.unwrap_or(f64::INFINITY), own)
        });
        Self { own: own.collect(), sum_seconds: histogram.sum_seconds }
    }

    fn subtract(&mut self, other: &Self) {
        for ((_, count), (_, less)) in self.own.iter_mut().zip(&other.own) {
            *count = count.saturating_sub(*less);
        }
        self.sum_seconds = (self.sum_seconds - other.sum_seconds).max(0.0);
    }

    fn write(&self, family: &mut MetricEncoder<'_>, worker: String) -> fmt::Result {
        let count = self.own.iter().fold(0, |sum: u64, (_, count)| sum.saturating_add(*count));
        let labels = [("worker", worker)];
        let mut one = family.encode_family(&labels)?;
        one.encode_histogram::<NoLabelSet>(self.sum_seconds, count, &self.own, None)
    }
}

fn gauge_at(
    family: &mut MetricEncoder<'_>,
    labels: impl EncodeLabelSet,
    value: f64,
) -> fmt::Result {
    family.encode_family(&labels)?.encode_gauge(&value)
}

fn counter_at(
    family: &mut MetricEncoder<'_>,
    labels: impl EncodeLabelSet,
    value: u64,
) -> fmt::Result {
    let mut one = family.encode_family(&labels)?;
    one.encode_counter::<NoLabelSet, u64, u64>(&value, None)
}
