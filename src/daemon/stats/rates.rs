//! Rates over the last second and the last ten seconds.
//!
//! The controller samples a few counters once a second. The samples are in shared memory, so that all
//! readers compute the same rates, and a reload keeps them.

use std::sync::atomic::Ordering;

use serde::Serialize;

use super::fields::FleetField;
use super::layout::Layout;

/// Number of samples: ten intervals of a second have eleven ends.
pub(super) const SAMPLES: usize = 11;

/// Values of a sample: accepted connections, messages, bytes received, bytes sent.
pub(super) type Counts = [u64; 4];

/// A sample and its time, as uptime in milliseconds.
pub(super) type Sample = (u64, Counts);

/// Amounts per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Rate {
    /// Accepted connections per second.
    pub(crate) connections: f64,
    /// Answered receives per second.
    pub(crate) messages: f64,
    /// Bytes received per second.
    pub(crate) received: f64,
    /// Bytes sent per second.
    pub(crate) sent: f64,
}

/// Rates over both intervals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Rates {
    #[serde(rename = "1s")]
    pub(crate) second: Rate,
    #[serde(rename = "10s")]
    pub(crate) ten_seconds: Rate,
}

impl Rates {
    /// Computes the rates from at most [`SAMPLES`] samples, the oldest first.
    pub(crate) fn of(samples: &[Sample]) -> Self {
        let [.., last] = samples else { return Self::default() };
        let since = |index: usize| samples.get(index).map_or(Rate::default(), |&s| rate(s, *last));
        let count = samples.len();
        Self { second: since(count.wrapping_sub(2)), ten_seconds: since(0) }
    }
}

fn rate((from, before): Sample, (to, after): Sample) -> Rate {
    let seconds = to.saturating_sub(from) as f64 / 1000.0;
    let each = |index: usize| match seconds {
        // Not NaN or infinite, even if the memory was corrupted.
        0.0 => 0.0,
        _ => after[index].saturating_sub(before[index]) as f64 / seconds,
    };
    Rate { connections: each(0), messages: each(1), received: each(2), sent: each(3) }
}

/// Begins a sample at this uptime: [`take_sample`] follows for each slot. Only for the controller.
pub(super) fn begin_sample(layout: Layout<'_>, at_ms: u64) {
    let number = layout.fleet(FleetField::Samples).wrapping_add(1);
    layout.sample_times()[index(number)].store(at_ms, Ordering::Relaxed);
    layout.set_fleet(FleetField::Samples, number);
}

/// Stores the sample of a slot; 0 is the whole daemon.
pub(super) fn take_sample(layout: Layout<'_>, slot: usize, counts: Counts) {
    let Some(words) = layout.samples(slot) else { return };
    let at = index(layout.fleet(FleetField::Samples)) * counts.len();
    for (word, count) in words[at..].iter().zip(counts) {
        word.store(count, Ordering::Relaxed);
    }
}

/// Returns the uptime of the last sample in milliseconds, `None` before the first one.
pub(crate) fn last_at(layout: Layout<'_>) -> Option<u64> {
    let last = layout.fleet(FleetField::Samples);
    (last > 0).then(|| layout.sample_times()[index(last)].load(Ordering::Relaxed))
}

/// Returns the time since the controller took the last sample, in milliseconds; before the first one the
/// time since the start. It takes one every second.
pub(crate) fn silence_ms(layout: Layout<'_>, uptime_ms: u64) -> u64 {
    let started = Some(layout.fleet(FleetField::StartedUptime)).filter(|&at| at > 0);
    last_at(layout).or(started).map_or(0, |at| uptime_ms.saturating_sub(at))
}

/// Raises all samples of the whole daemon by totals that are added to its counters, so that they do not
/// appear in the rates.
pub(super) fn raise_samples(layout: Layout<'_>, by: Counts) {
    let Some(words) = layout.samples(0) else { return };
    for (word, more) in words.iter().zip(by.iter().cycle()) {
        word.store(word.load(Ordering::Relaxed).saturating_add(*more), Ordering::Relaxed);
    }
}

/// Returns the samples of a slot, the oldest first.
pub(crate) fn samples(layout: Layout<'_>, slot: usize) -> Vec<Sample> {
    let last = layout.fleet(FleetField::Samples);
    let first = last.saturating_sub(SAMPLES as u64 - 1).max(1);
    let Some(words) = layout.samples(slot) else { return Vec::new() };
    (first..=last)
        .map(|number| {
            let index = index(number);
            let counts = std::array::from_fn(|i| words[index * 4 + i].load(Ordering::Relaxed));
            (layout.sample_times()[index].load(Ordering::Relaxed), counts)
        })
        .collect()
}

fn index(number: u64) -> usize {
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
