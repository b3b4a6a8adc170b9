//! Histograms with fixed buckets.

use serde::Serialize;

/// Upper bounds of the buckets for event loop iterations, in microseconds. The last bucket has none.
pub(super) const LAG_BOUNDS: [u64; 15] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000,
];

/// Upper bounds of the buckets for durations of connections, in milliseconds. The last bucket has none.
pub(super) const DURATION_BOUNDS: [u64; 15] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 300_000, 900_000, 3_600_000,
    14_400_000, 43_200_000, 86_400_000,
];

/// Returns the index of the bucket of `value`, 0 to 15.
pub(super) fn bucket(bounds: &[u64; 15], value: u64) -> usize {
    // Most values are small: the first few comparisons decide.
    bounds.iter().position(|&bound| value <= bound).unwrap_or(bounds.len())
}

/// A histogram with cumulative buckets.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Histogram {
    /// Number of values.
    pub(crate) count: u64,
    /// Sum of the values, in seconds.
    pub(crate) sum_seconds: f64,
    /// Upper bound of each bucket, in seconds, and number of values up to it. The last one has no bound.
    pub(crate) buckets: Vec<(Option<f64>, u64)>,
}

impl Histogram {
    /// Creates a histogram from the counts of single buckets. `unit` is the number of units of `bounds` and
    /// `sum` in a second.
    pub(super) fn new(bounds: &[u64; 15], counts: &[u64], sum: u64, unit: f64) -> Self {
        let bounds = bounds.iter().map(|&bound| Some(bound as f64 / unit)).chain([None]);
        let mut count = 0_u64;
        let buckets = bounds
            .zip(counts)
            .map(|(bound, &own)| {
                count = count.saturating_add(own);
                (bound, count)
            })
            .collect();
        Self { count, sum_seconds: sum as f64 / unit, buckets }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_belongs_where_the_bound_is_not_below_it() {
        assert_eq!(bucket(&LAG_BOUNDS, 0), 0);
        assert_eq!(bucket(&LAG_BOUNDS, 50), 0);
        assert_eq!(bucket(&LAG_BOUNDS, 51), 1);
        assert_eq!(bucket(&LAG_BOUNDS, u64::MAX), 15);
    }

    #[test]
    fn buckets_add_up_to_the_last() {
        let mut counts = [0; 16];
        (counts[0], counts[3], counts[15]) = (2, 1, 1);
        let shown = Histogram::new(&LAG_BOUNDS, &counts, 1_500_000, 1e6);
        assert_eq!((shown.count, shown.sum_seconds), (4, 1.5));
        assert_eq!(shown.buckets[0], (Some(50e-6), 2));
        assert_eq!(shown.buckets[3], (Some(500e-6), 3));
        assert_eq!(shown.buckets[15], (None, 4));
    }
}
