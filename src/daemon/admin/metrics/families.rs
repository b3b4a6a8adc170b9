//! The metric families, each with all its samples.

use super::exposition::Kind::{Counter, Gauge, Histogram};
use super::exposition::{Exposition, Family};
use crate::daemon::stats::histogram::Histogram as Buckets;
use crate::daemon::stats::snapshot::{Counted, Metrics, Slot};
use crate::daemon::stats::{Phase, SlotState, Snapshot};
use crate::sys::usage::Usage;

/// A counter of workers: name, help, value.
type WorkerCounter = (&'static str, &'static str, fn(&Metrics) -> u64);
const COUNTERS: [WorkerCounter; 8] = [
    ("tcp_echo_connections_accepted_total", "Connections accepted", |it| it.connections_accepted),
    ("tcp_echo_messages_total", "Receives answered", |it| it.messages),
    ("tcp_echo_received_bytes_total", "Bytes received and answered", |it| it.bytes_received),
    ("tcp_echo_sent_bytes_total", "Bytes sent", |it| it.bytes_sent),
    ("tcp_echo_abandoned_bytes_total", "Unsent bytes of reset connections", |it| {
        it.bytes_abandoned
    }),
    ("tcp_echo_injected_bytes_total", "Bytes sent that no client sent", |it| it.bytes_injected),
    ("tcp_echo_consumed_bytes_total", "Bytes received by services that do not return them", |it| {
        it.bytes_consumed
    }),
    ("tcp_echo_accept_pauses_total", "Pauses of accepting", |it| it.accept_pauses),
];

/// A gauge of workers: name, help, value.
type WorkerGauge = (&'static str, &'static str, fn(&Metrics) -> i64);
const GAUGES: [WorkerGauge; 4] = [
    ("tcp_echo_connections_active", "Open connections", |it| it.connections_active as i64),
    ("tcp_echo_buffered_bytes", "Bytes waiting to be sent", |it| it.bytes_buffered as i64),
    ("tcp_echo_lost_bytes", "Bytes in flight, or lost if no connection is open", |it| {
        it.bytes_lost
    }),
    ("tcp_echo_accept_paused", "Workers with accepting paused", |it| it.accept_paused as i64),
];

/// Writes the standard metrics of a process, those of the controller. `started_at` is in seconds since
/// 1970.
pub(super) fn process(out: &mut Exposition, usage: &Usage, started_at: f64) {
    if let Some(seconds) = usage.cpu_seconds {
        let help = "CPU time of the controller";
        out.family(Counter, "process_cpu_seconds_total", help).sample(&[], seconds);
    }
    let help = "Start time of the controller, in seconds since 1970";
    gauge(out, "process_start_time_seconds", help, started_at);
    let gauges = [
        ("process_resident_memory_bytes", "Resident memory", usage.resident_bytes),
        ("process_virtual_memory_bytes", "Virtual memory", usage.virtual_bytes),
        ("process_open_fds", "Open file descriptors", usage.open_descriptors),
        ("process_max_fds", "Limit of open file descriptors", usage.max_descriptors),
    ];
    for (name, help, value) in gauges {
        if let Some(value) = value {
            out.family(Gauge, name, help).sample(&[], value);
        }
    }
}

