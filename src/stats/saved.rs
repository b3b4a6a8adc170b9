//! The totals beyond the end of the daemon: what is written down, and what becomes of it.
//!
//! It is one object of JSON. Numbers have names in it, not places, so that a build that counts more
//! or less can read it. Whatever does not begin like one of ours is somebody else's.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};

use super::histogram::{DURATION_BOUNDS, LAG_BOUNDS};
use super::labels::{AcceptError, Reason};
use super::layout::Layout;
use super::rates::{self, Counts};
use super::reading;
use super::words::{
    ACCEPT_ERRORS, BLOCK_WORDS, CLOSED, DURATION, FIRST_COUNTER, Family, FleetWord, LAG, Word,
};

/// Changes when an older build could no longer understand it.
pub const VERSION: u32 = 1;

/// How each of ours begins.
pub const BEGINNING: &[u8] = br#"{"tcp-echo-state":"#;

/// No count is larger: a damaged one is found out, and sums have room.
const LARGEST: u64 = 1 << 60;

/// What is older is no part of any rate.
const WINDOW_MS: u64 = 10_000;

/// The totals at one moment, and the samples that the rates were worked out from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Saved {
    #[serde(rename = "tcp-echo-state")]
    version: u32,
    /// In milliseconds since 1970.
    saved_at_ms: u64,
    totals: BTreeMap<String, u64>,
    /// How long before that each sample was taken, in milliseconds, and what it holds.
    samples: Vec<(u64, Counts)>,
}

/// Why a text cannot be taken for totals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotSaved {
    /// It is none of ours.
    Foreign,
    /// It was one of ours.
    Damaged,
    /// It is of a later build, with this version.
    Newer(u32),
}

/// Every counter by its name.
fn counters() -> impl Iterator<Item = (String, usize)> {
    let single = [
        ("accepted", Word::Accepted),
        ("received", Word::Received),
        ("sent", Word::Sent),
        ("messages", Word::Messages),
        ("injected", Word::Injected),
        ("abandoned", Word::Abandoned),
        ("accept-pauses", Word::Pauses),
        ("log-lines-dropped", Word::LogDropped),
        ("event-loop-lag-us", Word::LagSum),
        ("connection-duration-ms", Word::DurationSum),
    ];
    let single = single.into_iter().map(|(name, word)| (name.to_owned(), word as usize));
    let closed = Reason::ALL.iter().map(|reason| format!("closed.{}", reason.label()));
    let errors = AcceptError::ALL.iter().map(|error| format!("accept-error.{}", error.label()));
    single
        .chain(places(CLOSED, closed))
        .chain(places(ACCEPT_ERRORS, errors))
        .chain(places(LAG, bounds("event-loop-lag-us", &LAG_BOUNDS)))
        .chain(places(DURATION, bounds("connection-duration-ms", &DURATION_BOUNDS)))
}

fn places(
    family: Family,
    names: impl Iterator<Item = String>,
) -> impl Iterator<Item = (String, usize)> {
    names.zip(family.first..family.first + family.len)
}

fn bounds(name: &'static str, bounds: &'static [u64; 15]) -> impl Iterator<Item = String> {
    let bounds = bounds.iter().map(move |bound| format!("{name}.{bound}"));
    bounds.chain([format!("{name}.more")])
}

impl Saved {
    /// What is to be kept now. `unix_ms` is the time since 1970, `uptime_ms` the system's uptime.
    pub fn of(layout: Layout<'_>, unix_ms: u64, uptime_ms: u64) -> Self {
        let (total, samples) = reading::for_keeps(layout);
        let ago = |at: u64| uptime_ms.saturating_sub(at);
        Self {
            version: VERSION,
            saved_at_ms: unix_ms,
            // Whatever others have made of the memory: it must be possible to read this again.
            totals: counters().map(|(name, place)| (name, total[place].min(LARGEST))).collect(),
            samples: samples
                .into_iter()
                .map(|(at, counts)| (ago(at).min(LARGEST), counts.map(|count| count.min(LARGEST))))
                .collect(),
        }
    }

    /// When that was, in milliseconds since 1970.
    pub fn at_ms(&self) -> u64 {
        self.saved_at_ms
    }

