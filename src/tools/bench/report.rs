//! The report of a run: lines of text, or one JSON object.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::stats::{Cause, ErrorCounts, LoadStats};
use super::workload::{Traffic, Workload};
use crate::text;

/// The result of a run. The fields are the keys of the JSON object, which are stable.
#[derive(Debug, Serialize)]
pub(super) struct LoadReport {
    server: String,
    connections: ConnectionCounts,
    /// Time from the start to the end of the run or to the last echo, whichever is later.
    seconds: f64,
    messages: u64,
    messages_per_second: f64,
    bytes_sent: u64,
    bytes_received: u64,
    bytes_lost: u64,
    unsent: u64,
    latency_us: Latency,
    errors: ErrorCounts,
    first_error: Option<String>,
    #[serde(skip)]
    description: String,
    #[serde(skip)]
    is_open_loop: bool,
}

#[derive(Debug, Serialize)]
struct ConnectionCounts {
    opened: u64,
    failed: u64,
    closed: u64,
}

/// Latency percentiles in microseconds; `None` without messages.
#[derive(Debug, Serialize)]
struct Latency {
    p50: Option<f64>,
    p90: Option<f64>,
    p99: Option<f64>,
    p99_9: Option<f64>,
    max: Option<f64>,
}

impl Latency {
    fn new(latency: &Histogram<u64>) -> Self {
        let round_to_tenths = |nanoseconds: u64| (nanoseconds as f64 / 100.0).round() / 10.0;
        let at = |quantile: f64| {
            (!latency.is_empty()).then(|| round_to_tenths(latency.value_at_quantile(quantile)))
        };
        Self { p50: at(0.5), p90: at(0.9), p99: at(0.99), p99_9: at(0.999), max: at(1.0) }
    }
}

impl LoadReport {
    /// Builds the report from the stats of all threads.
    pub(super) fn new(workload: &Workload, stats: &LoadStats) -> Self {
        let seconds = stats.ended.max(stats.last_echo) as f64 / 1e9;
        Self {
            server: workload.target.to_string(),
            connections: ConnectionCounts {
                opened: stats.opened,
                failed: stats.failed,
                closed: stats.closed,
            },
            seconds: (seconds * 1e3).round() / 1e3,
            messages: stats.messages,
            messages_per_second: (stats.messages as f64 / seconds.max(1e-9) * 10.0).round() / 10.0,
            bytes_sent: stats.bytes_sent,
            bytes_received: stats.bytes_received,
            bytes_lost: stats.bytes_lost,
            unsent: stats.unsent,
            latency_us: Latency::new(&stats.latency),
            errors: stats.errors,
            first_error: stats.first_error.clone(),
            description: workload.describe(),
            is_open_loop: matches!(workload.traffic, Traffic::Open { .. }),
        }
    }

    /// Returns `true` if the server echoed at least one byte and every echo was exact.
    pub(super) fn is_good(&self) -> bool {
        let inexact = [Cause::LostBytes, Cause::WrongBytes, Cause::ExcessBytes];
        self.bytes_received > 0
            && self.bytes_lost == 0
            && inexact.iter().all(|cause| self.errors.of(*cause) == 0)
    }

    /// Returns the report as one line of JSON.
    pub(super) fn json(&self) -> String {
        serde_json::to_string(self).expect("numbers and strings can be serialized")
    }

    /// Returns the report as lines of text.
    pub(super) fn text(&self) -> String {
        let ConnectionCounts { opened, failed, closed } = self.connections;
        let count = text::count;
        let throughput = |bytes: u64| text::throughput(bytes as f64 / self.seconds.max(1e-9));
        let (opened, failed, closed) = (count(opened), count(failed), count(closed));
        let mut lines = vec![
            format!("{}, {} s", self.description, self.seconds),
            format!("connections  {opened} opened, {failed} failed, {closed} closed"),
        ];
        if let Some(latency) = self.latency() {
            let rate = text::rate(self.messages_per_second);
            lines.push(format!("messages     {}, {rate} per second", count(self.messages)));
            lines.push(latency);
        }
        lines.push(format!(
            "throughput   {} sent, {} received",
            throughput(self.bytes_sent),
            throughput(self.bytes_received)
        ));
        if self.bytes_lost > 0 {
            lines.push(format!(
                "lost         {} bytes on failed connections",
                count(self.bytes_lost)
            ));
        }
        if self.unsent > 0 {
            lines.push(format!("unsent       {} messages were due", count(self.unsent)));
        }
        lines.push(format!("errors       {}", self.errors()));
        if let Some(first) = &self.first_error {
            lines.push(format!("first error  {first}"));
        }
        lines.join("\n")
    }

