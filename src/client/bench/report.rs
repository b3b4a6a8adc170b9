//! What a run has found out: for people, and for programs.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;
use serde_json::{Map, Value};

use super::plan::{Plan, Traffic};
use super::tally::{Cause, Tally};
use crate::client::amount;

/// The result. Its fields are the keys of the JSON object, which stay as they are.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    server: String,
    connections: Connections,
    /// From the beginning to the end of the run, or to the last echo if that came later.
    seconds: f64,
    messages: u64,
    messages_per_second: f64,
    bytes_sent: u64,
    bytes_received: u64,
    /// Messages that were due and not sent.
    bytes_lost: u64,
    unsent: u64,
    latency_us: Latency,
    errors: Map<String, Value>,
    first_error: Option<String>,
    #[serde(skip)]
    description: String,
    #[serde(skip)]
    from_intended_time: bool,
    #[serde(skip)]
    wrong: bool,
}

#[derive(Debug, Serialize)]
struct Connections {
    opened: u64,
    failed: u64,
    closed: u64,
}

/// Microseconds; null where there was no message.
#[derive(Debug, Serialize)]
struct Latency {
    p50: Option<f64>,
    p90: Option<f64>,
    p99: Option<f64>,
    p99_9: Option<f64>,
    max: Option<f64>,
}

impl Latency {
    fn of(latency: &Histogram<u64>) -> Self {
        let tenths = |nanoseconds: u64| (nanoseconds as f64 / 100.0).round() / 10.0;
        let at = |quantile: f64| {
            (!latency.is_empty()).then(|| tenths(latency.value_at_quantile(quantile)))
        };
        Self { p50: at(0.5), p90: at(0.9), p99: at(0.99), p99_9: at(0.999), max: at(1.0) }
    }
}

impl Report {
    /// What all threads together have counted.
    pub(super) fn new(plan: &Plan, tally: &Tally) -> Self {
        let seconds = tally.ended.max(tally.last_echo) as f64 / 1e9;
        let count = |cause: Cause| (cause.key().to_owned(), tally.errors(cause).into());
        let wrong = Cause::ALL.iter().any(|c| c.is_wrong_echo() && tally.errors(*c) > 0);
        Self {
            server: plan.target.to_string(),
            connections: Connections {
                opened: tally.opened,
                failed: tally.failed,
                closed: tally.closed,
            },
            seconds: (seconds * 1e3).round() / 1e3,
            messages: tally.messages,
            messages_per_second: (tally.messages as f64 / seconds.max(1e-9) * 10.0).round() / 10.0,
            bytes_sent: tally.bytes_sent,
            bytes_received: tally.bytes_received,
            bytes_lost: tally.bytes_lost,
            unsent: tally.unsent,
            latency_us: Latency::of(&tally.latency),
            errors: Cause::ALL.into_iter().map(count).collect(),
            first_error: tally.first_error.clone(),
            description: plan.describe(),
            from_intended_time: matches!(plan.traffic, Traffic::Open { .. }),
            wrong,
        }
    }

    /// Whether the server has echoed, and nothing but what it was sent.
    pub(super) fn is_good(&self) -> bool {
        self.bytes_received > 0 && self.bytes_lost == 0 && !self.wrong
    }

    /// One line for programs.
    pub(super) fn json(&self) -> String {
        serde_json::to_string(self).expect("numbers and texts have a form in JSON")
    }

