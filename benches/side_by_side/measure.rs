//! Figures of one turn, medians, and ratios.

/// Measurements of one turn of one server.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Sample {
    /// CPU time of the server's processes in nanoseconds.
    pub cpu: f64,
    /// CPU time of the client in nanoseconds.
    pub load_cpu: f64,
    /// Complete and correct echoes.
    pub echoes: f64,
    /// Correctly echoed bytes.
    pub bytes: f64,
    /// Opened connections.
    pub connections: f64,
    pub seconds: f64,
    /// Median latency in microseconds.
    pub p50: f64,
    pub p99: f64,
    pub p99_9: f64,
}

/// Figure derived from a [`Sample`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Metric {
    /// CPU time of the server per echo, in nanoseconds.
    CpuPerEcho,
    /// CPU time of the server per 1024 bytes, in nanoseconds.
    CpuPerKib,
    /// CPU time of the server per connection, in microseconds.
    CpuPerConnection,
    /// Echoes per second.
    Echoes,
    /// Millions of bytes per second in each direction.
    Throughput,
    /// Connections per second.
    Connections,
    /// Latency in microseconds.
    P50,
    /// Latency in microseconds.
    P99,
    /// Latency in microseconds.
    P999,
    /// CPU usage of the client. At 1, the client limits the throughput.
    LoadBusy,
}

impl Metric {
    /// Returns the header of the column.
    pub(crate) fn head(self) -> &'static str {
        match self {
            Self::CpuPerEcho => "CPU ns/echo",
            Self::CpuPerKib => "CPU ns/KiB",
            Self::CpuPerConnection => "CPU µs/conn",
            Self::Echoes => "echoes/s",
            Self::Throughput => "MB/s",
            Self::Connections => "conns/s",
            Self::P50 => "p50 µs",
            Self::P99 => "p99 µs",
            Self::P999 => "p99.9 µs",
            Self::LoadBusy => "load busy",
        }
    }

    /// Computes the figure of a turn.
    pub(crate) fn of(self, sample: &Sample) -> f64 {
        let Sample { cpu, load_cpu, echoes, bytes, connections, seconds, p50, p99, p99_9 } =
            *sample;
        match self {
            Self::CpuPerEcho => cpu / echoes,
            Self::CpuPerKib => cpu / (bytes / 1024.0),
            Self::CpuPerConnection => cpu / connections / 1e3,
            Self::Echoes => echoes / seconds,
            Self::Throughput => bytes / seconds / 1e6,
            Self::Connections => connections / seconds,
            Self::P50 => p50,
            Self::P99 => p99,
            Self::P999 => p99_9,
            Self::LoadBusy => load_cpu / 1e9 / seconds,
        }
    }

    /// Returns the median of all turns.
    pub(crate) fn median(self, samples: &[Sample]) -> f64 {
        median(samples.iter().map(|sample| self.of(sample)))
    }

    /// Returns the median of the ratios turn by turn, so that a disturbance of a whole round cancels out.
    pub(crate) fn ratio(self, ours: &[Sample], others: &[Sample]) -> f64 {
        median(ours.iter().zip(others).map(|(ours, other)| self.of(ours) / self.of(other)))
    }
}

/// Returns the median, or NaN without values.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => values[count / 2],
        count => (values[count / 2 - 1] + values[count / 2]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median([9.0]), 9.0);
        assert_eq!(median([9.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([9.0, 1.0, 2.0, 4.0]), 3.0);
        assert!(median([]).is_nan());
    }

    #[test]
    fn figures_are_per_echo_per_kib_and_per_second() {
        let sample = Sample {
            cpu: 1e6,
            load_cpu: 1.5e9,
            echoes: 200.0,
            bytes: 1_024_000.0,
            connections: 10.0,
            seconds: 2.0,
            p50: 1.0,
            p99: 2.0,
            p99_9: 3.0,
        };
        for (metric, figure) in [
            (Metric::CpuPerEcho, 5_000.0),
            (Metric::CpuPerKib, 1_000.0),
            (Metric::CpuPerConnection, 100.0),
            (Metric::Echoes, 100.0),
            (Metric::Throughput, 0.512),
            (Metric::Connections, 5.0),
            (Metric::P50, 1.0),
            (Metric::P99, 2.0),
            (Metric::P999, 3.0),
            (Metric::LoadBusy, 0.75),
        ] {
            assert_eq!(metric.of(&sample), figure, "{metric:?}");
        }
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        let turn = |p50: f64| Sample { p50, ..Sample::default() };
        // The machine was ten times slower in the second round, for both.
        let ours = [turn(1.0), turn(10.0), turn(1.0)];
        let others = [turn(2.0), turn(20.0), turn(2.0)];
        assert_eq!(Metric::P50.ratio(&ours, &others), 0.5);
    }
}