    fn latency(&self) -> Option<String> {
        let Latency { p50, p90, p99, p99_9, max } = self.latency_us;
        let time = |micros: f64| text::time(Duration::from_nanos((micros * 1e3) as u64));
        let since = if self.is_open_loop { " from the intended time" } else { "" };
        Some(format!(
            "latency      p50 {}, p90 {}, p99 {}, p99.9 {}, max {}{since}",
            time(p50?),
            time(p90?),
            time(p99?),
            time(p99_9?),
            time(max?),
        ))
    }

    fn errors(&self) -> String {
        let present = self.errors.iter().filter(|(_, count)| *count > 0);
        let texts = present
            .map(|(key, number)| format!("{} {}", text::count(number), key.replace('_', " ")));
        let text = texts.collect::<Vec<_>>().join(", ");
        if text.is_empty() { "none".to_owned() } else { text }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::stats::ConnectionError;
    use super::*;
    use crate::tools::parse_options;

    fn report_of(options: &str, stats: &LoadStats) -> LoadReport {
        LoadReport::new(&Workload::new(&parse_options(options)).expect(options), stats)
    }

    /// Stats of ten seconds in which 999 messages took 100 µs and one 200 ms.
    fn stats() -> LoadStats {
        let mut stats = LoadStats::new();
        (0..999).for_each(|_| stats.count_message(100_000));
        stats.count_message(200_000_000);
        (stats.opened, stats.closed) = (1_002, 1_002);
        (stats.bytes_sent, stats.bytes_received) = (64_000, 64_000);
        (stats.ended, stats.last_echo) = (10_000_000_000, 9_000_000_000);
        stats
    }

    #[test]
    fn the_text_has_a_line_for_each_figure() {
        assert_eq!(
            report_of("-c 2 -r 50", &stats()).text(),
            "127.0.0.1:8090: 2 connections, messages of 64 bytes, 50 per second on each, 10 s\n\
             connections  1 002 opened, 0 failed, 1 002 closed\n\
             messages     1 000, 100 per second\n\
             latency      p50 100 µs, p90 100 µs, p99 100 µs, p99.9 100 µs, max 200 ms \
             from the intended time\n\
             throughput   6.40 kB/s sent, 6.40 kB/s received\n\
             errors       none"
        );
    }

    #[test]
    fn errors_are_listed_by_cause_with_the_first_one_in_detail() {
        let mut stats = stats();
        stats.unsent = 3;
        (0..1_234).for_each(|_| stats.count_error(ConnectionError::new(Cause::Reset, "reset")));
        stats.count_error(ConnectionError::new(Cause::Closed, "closed"));
        let report = report_of("", &stats);
        let text = report.text();
        assert!(text.ends_with(
            "unsent       3 messages were due\n\
             errors       1 234 reset, 1 closed\n\
             first error  reset"
        ));
        assert!(report.is_good(), "no byte was wrong");
        stats.bytes_lost = 64;
        let report = report_of("", &stats);
        assert!(!report.is_good() && report.text().contains("\nlost         64 bytes on failed"));
        stats.bytes_lost = 0;
        stats.count_error(ConnectionError::new(Cause::LostBytes, "lost"));
        assert!(!report_of("", &stats).is_good());
        assert!(!report_of("", &LoadStats::new()).is_good(), "nothing came back");
    }

    #[test]
    fn the_keys_of_the_json_object_are_stable() {
        let json = report_of("", &stats()).json();
        let latency =
            "{\"p50\":100.0,\"p90\":100.0,\"p99\":100.0,\"p99_9\":100.0,\"max\":200000.0}";
        let begin = "{\"server\":\"127.0.0.1:8090\",\
             \"connections\":{\"opened\":1002,\"failed\":0,\"closed\":1002},\
             \"seconds\":10.0,\"messages\":1000,\"messages_per_second\":100.0,\
             \"bytes_sent\":64000,\"bytes_received\":64000,\"bytes_lost\":0,\"unsent\":0,\"latency_us\":";
        let rest = json.strip_prefix(begin).expect(&json);
        assert_eq!(rest.find(",\"errors\":{"), Some(latency.len()), "{json}");
        let value: Value = serde_json::from_str(&json).expect("an object");
        for (_, key) in Cause::ALL {
            assert_eq!(value["errors"][key], 0, "{json}");
        }
        assert_eq!(value["first_error"], Value::Null);

        let json = report_of("--stream", &LoadStats::new()).json();
        let value: Value = serde_json::from_str(&json).expect("an object");
        assert_eq!(value["latency_us"]["p50"], Value::Null, "{json}");
        assert_eq!(value["messages_per_second"], 0.0, "{json}");
    }
}
