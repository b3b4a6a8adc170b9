//! How much a second: over the last second, and over the last ten.
//!
//! The controller takes a sample of a few counters once a second. The samples lie in the shared
//! memory, so that every reader works out the same figures, and a reload does not blank them.

use std::sync::atomic::Ordering;

use serde::Serialize;

use super::layout::Layout;
use super::words::FleetWord;

/// Samples that are kept: ten seconds have eleven ends.
pub const SAMPLES: usize = 11;

/// What a sample holds: connections accepted, messages, bytes received, bytes sent.
pub type Counts = [u64; 4];

/// A sample and when it was taken, in milliseconds.
pub type Sample = (u64, Counts);

/// Amounts a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Rate {
    /// Connections accepted.
    pub connections: f64,
    /// Messages echoed: receives that were answered.
    pub messages: f64,
    /// Bytes received.
    pub received: f64,
    /// Bytes sent.
    pub sent: f64,
}

/// Both rates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Rates {
    /// Over the last second.
    #[serde(rename = "1s")]
    pub second: Rate,
    /// Over the last ten.
    #[serde(rename = "10s")]
    pub ten_seconds: Rate,
}

impl Rates {
    /// From samples in the order in which they were taken, at most [`SAMPLES`].
    pub fn of(samples: &[Sample]) -> Self {
        let [.., last] = samples else { return Self::default() };
        let since = |index: usize| samples.get(index).map_or(Rate::default(), |&s| rate(s, *last));
        let count = samples.len();
        Self { second: since(count.wrapping_sub(2)), ten_seconds: since(0) }
    }
}

fn rate((from, before): Sample, (to, after): Sample) -> Rate {
    let seconds = to.saturating_sub(from) as f64 / 1000.0;
    let each = |index: usize| match seconds {
        // Counters never shrink; whatever the memory says, this is a number.
        0.0 => 0.0,
        _ => after[index].saturating_sub(before[index]) as f64 / seconds,
    };
    Rate { connections: each(0), messages: each(1), received: each(2), sent: each(3) }
}

/// Notes when the samples that are about to be taken are taken; for the controller only.
pub(super) fn begin_sample(layout: Layout<'_>, at_ms: u64) {
    let number = layout.fleet(FleetWord::Samples).wrapping_add(1);
    layout.sample_times()[place(number)].store(at_ms, Ordering::Relaxed);
    layout.set_fleet(FleetWord::Samples, number);
}

/// Takes the sample of a slot; 0 is the whole daemon.
pub(super) fn take_sample(layout: Layout<'_>, slot: usize, counts: Counts) {
    let Some(words) = layout.samples(slot) else { return };
    let at = place(layout.fleet(FleetWord::Samples)) * counts.len();
    for (word, count) in words[at..].iter().zip(counts) {
        word.store(count, Ordering::Relaxed);
    }
}

/// The time of the last sample; `None` before the first one.
pub fn last_at(layout: Layout<'_>) -> Option<u64> {
    let last = layout.fleet(FleetWord::Samples);
    (last > 0).then(|| layout.sample_times()[place(last)].load(Ordering::Relaxed))
}

/// How long ago the controller has taken the last sample, in milliseconds: it takes one a second. Before
/// the first one, since it was started.
pub fn silence_ms(layout: Layout<'_>, uptime_ms: u64) -> u64 {
    let started = Some(layout.fleet(FleetWord::StartedUptime)).filter(|&at| at > 0);
    last_at(layout).or(started).map_or(0, |at| uptime_ms.saturating_sub(at))
}

/// Raises all samples of the whole daemon, because the totals of former ones are counted too from now
/// on.
pub(super) fn raise_samples(layout: Layout<'_>, by: Counts) {
    let Some(words) = layout.samples(0) else { return };
    for (word, more) in words.iter().zip(by.iter().cycle()) {
        word.store(word.load(Ordering::Relaxed).saturating_add(*more), Ordering::Relaxed);
    }
}

/// The samples of a slot in their order.
pub fn samples(layout: Layout<'_>, slot: usize) -> Vec<Sample> {
    let last = layout.fleet(FleetWord::Samples);
    let first = last.saturating_sub(SAMPLES as u64 - 1).max(1);
    let Some(words) = layout.samples(slot) else { return Vec::new() };
    (first..=last)
        .map(|number| {
            let place = place(number);
            let counts = std::array::from_fn(|i| words[place * 4 + i].load(Ordering::Relaxed));
            (layout.sample_times()[place].load(Ordering::Relaxed), counts)
        })
        .collect()
}

fn place(number: u64) -> usize {
    (number % SAMPLES as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_what_came_in_the_time_that_passed() {
        let samples: Vec<Sample> =
            (0..11).map(|i| (i * 1000, [i, 10 * i, 100 * i * i, 0])).collect();
        let rates = Rates::of(&samples);
        assert_eq!((rates.second.connections, rates.ten_seconds.connections), (1.0, 1.0));
        assert_eq!(rates.second.messages, 10.0);
        assert_eq!(rates.second.received, 1900.0);
        assert_eq!(rates.ten_seconds.received, 1000.0);
    }

    #[test]
    fn what_makes_no_sense_is_still_a_number() {
        assert_eq!(Rates::of(&[]), Rates::default());
        assert_eq!(Rates::of(&[(5, [1; 4])]), Rates::default());
        assert_eq!(Rates::of(&[(5, [9; 4]), (5, [1; 4])]), Rates::default());
        assert_eq!(Rates::of(&[(9, [9; 4]), (5, [1; 4])]), Rates::default());
    }
}
