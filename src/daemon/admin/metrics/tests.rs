//! Every statistic has a metric or a reason for having none, and the text is what parsers expect.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;

use super::*;
use crate::daemon::ids::SlotId;
use crate::daemon::stats::events::{self, Event, Kind};
use crate::daemon::stats::{AcceptError, Cause, Field, FleetField, Reason, Statistics};

/// JSON path of each statistic, with its metric or the reason for having none.
const STATISTICS: [(&str, Result<&str, &str>); 53] = [
    ("version", Ok("build_info")),
    ("pid", Err("it is an identifier")),
    ("started_at", Ok("start_time_seconds")),
    ("uptime_seconds", Ok("uptime_seconds")),
    ("phase", Ok("phase")),
    ("ready", Ok("ready")),
    ("workers.wanted", Ok("workers_wanted")),
    ("workers.healthy", Ok("workers_healthy")),
    ("workers.min_healthy", Ok("workers_min_healthy")),
    ("reloads.done", Ok("reloads_total")),
    ("reloads.failed", Ok("reloads_total")),
    ("rates", Err("Prometheus computes rates")),
    ("slots.rates", Err("Prometheus computes rates")),
    ("log_lines_dropped", Ok("log_lines_dropped_total")),
    ("controller_silence_seconds", Ok("controller_silence_seconds")),
    ("admin_restarts", Ok("admin_restarts_total")),
    ("events", Err("they are not numbers")),
    ("others", Ok("workers_beside")),
    ("slots.slot", Err("it is the label")),
    ("slots.state", Ok("worker_state")),
    ("slots.backoff_seconds", Ok("worker_backoff_seconds")),
    ("slots.queue_length", Ok("accept_queue_length")),
    ("slots.queue_limit", Ok("accept_queue_limit")),
    ("slots.restarts", Ok("worker_restarts_total")),
    ("slots.worker.slot", Err("it is the label")),
    ("slots.worker.pid", Err("it is an identifier")),
    ("slots.worker.stage", Err("worker_state has it for the slot")),
    ("slots.worker.connections", Err("it is in connections_active")),
    ("slots.worker.accepted", Err("it is in connections_accepted_total")),
    ("slots.worker.age_seconds", Ok("worker_age_seconds")),
    ("slots.worker.heartbeat_age_seconds", Ok("worker_heartbeat_age_seconds")),
    ("slots.worker.paused", Err("it is in accept_paused")),
    ("totals", Err("they are the sums over the workers")),
    ("slots.figures.connections_active", Ok("connections_active")),
    ("slots.figures.connections_accepted", Ok("connections_accepted_total")),
    ("slots.figures.connections_closed", Ok("connections_closed_total")),
    ("slots.figures.messages", Ok("messages_total")),
    ("slots.figures.bytes_received", Ok("received_bytes_total")),
    ("slots.figures.bytes_sent", Ok("sent_bytes_total")),
    ("slots.figures.bytes_buffered", Ok("buffered_bytes")),
    ("slots.figures.bytes_abandoned", Ok("abandoned_bytes_total")),
    ("slots.figures.bytes_injected", Ok("injected_bytes_total")),
    ("slots.figures.bytes_consumed", Ok("consumed_bytes_total")),
    ("slots.figures.bytes_lost", Ok("lost_bytes")),
    ("slots.figures.accept_errors", Ok("accept_errors_total")),
    ("slots.figures.accept_pauses", Ok("accept_pauses_total")),
    ("slots.figures.accept_paused", Ok("accept_paused")),
    ("slots.figures.event_loop_lag.count", Ok("event_loop_lag_seconds_count")),
    ("slots.figures.event_loop_lag.sum_seconds", Ok("event_loop_lag_seconds_sum")),
    ("slots.figures.event_loop_lag.buckets", Ok("event_loop_lag_seconds_bucket")),
    ("slots.figures.connection_duration.count", Ok("connection_duration_seconds_count")),
    ("slots.figures.connection_duration.sum_seconds", Ok("connection_duration_seconds_sum")),
    ("slots.figures.connection_duration.buckets", Ok("connection_duration_seconds_bucket")),
];

/// Returns a snapshot of two slots, with a former worker of the second one, and a former daemon.
fn snapshot() -> Snapshot {
    let mut statistics = Statistics::new().expect("memory");
    for (slot, amount) in [(2, 100), (1, 10), (2, 1)] {
        let number = statistics.allocate().expect("a block");
        statistics.assign(number, SlotId(slot), 1000 + amount, 5000);
        let block = statistics.block(number);
        block.set(Field::Accepted, amount);
        block.add(Field::Received, amount * 7);
        block.add(Field::Sent, amount * 7);
        block.count_iteration(Duration::from_micros(amount * 100));
        block.count_accept_error(AcceptError::Emfile);
        for _ in 0..amount {
            block.count_closed(Reason::ClientDone, Duration::from_millis(amount * 20), 0);
        }
        if amount == 100 {
            statistics.release(number);
        }
    }
    let layout = statistics.layout();
    layout.set_fleet(FleetField::Wanted, 2);
    layout.count_restart(SlotId(2), Cause::Hung);
    events::record(layout, Event { at_ms: 1, kind: Kind::Serving, slot: SlotId(0), value: 2 });
    let mut snapshot = Snapshot::take(layout, 9000);
    snapshot.totals.messages += 3;
    let bucket = snapshot.totals.connection_duration.buckets.iter_mut().skip(2);
    bucket.for_each(|(_, count)| *count += 4);
    for slot in &mut snapshot.slots {
        let other = Snapshot::take(layout, 9000).others.into_iter();
        slot.worker = other.into_iter().find(|worker| worker.slot == slot.slot);
    }
    snapshot
}

