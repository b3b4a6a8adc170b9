//! The cases: loads, and their bars.

use crate::bars::Against::{Floor, Others, Peers, Predecessor};
use crate::bars::Ratio;
use crate::measure::Metric::{self, *};
use crate::table::grouped;

/// Names of the measurements that are not cases.
const OTHERS: [&str; 5] = ["memory", "respawn", "watched", "open", "latency"];

/// Returns every name that `only=` accepts.
pub(crate) fn names() -> Vec<&'static str> {
    all().iter().map(|case| case.name).chain(OTHERS).collect()
}

/// Maximum number of connections for the server with a thread for each.
pub(crate) const MANY: u32 = 2_000;

/// Traffic of the connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Traffic {
    /// Messages of this many bytes, each sent after the echo of the one before.
    Messages(u32),
    /// Sixteen messages of this many bytes in flight.
    Pipelined(u32),
    /// Continuous data in both directions.
    Stream,
    /// Connect, one echo of 64 bytes, and close, repeatedly.
    Churn,
}

/// A load that all servers get in turn.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    /// Name for `only=`.
    pub name: &'static str,
    pub title: String,
    pub connections: u32,
    pub traffic: Traffic,
    /// Length of a turn in the short mode, in seconds.
    pub seconds: f64,
    /// Figures in the table, which shows ratios of the first one.
    pub columns: &'static [Metric],
    pub bars: Vec<Ratio>,
    /// `true` if tcp-echo runs with --busy-poll.
    pub busy_poll: bool,
}

const MESSAGES: &[Metric] = &[CpuPerEcho, Echoes, P50, P99, P999];
const BULK: &[Metric] = &[CpuPerKib, Throughput, LoadBusy, P50, P99];
const STREAM: &[Metric] = &[CpuPerKib, Throughput, LoadBusy];

impl Case {
    /// Returns `true` if the case has bars, and so belongs to the short mode.
    pub(crate) fn is_for_all(&self) -> bool {
        !self.bars.is_empty()
    }
}

pub(crate) fn all() -> Vec<Case> {
    let noise = 0.03;
    let small = [
        Ratio::at_most(CpuPerEcho, Floor, 1.0).with_noise(noise),
        Ratio::at_most(CpuPerEcho, Peers, 1.0),
        Ratio::at_most(CpuPerEcho, Predecessor, 0.8),
    ];
    let crowd = [&small[..], &[Ratio::at_most(P99, Peers, 1.0)]].concat();
    let bulk = [Ratio::at_most(CpuPerKib, Peers, 0.6), Ratio::at_least(Throughput, Peers, 1.3)];
    let stream = [Ratio::at_most(CpuPerKib, Peers, 0.75), Ratio::at_least(Throughput, Peers, 1.0)];
    vec![
        messages("64x50", 64, 50, &small),
        messages("64x1000", 64, 1_000, &crowd),
        messages("16Kx50", 16 << 10, 50, &[Ratio::at_most(CpuPerKib, Peers, 1.0)]),
        messages("256Kx10", 256 << 10, 10, &bulk),
        streams("stream10", 10, &stream),
        ping_pong(),
        churn(),
        messages("64x1", 64, 1, &[]),
        messages("64x10", 64, 10, &[]),
        messages("64x100", 64, 100, &[]),
        messages("64x10000", 64, 10_000, &[]),
        messages("1Kx50", 1 << 10, 50, &[]),
        messages("4Kx50", 4 << 10, 50, &[]),
        messages("64Kx50", 64 << 10, 50, &[]),
        messages("256Kx50", 256 << 10, 50, &[]),
        messages("1Mx10", 1 << 20, 10, &[]),
        messages("16Kx1000", 16 << 10, 1_000, &[]),
        streams("stream1", 1, &[]),
        streams("stream100", 100, &[]),
        pipeline(),
    ]
}

fn messages(name: &'static str, size: u32, connections: u32, bars: &[Ratio]) -> Case {
    let bytes = match size {
        1_048_576.. => format!("{} MiB", size >> 20),
        1_024.. => format!("{} KiB", size >> 10),
        _ => format!("{size} B"),
    };
    Case {
        name,
        title: format!("{bytes} × {}, one message at a time", describe_connections(connections)),
        connections,
        traffic: Traffic::Messages(size),
        // Opening a thousand connections must not dominate.
        seconds: if connections >= 1_000 { 1.5 } else { 0.7 },
        columns: if size >= 16 << 10 { BULK } else { MESSAGES },
        bars: bars.to_vec(),
        busy_poll: false,
    }
}

fn describe_connections(connections: u32) -> String {
    match connections {
        1 => "1 connection".to_owned(),
        more => format!("{} connections", grouped(f64::from(more))),
    }
}

fn streams(name: &'static str, connections: u32, bars: &[Ratio]) -> Case {
    Case {
        title: format!("a stream in both directions × {}", describe_connections(connections)),
        traffic: Traffic::Stream,
        columns: STREAM,
        ..messages(name, 1, connections, bars)
    }
}

fn ping_pong() -> Case {
    Case {
        title: "ping-pong on 1 connection; tcp-echo with --busy-poll".to_owned(),
        columns: &[P50, P99, Echoes, CpuPerEcho],
        seconds: 0.4,
        busy_poll: true,
        ..messages("ping-pong", 64, 1, &[Ratio::at_most(P50, Others, 0.5)])
    }
}

fn churn() -> Case {
    Case {
        title: "connect, one echo of 64 B, close; 10 connections at once".to_owned(),
        traffic: Traffic::Churn,
        columns: &[CpuPerConnection, Connections],
        ..messages("churn", 64, 10, &[Ratio::at_most(CpuPerConnection, Floor, 1.0)])
    }
}

fn pipeline() -> Case {
    Case {
        title: "64 B × 50 connections, 16 messages under way on each".to_owned(),
        traffic: Traffic::Pipelined(64),
        ..messages("pipeline", 64, 50, &[])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_have_unique_names_and_columns() {
        let names = names();
        for (index, name) in names.iter().enumerate() {
            assert!(!names[..index].contains(name), "{name}");
        }
        let cases = all();
        assert!(cases.iter().all(|case| !case.columns.is_empty()));
        assert_eq!(cases.iter().filter(|case| case.is_for_all()).count(), 7);
    }
}