/// Writes the metrics of the whole daemon.
pub(super) fn daemon(out: &mut Exposition, all: &Snapshot) {
    let mut build = out.family(Gauge, "tcp_echo_build_info", "Version of the daemon; always 1");
    build.sample(&[("version", all.version)], 1);
    let help = "Start time of the daemon, in seconds since 1970";
    gauge(out, "tcp_echo_start_time_seconds", help, all.started_at);
    gauge(out, "tcp_echo_uptime_seconds", "Time since the start", all.uptime_seconds);
    let help = "1 if the daemon serves with enough healthy workers";
    gauge(out, "tcp_echo_ready", help, flag(all.ready));
    let help = "Time since the last sign of life of the controller";
    gauge(out, "tcp_echo_controller_silence_seconds", help, all.controller_silence_seconds);
    let draining = all.phase == Phase::Draining;
    gauge(out, "tcp_echo_draining", "1 if the daemon is stopping", flag(draining));
    let mut phase = out.family(Gauge, "tcp_echo_phase", "1 for the phase the daemon is in");
    for one in Phase::ALL {
        phase.sample(&[("phase", one.label())], flag(*one == all.phase));
    }
    let workers = [
        ("tcp_echo_workers_wanted", "Configured number of workers", all.workers.wanted),
        ("tcp_echo_workers_healthy", "Ready and responsive workers", all.workers.healthy),
        (
            "tcp_echo_workers_min_healthy",
            "Healthy workers required for readiness",
            all.workers.min_healthy,
        ),
        (
            "tcp_echo_workers_beside",
            "Workers that leave a slot or will take it over",
            all.others.len() as u64,
        ),
    ];
    for (name, help, value) in workers {
        out.family(Gauge, name, help).sample(&[], value);
    }
    let mut reloads = out.family(Counter, "tcp_echo_reloads_total", "Reloads by result");
    reloads.sample(&[("result", "done")], all.reloads.done);
    reloads.sample(&[("result", "failed")], all.reloads.failed);
    let mut dropped =
        out.family(Counter, "tcp_echo_log_lines_dropped_total", "Log lines not written");
    dropped.sample(&[], all.log_lines_dropped);
    let help = "Restarts of the admin process";
    out.family(Counter, "tcp_echo_admin_restarts_total", help).sample(&[], all.admin_restarts);
}

/// Writes what workers count.
pub(super) fn workers(out: &mut Exposition, all: &Snapshot) {
    for (name, help, get) in COUNTERS {
        counters(&mut out.family(Counter, name, help), all, None, get);
    }
    for (name, help, get) in GAUGES {
        let mut family = out.family(Gauge, name, help);
        for slot in &all.slots {
            family.sample(&[("worker", &name_of(slot))], get(&slot.metrics));
        }
    }
    let help = "Closed connections by reason";
    let mut closed = out.family(Counter, "tcp_echo_connections_closed_total", help);
    for &(reason, _) in &all.totals.connections_closed.0 {
        let label = Some(("reason", reason.label()));
        counters(&mut closed, all, label, |it| count_of(&it.connections_closed, reason));
    }
    let help = "Failures of accept(2) by errno";
    let mut errors = out.family(Counter, "tcp_echo_accept_errors_total", help);
    for &(error, _) in &all.totals.accept_errors.0 {
        let label = Some(("errno", error.label()));
        counters(&mut errors, all, label, |it| count_of(&it.accept_errors, error));
    }
    let help = "Duration of event loop iterations, the longest that an event may wait";
    let mut family = out.family(Histogram, "tcp_echo_event_loop_lag_seconds", help);
    histograms(&mut family, all, |it| &it.event_loop_lag);
    let help = "Duration of closed connections";
    let mut family = out.family(Histogram, "tcp_echo_connection_duration_seconds", help);
    histograms(&mut family, all, |it| &it.connection_duration);
}