fn usage() -> Usage {
    Usage::of(std::process::id().into())
}

fn text() -> String {
    render(Format::OpenMetrics, &snapshot(), &usage())
}

/// Returns the samples of a text: name with labels, and value.
fn samples(text: &str) -> BTreeMap<&str, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let pairs = lines.map(|line| line.rsplit_once(' ').expect("a value"));
    pairs.map(|(name, value)| (name, value.parse().expect("a number"))).collect()
}

/// Collects the paths of all values, down to those in [`STATISTICS`].
fn paths(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    let known = STATISTICS.iter().any(|(statistic, _)| *statistic == path);
    match value {
        Value::Object(fields) if !known => fields.iter().for_each(|(key, value)| {
            paths(value, &format!("{path}.{key}")[usize::from(path.is_empty())..], found);
        }),
        Value::Array(items) if !known => items.iter().for_each(|item| paths(item, path, found)),
        _ => _ = found.insert(path.to_owned()),
    }
}

#[test]
fn every_statistic_has_a_metric_or_a_reason() {
    let mut found = BTreeSet::new();
    paths(&serde_json::to_value(snapshot()).expect("JSON"), "", &mut found);
    let known: BTreeSet<String> = STATISTICS.iter().map(|(path, _)| (*path).to_owned()).collect();
    assert_eq!(found, known);
    let text = text();
    let names: BTreeSet<&str> =
        samples(&text).into_keys().map(|name| name.split('{').next().unwrap_or(name)).collect();
    for (statistic, metric) in STATISTICS {
        if let Ok(name) = metric {
            assert!(names.contains(&*format!("tcp_echo_{name}")), "{statistic}: {name}");
        }
    }
}

#[test]
fn sum_over_workers_is_the_total() {
    let (snapshot, text) = (snapshot(), text());
    let samples = samples(&text);
    let sum = |name: &str| -> f64 {
        let prefix = format!("tcp_echo_{name}{{");
        samples.iter().filter(|(key, _)| key.starts_with(&prefix)).map(|(_, value)| value).sum()
    };
    let totals = &snapshot.totals;
    assert_eq!(sum("connections_accepted_total"), 111.0);
    assert_eq!(sum("received_bytes_total"), 777.0);
    assert_eq!(sum("messages_total"), totals.messages as f64);
    assert_eq!(samples["tcp_echo_messages_total{worker=\"0\"}"], 3.0, "of a former daemon");
    assert_eq!(sum("connections_closed_total"), 111.0);
    assert_eq!(sum("accept_errors_total"), 3.0);
    assert_eq!(sum("worker_restarts_total"), 1.0);
    assert_eq!(sum("connection_duration_seconds_count"), 115.0);
}

#[test]
fn histogram_is_cumulative() {
    let text = text();
    let samples = samples(&text);
    let at = |le: &str| {
        samples[&*format!("tcp_echo_event_loop_lag_seconds_bucket{{le=\"{le}\",worker=\"2\"}}")]
    };
    assert_eq!(
        (at("0.00005"), at("0.0001"), at("0.01"), at("+Inf")),
        (0.0, 1.0, 2.0, 2.0),
        "{text}"
    );
    assert_eq!(samples["tcp_echo_event_loop_lag_seconds_count{worker=\"2\"}"], 2.0);
    assert_eq!(samples["tcp_echo_event_loop_lag_seconds_sum{worker=\"2\"}"], 0.0101);
}

#[test]
fn classic_text_describes_every_sample() {
    let (snapshot, usage) = (snapshot(), usage());
    let [open, classic] =
        [Format::OpenMetrics, Format::Classic].map(|format| render(format, &snapshot, &usage));
    assert!(open.ends_with("\n# EOF\n") && !classic.contains("# EOF"));
    assert_eq!(samples(&open), samples(&classic));
    let mut described = BTreeSet::new();
    for line in classic.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a type");
            assert_eq!(name.ends_with("_total"), kind == "counter", "{line}");
            assert!(described.insert(name), "{name} is described once");
        }
    }
    for name in samples(&classic).into_keys() {
        let name = name.split('{').next().unwrap_or(name);
        let ends = ["", "_bucket", "_sum", "_count"];
        let is_known =
            ends.iter().any(|end| name.strip_suffix(end).is_some_and(|it| described.contains(it)));
        assert!(is_known, "{name} is not described");
    }
}
