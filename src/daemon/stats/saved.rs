//! Totals and samples as the text of the state file: one JSON object.
//!
//! Counters have names in it, not positions, so that a build with other counters can read it.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};

use super::fields::{
    ACCEPT_ERRORS, BLOCK_WORDS, CLOSED, DURATION, FIRST_COUNTER, Field, FieldRange, LAG,
};
use super::histogram::{DURATION_BOUNDS, LAG_BOUNDS};
use super::labels::{AcceptError, Reason};
use super::layout::Layout;
use super::rates::{self, Counts};
use super::reading;

/// Version of the format, changed if an older build cannot read it.
const VERSION: u64 = 1;

/// The first bytes of every state file.
pub(crate) const BEGINNING: &[u8] = br#"{"tcp-echo-state":"#;

/// The largest value of a counter or time: sums cannot overflow, and larger ones are damage.
const MAX_VALUE: u64 = 1 << 60;

/// Age in milliseconds beyond which a sample is not part of any rate.
const WINDOW_MS: u64 = 10_000;

/// Totals at one moment, and the samples of the rates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct SavedTotals {
    #[serde(rename = "tcp-echo-state")]
    version: u64,
    /// Milliseconds since 1970.
    pub(crate) saved_at_ms: u64,
    totals: BTreeMap<String, u64>,
    /// Age of each sample in milliseconds, and its values.
    samples: Vec<(u64, Counts)>,
}

/// A text that cannot be read as totals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ParseError {
    #[error("not a state file of tcp-echo")]
    Foreign,
    #[error("state file is damaged")]
    Damaged,
    #[error("state file is of a later version ({0})")]
    Newer(u64),
}

/// Returns name and word of every counter.
fn counters() -> Vec<(String, usize)> {
    let bounds =
        |bounds: &[u64]| bounds.iter().map(u64::to_string).chain(["more".into()]).collect();
    let ranges: [(&str, FieldRange, Vec<String>); 4] = [
        ("closed", CLOSED, Reason::ALL.iter().map(|it| it.label().into()).collect()),
        (
            "accept-error",
            ACCEPT_ERRORS,
            AcceptError::ALL.iter().map(|it| it.label().into()).collect(),
        ),
        ("event-loop-lag-us", LAG, bounds(&LAG_BOUNDS)),
        ("connection-duration-ms", DURATION, bounds(&DURATION_BOUNDS)),
    ];
    let of_range = |(name, range, kinds): (&'static str, FieldRange, Vec<String>)| {
        (range.first..).zip(kinds).map(move |(word, kind)| (format!("{name}.{kind}"), word))
    };
    let single = [
        ("accepted", Field::Accepted),
        ("received", Field::Received),
        ("sent", Field::Sent),
        ("messages", Field::Messages),
        ("injected", Field::Injected),
        ("consumed", Field::Consumed),
        ("abandoned", Field::Abandoned),
        ("accept-pauses", Field::Pauses),
        ("log-lines-dropped", Field::LogDropped),
        ("event-loop-lag-us", Field::LagSum),
        ("connection-duration-ms", Field::DurationSum),
    ];
    let single = single.into_iter().map(|(name, field)| (name.to_owned(), field as usize));
    single.chain(ranges.into_iter().flat_map(of_range)).collect()
}

impl SavedTotals {
    /// Reads the current totals and samples. `unix_ms` is the time since 1970, `uptime_ms` the uptime.
    pub(crate) fn new(layout: Layout<'_>, unix_ms: u64, uptime_ms: u64) -> Self {
        let (total, samples) = reading::totals(layout);
        // Even if the memory was corrupted, the text can be read again.
        let valid = |value: u64| value.min(MAX_VALUE);
        let aged =
            |(at, counts): (u64, Counts)| (valid(uptime_ms.saturating_sub(at)), counts.map(valid));
        Self {
            version: VERSION,
            saved_at_ms: unix_ms,
            totals: counters().into_iter().map(|(name, word)| (name, valid(total[word]))).collect(),
            samples: samples.into_iter().map(aged).collect(),
        }
    }

    /// Returns the text, with a newline at the end.
    pub(crate) fn to_text(&self) -> Vec<u8> {
        // Serializing strings and numbers to memory does not fail.
        let mut text = serde_json::to_vec(self).unwrap_or_default();
        text.push(b'\n');
        text
    }

    /// Parses a text; `None` if there is nothing in it. A power failure may leave a file of zeros.
    ///
    /// # Errors
    /// [`ParseError`].
    pub(crate) fn parse(text: &[u8]) -> Result<Option<Self>, ParseError> {
        if text.iter().all(|&byte| byte == 0 || byte.is_ascii_whitespace()) {
            return Ok(None);
        }
        if !text.starts_with(BEGINNING) {
            return Err(ParseError::Foreign);
        }
        let damaged = |_| ParseError::Damaged;
        let object: serde_json::Value = serde_json::from_slice(text).map_err(damaged)?;
        match object["tcp-echo-state"].as_u64() {
            Some(version) if version > VERSION => return Err(ParseError::Newer(version)),
            _ => {}
        }
        let saved: Self = serde_json::from_value(object).map_err(damaged)?;
        let samples = saved.samples.iter().flat_map(|(age, counts)| counts.iter().chain([age]));
        let valid = samples.chain(saved.totals.values()).all(|&value| value <= MAX_VALUE);
        if valid { Ok(Some(saved)) } else { Err(ParseError::Damaged) }
    }

    /// Returns the totals as the words of a block. Connections that were open when they were saved count
    /// as closed because their worker died.
    fn block(&self) -> [u64; BLOCK_WORDS] {
        let mut words = [0; BLOCK_WORDS];
        for (name, word) in counters() {
            words[word] = self.totals.get(&name).copied().unwrap_or(0);
        }
        let closed: u64 = words[CLOSED.first..][..CLOSED.len].iter().sum();
        let died = words[Field::Accepted as usize].saturating_sub(closed);
        words[CLOSED.first + Reason::WorkerDied as usize] += died;
        let sum = |fields: [Field; 2]| fields.into_iter().map(|it| words[it as usize]).sum::<u64>();
        let owed = sum([Field::Received, Field::Injected]);
        let gone = sum([Field::Sent, Field::Abandoned]) + words[Field::Consumed as usize];
        words[Field::Abandoned as usize] += owed.saturating_sub(gone);
        words
    }

    /// Adds these totals to those of former daemons, and restores the samples if there are none yet. Only
    /// for the controller, once. The times are those of [`Self::new`].
    pub(crate) fn restore(&self, layout: Layout<'_>, unix_ms: u64, uptime_ms: u64) {
        let Some(former) = layout.former(0) else { return };
        let block = self.block();
        layout.change(|| {
            for (word, more) in former.0.iter().zip(block).skip(FIRST_COUNTER) {
                word.store(word.load(Ordering::Relaxed).saturating_add(more), Ordering::Relaxed);
            }
            if rates::last_at(layout).is_some() {
                let fields = [Field::Accepted, Field::Messages, Field::Received, Field::Sent];
                return rates::raise_samples(layout, fields.map(|field| block[field as usize]));
            }
            // If the clock was set back, the age of the samples is unknown.
            let Some(elapsed) = unix_ms.checked_sub(self.saved_at_ms) else { return };
            for &(age, counts) in &self.samples {
                let age = age.saturating_add(elapsed);
                // After a reboot the uptime may be shorter.
                let at = uptime_ms.checked_sub(age).filter(|_| age <= WINDOW_MS);
                if let Some(at) = at {
                    rates::begin_sample(layout, at);
                    rates::take_sample(layout, 0, counts);
                }
            }
        });
    }
}
