//! The loads, and the bars that belong to them.

use crate::bars::Against::{Floor, Others, Peers, Predecessor};
use crate::bars::Ratio;
use crate::measure::Metric::{self, *};
use crate::table::grouped;

/// Measurements that are more than a load.
const OTHERS: [&str; 5] = ["memory", "respawn", "watched", "open", "latency"];

/// Every name that `only=` knows.
pub(crate) fn names() -> Vec<&'static str> {
    all().iter().map(|case| case.name).chain(OTHERS).collect()
}

/// More connections than a server with a thread for each is asked to hold.
pub(crate) const MANY: u32 = 2_000;

/// What the connections do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Traffic {
    /// Messages of so many bytes, each sent when the one before is back.
    Messages(u32),
    /// Sixteen messages of so many bytes under way.
    Pipelined(u32),
    /// Both directions at full speed.
    Stream,
    /// Connect, one echo of 64 bytes, close; again and again.
    Churn,
}

/// A load that all servers bear in turn.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    /// For `only=`.
    pub name: &'static str,
    /// For people.
    pub title: String,
    /// Connections at once.
    pub connections: u32,
    /// What they do.
    pub traffic: Traffic,
    /// The length of a turn in the short mode.
    pub seconds: f64,
    /// The figures; by the first one servers are compared in the table.
    pub columns: &'static [Metric],
    /// What is to be reached.
    pub bars: Vec<Ratio>,
    /// Whether ours spins before it sleeps.
    pub busy_poll: bool,
}

const MESSAGES: &[Metric] = &[CpuPerEcho, Echoes, P50, P99, P999];
const BULK: &[Metric] = &[CpuPerKib, Throughput, LoadBusy, P50, P99];
const STREAM: &[Metric] = &[CpuPerKib, Throughput, LoadBusy];

impl Case {
    /// Whether it belongs to the short mode: those with bars do.
    pub(crate) fn is_for_all(&self) -> bool {
        !self.bars.is_empty()
    }
}

/// All cases.
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
        title: format!("{bytes} × {}, one message at a time", many(connections)),
        connections,
        traffic: Traffic::Messages(size),
        // Opening a thousand connections must not weigh.
        seconds: if connections >= 1_000 { 1.5 } else { 0.7 },
        columns: if size >= 16 << 10 { BULK } else { MESSAGES },
        bars: bars.to_vec(),
        busy_poll: false,
    }
}

fn many(connections: u32) -> String {
    match connections {
        1 => "1 connection".to_owned(),
        more => format!("{} connections", grouped(f64::from(more))),
    }
}

fn streams(name: &'static str, connections: u32, bars: &[Ratio]) -> Case {
    Case {
        title: format!("a stream in both directions × {}", many(connections)),
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
    fn every_case_has_a_name_of_its_own_and_a_column() {
        let names = names();
        for (index, name) in names.iter().enumerate() {
            assert!(!names[..index].contains(name), "{name}");
        }
        let cases = all();
        assert!(cases.iter().all(|case| !case.columns.is_empty()));
        assert_eq!(cases.iter().filter(|case| case.is_for_all()).count(), 7);
    }
}