    /// Some lines for people.
    pub(super) fn text(&self) -> String {
        let Connections { opened, failed, closed } = self.connections;
        let count = amount::count;
        let throughput = |bytes: u64| amount::throughput(bytes as f64 / self.seconds.max(1e-9));
        let mut lines = vec![
            format!("{}, {} s", self.description, self.seconds),
            format!(
                "connections  {} opened, {} failed, {} closed",
                count(opened),
                count(failed),
                count(closed)
            ),
        ];
        if let Some(latency) = self.latency() {
            let rate = amount::rate(self.messages_per_second);
            lines.push(format!("messages     {}, {rate} a second", count(self.messages)));
            lines.push(latency);
        }
        lines.push(format!(
            "throughput   {} sent, {} received",
            throughput(self.bytes_sent),
            throughput(self.bytes_received)
        ));
        if self.bytes_lost > 0 {
            let lost = count(self.bytes_lost);
            lines.push(format!("lost         {lost} bytes, on connections that failed"));
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
        let time = |micros: f64| amount::time(Duration::from_nanos((micros * 1e3) as u64));
        let since = if self.from_intended_time { " from when it was due" } else { "" };
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
        let present = Cause::ALL.into_iter().filter_map(|cause| {
            let number = self.errors.get(cause.key())?.as_u64().filter(|number| *number > 0)?;
            Some(format!("{} {}", amount::count(number), cause.key().replace('_', " ")))
        });
        let text = present.collect::<Vec<_>>().join(", ");
        if text.is_empty() { "none".to_owned() } else { text }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::super::tally::Trouble;
    use super::*;
    use crate::cli::{Cli, ClientCommand, SideCommand};

    fn plan(options: &str) -> Plan {
        let words = format!("bench {options}").split_whitespace().map(OsString::from).collect();
        match Cli::parse_from(words, |_| None).expect(options).command {
            Some(SideCommand::Client(ClientCommand::Bench(arguments))) => {
                Plan::new(&arguments).expect(options)
            }
            other => panic!("{other:?}"),
        }
    }

    /// Ten seconds in which 999 messages took 100 µs and one 200 ms.
    fn tally() -> Tally {
        let mut tally = Tally::new();
        (0..999).for_each(|_| tally.message(100_000));
        tally.message(200_000_000);
        (tally.opened, tally.closed) = (1_002, 1_002);
        (tally.bytes_sent, tally.bytes_received) = (64_000, 64_000);
        (tally.ended, tally.last_echo) = (10_000_000_000, 9_000_000_000);
        tally
    }

    #[test]
    fn people_get_some_lines() {
        assert_eq!(
            Report::new(&plan("-c 2 -r 50"), &tally()).text(),
            "127.0.0.1:8090: 2 connections, messages of 64 bytes, 50 a second on each, 10 s\n\
             connections  1 002 opened, 0 failed, 1 002 closed\n\
             messages     1 000, 100 a second\n\
             latency      p50 100 µs, p90 100 µs, p99 100 µs, p99.9 100 µs, max 200 ms \
             from when it was due\n\
             throughput   6.40 kB/s sent, 6.40 kB/s received\n\
             errors       none"
        );
    }

    #[test]
    fn errors_are_told_by_cause_with_the_first_one_in_words() {
        let mut tally = tally();
        tally.unsent = 3;
        (0..1_234).for_each(|_| tally.error(Trouble::new(Cause::Reset, "reset")));
        tally.error(Trouble::new(Cause::Closed, "closed"));
        let report = Report::new(&plan(""), &tally);
        let text = report.text();
        assert!(text.ends_with(
            "unsent       3 messages were due\n\
             errors       1 234 reset, 1 closed\n\
             first error  reset"
        ));
        assert!(report.is_good(), "no byte was wrong");
        tally.bytes_lost = 64;
        let report = Report::new(&plan(""), &tally);
        assert!(!report.is_good() && report.text().contains("\nlost         64 bytes, on conn"));
        tally.bytes_lost = 0;
        tally.error(Trouble::new(Cause::LostBytes, "lost"));
        assert!(!Report::new(&plan(""), &tally).is_good());
        assert!(!Report::new(&plan(""), &Tally::new()).is_good(), "nothing came back");
    }

    #[test]
    fn the_keys_of_the_json_object_stay_as_they_are() {
        let json = Report::new(&plan(""), &tally()).json();
        let latency =
            "{\"p50\":100.0,\"p90\":100.0,\"p99\":100.0,\"p99_9\":100.0,\"max\":200000.0}";
        let begin = "{\"server\":\"127.0.0.1:8090\",\
             \"connections\":{\"opened\":1002,\"failed\":0,\"closed\":1002},\
             \"seconds\":10.0,\"messages\":1000,\"messages_per_second\":100.0,\
             \"bytes_sent\":64000,\"bytes_received\":64000,\"bytes_lost\":0,\"unsent\":0,\"latency_us\":";
        let rest = json.strip_prefix(begin).expect(&json);
        assert_eq!(rest.find(",\"errors\":{"), Some(latency.len()), "{json}");
        let value: Value = serde_json::from_str(&json).expect("an object");
        for cause in Cause::ALL {
            assert_eq!(value["errors"][cause.key()], 0, "{json}");
        }
        assert_eq!(value["first_error"], Value::Null);

        let json = Report::new(&plan("--stream"), &Tally::new()).json();
        let value: Value = serde_json::from_str(&json).expect("an object");
        assert_eq!(value["latency_us"]["p50"], Value::Null, "{json}");
        assert_eq!(value["messages_per_second"], 0.0, "{json}");
    }
}