    /// As a text, with a newline.
    pub fn to_text(&self) -> Vec<u8> {
        // Strings and numbers have a form in JSON.
        let mut text = serde_json::to_vec(self).unwrap_or_default();
        text.push(b'\n');
        text
    }

    /// The other way round; `None` where nothing was ever written. A power failure may leave a file
    /// of the right length with nothing but zeros in it.
    ///
    /// # Errors
    /// [`NotSaved`].
    pub fn parse(text: &[u8]) -> Result<Option<Self>, NotSaved> {
        #[derive(Deserialize)]
        struct Head {
            #[serde(rename = "tcp-echo-state")]
            version: u32,
        }
        if text.iter().all(|&byte| byte == 0 || byte.is_ascii_whitespace()) {
            return Ok(None);
        }
        if !text.starts_with(BEGINNING) {
            return Err(NotSaved::Foreign);
        }
        let damaged = |_| NotSaved::Damaged;
        let head: Head = serde_json::from_slice(text).map_err(damaged)?;
        if head.version > VERSION {
            return Err(NotSaved::Newer(head.version));
        }
        let saved: Self = serde_json::from_slice(text).map_err(damaged)?;
        let counts = saved.samples.iter().flat_map(|(ago, counts)| counts.iter().chain([ago]));
        let sane = counts.chain(saved.totals.values()).all(|&count| count <= LARGEST);
        if sane { Ok(Some(saved)) } else { Err(NotSaved::Damaged) }
    }

    /// The samples that still count `unix_ms` after 1970, with how long ago they were taken. A clock
    /// that was put back does not tell how much time has passed: none do.
    fn recent(&self, unix_ms: u64) -> Vec<(u64, Counts)> {
        let Some(elapsed) = unix_ms.checked_sub(self.saved_at_ms) else { return Vec::new() };
        let aged = self.samples.iter().map(|&(ago, counts)| (ago.saturating_add(elapsed), counts));
        aged.filter(|(ago, _)| *ago <= WINDOW_MS).collect()
    }

    /// The words of a block with these totals. What was open when they were written down has ended
    /// since without being counted.
    fn block(&self) -> [u64; BLOCK_WORDS] {
        let mut words = [0; BLOCK_WORDS];
        for (name, place) in counters() {
            words[place] = self.totals.get(&name).copied().unwrap_or(0);
        }
        let closed: u64 = words[CLOSED.first..][..CLOSED.len].iter().sum();
        let died = words[Word::Accepted as usize].saturating_sub(closed);
        words[CLOSED.first + Reason::WorkerDied as usize] += died;
        let owed = words[Word::Received as usize] + words[Word::Injected as usize];
        let gone = words[Word::Sent as usize] + words[Word::Abandoned as usize];
        words[Word::Abandoned as usize] += owed.saturating_sub(gone);
        words
    }

    /// Counts these totals as those of former daemons, and lets the rates go on if there are none yet;
    /// for the controller only, once. The times are those of [`Self::of`].
    pub fn restore(&self, layout: Layout<'_>, unix_ms: u64, uptime_ms: u64) {
        let Some(former) = layout.former(0) else { return };
        let block = self.block();
        let own = [Word::Accepted, Word::Messages, Word::Received, Word::Sent];
        let is_new = rates::last_at(layout).is_none();
        layout.change(|| {
            for (word, more) in former.0.iter().zip(block).skip(FIRST_COUNTER) {
                word.store(word.load(Ordering::Relaxed).saturating_add(more), Ordering::Relaxed);
            }
            if !is_new {
                return rates::raise_samples(layout, own.map(|word| block[word as usize]));
            }
            for (ago, counts) in self.recent(unix_ms) {
                // The system may have been started since.
                let Some(at) = uptime_ms.checked_sub(ago) else { continue };
                rates::begin_sample(layout, at);
                rates::take_sample(layout, 0, counts);
            }
        });
    }
}

/// When the totals were last written down, as [`Saved::at_ms`] says; 1 when those of former daemons are
/// among the numbers, or there were none; `None` before.
pub fn kept_at(layout: Layout<'_>) -> Option<u64> {
    Some(layout.fleet(FleetWord::Kept)).filter(|&at| at != 0)
}

/// Notes it; for the controller only.
pub fn set_kept(layout: Layout<'_>, at_ms: u64) {
    layout.set_fleet(FleetWord::Kept, at_ms);
}
