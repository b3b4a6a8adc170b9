//! Every figure has its family, and the text is what parsers expect.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;

use super::*;
use crate::stats::events::{self, Event, Kind};
use crate::stats::{AcceptError, Cause, FleetWord, Reason, Statistics, Word};

/// Where each figure of the snapshot is to be found; or why it is not among the metrics.
const FIGURES: [(&str, Result<&str, &str>); 52] = [
    ("version", Ok("build_info")),
    ("pid", Err("it identifies, and measures nothing")),
    ("started_at", Ok("start_time_seconds")),
    ("uptime_seconds", Ok("uptime_seconds")),
    ("phase", Ok("phase")),
    ("ready", Ok("ready")),
    ("workers.wanted", Ok("workers_wanted")),
    ("workers.healthy", Ok("workers_healthy")),
    ("workers.min_healthy", Ok("workers_min_healthy")),
    ("reloads.done", Ok("reloads_total")),
    ("reloads.failed", Ok("reloads_total")),
    ("rates", Err("Prometheus works out rates by itself")),
    ("slots.rates", Err("Prometheus works out rates by itself")),
    ("log_lines_dropped", Ok("log_lines_dropped_total")),
    ("controller_silence_seconds", Ok("controller_silence_seconds")),
    ("admin_restarts", Ok("admin_restarts_total")),
    ("events", Err("they are no figures")),
    ("others", Ok("workers_beside")),
    ("slots.slot", Err("it is the label")),
    ("slots.state", Ok("worker_state")),
    ("slots.backoff_seconds", Ok("worker_backoff_seconds")),
    ("slots.queue_length", Ok("accept_queue_length")),
    ("slots.queue_limit", Ok("accept_queue_limit")),
    ("slots.restarts", Ok("worker_restarts_total")),
    ("slots.worker.slot", Err("it is the label")),
    ("slots.worker.pid", Err("it identifies, and measures nothing")),
    ("slots.worker.stage", Err("what counts is the state of the slot")),
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

/// Two slots; the second has had a worker before, and there was a daemon before this one.
fn snapshot() -> Snapshot {
    let mut statistics = Statistics::new().expect("memory");
    for (slot, amount) in [(2, 100), (1, 10), (2, 1)] {
        let number = statistics.take_seat().expect("a seat");
        statistics.seat_worker(number, slot, 1000 + amount, 5000);
        let seat = statistics.seat(number);
        seat.set(Word::Accepted, amount);
        seat.add(Word::Received, amount * 7);
        seat.add(Word::Sent, amount * 7);
        seat.turned(Duration::from_micros(amount * 100));
        seat.not_accepted(AcceptError::Emfile);
        for _ in 0..amount {
            seat.closed(Reason::ClientDone, Duration::from_millis(amount * 20), 0);
        }
        if amount == 100 {
            statistics.free_seat(number);
        }
    }
    let layout = statistics.layout();
    layout.set_fleet(FleetWord::Wanted, 2);
    layout.count_restart(2, Cause::Hung);
    events::record(layout, Event { at_ms: 1, kind: Kind::Serving, slot: 0, value: 2 });
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

fn text() -> String {
    render(&snapshot(), Usage::of(std::process::id().into())).expect("text")
}

/// The samples: name with labels, and value.
fn samples(text: &str) -> BTreeMap<&str, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let pairs = lines.map(|line| line.rsplit_once(' ').expect("a value"));
    pairs.map(|(name, value)| (name, value.parse().expect("a number"))).collect()
}

/// The paths of all figures, down to where [`FIGURES`] knows them.
fn paths(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    let known = FIGURES.iter().any(|(figure, _)| *figure == path);
    match value {
        Value::Object(fields) if !known => fields.iter().for_each(|(key, value)| {
            paths(value, &format!("{path}.{key}")[usize::from(path.is_empty())..], found);
        }),
        Value::Array(items) if !known => items.iter().for_each(|item| paths(item, path, found)),
        _ => _ = found.insert(path.to_owned()),
    }
}

#[test]
fn every_figure_is_there_or_left_out_for_a_reason() {
    let mut found = BTreeSet::new();
    paths(&serde_json::to_value(snapshot()).expect("JSON"), "", &mut found);
    let known: BTreeSet<String> = FIGURES.iter().map(|(path, _)| (*path).to_owned()).collect();
    assert_eq!(found, known);
    let text = text();
    let names: BTreeSet<&str> =
        samples(&text).into_keys().map(|name| name.split('{').next().unwrap_or(name)).collect();
    for (figure, place) in FIGURES {
        if let Ok(name) = place {
            assert!(names.contains(&*format!("tcp_echo_{name}")), "{figure}: {name}");
        }
    }
}

#[test]
fn the_sum_over_the_workers_is_the_total() {
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
fn a_histogram_adds_up_and_has_an_end() {
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
fn the_classic_text_describes_what_it_shows() {
    let open = text();
    let classic = classic(&open);
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

#[test]
fn the_client_chooses() {
    for (accept, open) in [
        ("application/openmetrics-text", true),
        ("text/plain;q=0.3, application/openmetrics-text; version=1.0.0; q=0.5", true),
        ("Application/OpenMetrics-Text;Q=0.1", true),
        ("text/plain, application/openmetrics-text;q=0.5", false),
        ("application/openmetrics-text;q=0", false),
        ("application/openmetrics-text;q=x", false),
        ("*/*", false),
        ("", false),
    ] {
        assert_eq!(prefers_open(&[accept]), open, "{accept}");
    }
    assert!(prefers_open(&["text/html", "application/openmetrics-text"]));
}