/// Writes the controller's view of the slots and their workers.
pub(super) fn slots(out: &mut Exposition, all: &Snapshot) {
    let up = |slot: &Slot| Some(flag(slot.state == SlotState::Serving).into());
    of_slots(out, present(all), "tcp_echo_worker_up", "1 if the slot's worker serves", up);
    let mut states = out.family(Gauge, "tcp_echo_worker_state", "1 for the state the slot is in");
    for slot in present(all) {
        for one in SlotState::ALL {
            let labels = [("worker", &*name_of(slot)), ("state", one.label())];
            states.sample(&labels, flag(*one == slot.state));
        }
    }
    let help = "Replaced workers by cause";
    let mut restarts = out.family(Counter, "tcp_echo_worker_restarts_total", help);
    for slot in &all.slots {
        for (cause, count) in &slot.restarts.0 {
            restarts.sample(&[("worker", &name_of(slot)), ("cause", cause.label())], count);
        }
    }
    let help = "Time until the slot's next worker starts";
    of_slots(out, present(all), "tcp_echo_worker_backoff_seconds", help, |it| {
        Some(it.backoff_seconds)
    });
    let help = "Time since the last iteration of the worker's event loop";
    of_slots(out, &all.slots, "tcp_echo_worker_heartbeat_age_seconds", help, |it| {
        it.worker.map(|worker| worker.heartbeat_age_seconds)
    });
    let help = "Time since the worker was started";
    of_slots(out, &all.slots, "tcp_echo_worker_age_seconds", help, |it| {
        it.worker.map(|worker| worker.age_seconds)
    });
    let help = "Connections waiting to be accepted";
    of_slots(out, present(all), "tcp_echo_accept_queue_length", help, |it| {
        Some(it.queue_length as f64)
    });
    let help = "Connections that may wait to be accepted";
    of_slots(out, present(all), "tcp_echo_accept_queue_limit", help, |it| {
        Some(it.queue_limit as f64)
    });
}

fn gauge(out: &mut Exposition, name: &'static str, help: &str, value: impl Into<f64>) {
    out.family(Gauge, name, help).sample(&[], value.into());
}

/// Writes a gauge of those of `slots` that have a value.
fn of_slots<'a>(
    out: &mut Exposition,
    slots: impl IntoIterator<Item = &'a Slot>,
    name: &'static str,
    help: &str,
    get: fn(&Slot) -> Option<f64>,
) {
    let mut family = out.family(Gauge, name, help);
    for slot in slots {
        if let Some(value) = get(slot) {
            family.sample(&[("worker", &name_of(slot))], value);
        }
    }
}

/// Returns the slots without those that scaling has removed.
fn present(all: &Snapshot) -> impl Iterator<Item = &Slot> {
    let wanted = all.workers.wanted;
    let there =
        move |slot: &&Slot| u64::from(slot.slot) <= wanted || slot.state != SlotState::Empty;
    all.slots.iter().filter(there)
}

/// Returns the value of the label `worker`.
fn name_of(slot: &Slot) -> String {
    slot.slot.to_string()
}

fn flag(value: bool) -> u8 {
    value.into()
}

fn count_of<K: Copy + PartialEq>(counted: &Counted<K>, kind: K) -> u64 {
    counted.0.iter().find(|(one, _)| *one == kind).map_or(0, |(_, count)| *count)
}

/// Writes a counter of every slot, and the part of the total that is in no slot as worker 0.
fn counters(
    family: &mut Family<'_>,
    all: &Snapshot,
    label: Option<(&str, &str)>,
    get: impl Fn(&Metrics) -> u64,
) {
    let mut write = |worker: &str, value: u64| {
        let labels: Vec<_> = [("worker", worker)].into_iter().chain(label).collect();
        family.sample(&labels, value);
    };
    let mut former = get(&all.totals);
    for slot in &all.slots {
        let value = get(&slot.metrics);
        former = former.saturating_sub(value);
        write(&name_of(slot), value);
    }
    if former > 0 {
        write("0", former);
    }
}

/// Writes a histogram of every slot, and the part of the total that is in no slot as worker 0.
fn histograms(family: &mut Family<'_>, all: &Snapshot, get: fn(&Metrics) -> &Buckets) {
    let mut former = get(&all.totals).clone();
    for slot in &all.slots {
        let own = get(&slot.metrics);
        family.histogram(&name_of(slot), &own.buckets, own.sum_seconds);
        for ((_, count), (_, less)) in former.buckets.iter_mut().zip(&own.buckets) {
            *count = count.saturating_sub(*less);
        }
        former.sum_seconds = (former.sum_seconds - own.sum_seconds).max(0.0);
    }
    if former.buckets.last().is_some_and(|(_, count)| *count > 0) {
        family.histogram("0", &former.buckets, former.sum_seconds);
    }
}
