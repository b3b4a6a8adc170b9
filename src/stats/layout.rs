//! What lies where in the shared memory.
//!
//! | words | what | who writes |
//! |---|---|---|
//! | 128 | the fleet: [`FleetWord`] | the controller |
//! | 1024 | the directory: for each slot its healthy worker's seat plus one, or 0 | the controller |
//! | 512 | the last events | the controller |
//! | 64 × 1025 | for each slot: [`SlotWord`], then the samples of its rates; slot 0 is the whole daemon | the controller |
//! | 96 × 1025 | for each slot: the counters of its former workers; slot 0 has those of former daemons | the controller |
//! | 96 × 8192 | the seats: for each worker its block | that worker |
//!
//! Memory that nobody has touched costs nothing.

use std::sync::atomic::{AtomicU64, Ordering, fence};

use super::labels::Cause;
use super::seat::Seat;
use super::words::{BLOCK_WORDS, FleetWord, SlotWord};

/// "tcp-echo" in ASCII.
pub const MAGIC: u64 = u64::from_be_bytes(*b"tcp-echo");
/// Changes when an older reader could no longer understand the memory.
pub const VERSION: u64 = 2;

/// The most slots there can be.
pub const SLOTS: usize = 1024;
/// Seats: a generation of 1024 workers and seven that still drain.
pub const SEATS: usize = 8192;
/// Events that are remembered.
pub const EVENTS: usize = 128;

const FLEET_WORDS: usize = 128;
const EVENT_WORDS: usize = 4;
const SLOT_WORDS: usize = 64;
/// Where the samples begin among the words of a slot.
const FIRST_SAMPLE: usize = 20;

const DIRECTORY: usize = FLEET_WORDS;
const EVENT_RING: usize = DIRECTORY + SLOTS;
const SLOT_TABLE: usize = EVENT_RING + EVENTS * EVENT_WORDS;
const FORMER: usize = SLOT_TABLE + (SLOTS + 1) * SLOT_WORDS;
const SEAT_TABLE: usize = FORMER + (SLOTS + 1) * BLOCK_WORDS;

/// All words.
pub const WORDS: usize = SEAT_TABLE + SEATS * BLOCK_WORDS;

/// The shared memory, with names.
#[derive(Clone, Copy, Debug)]
pub struct Layout<'a>(pub(super) &'a [AtomicU64]);

impl<'a> Layout<'a> {
    /// A word of the fleet.
    pub fn fleet(self, word: FleetWord) -> u64 {
        self.0[word as usize].load(Ordering::Relaxed)
    }

    /// Writes one; for the controller only.
    pub fn set_fleet(self, word: FleetWord, value: u64) {
        self.0[word as usize].store(value, Ordering::Relaxed);
    }

    /// The word in which an odd number says that others are moving.
    pub(super) fn epoch(self) -> &'a AtomicU64 {
        &self.0[FleetWord::Epoch as usize]
    }

    /// Changes words that belong together: readers see them before or after, not in between. For the
    /// controller only.
    pub(super) fn change<T>(self, act: impl FnOnce() -> T) -> T {
        // Whatever was there before: odd while it lasts, even afterwards.
        let odd = self.epoch().load(Ordering::Relaxed) | 1;
        self.epoch().store(odd, Ordering::Relaxed);
        fence(Ordering::Release);
        let done = act();
        self.epoch().store(odd.wrapping_add(1), Ordering::Release);
        done
    }

    pub(super) fn directory(self) -> &'a [AtomicU64] {
        &self.0[DIRECTORY..][..SLOTS]
    }

    /// The words of an event, by its number since the start.
    pub(super) fn event(self, number: u64) -> &'a [AtomicU64] {
        let place = (number % EVENTS as u64) as usize;
        &self.0[EVENT_RING + place * EVENT_WORDS..][..EVENT_WORDS]
    }

    /// What the controller says of a slot; `None` for one that cannot be.
    pub(super) fn slot(self, slot: usize) -> Option<&'a [AtomicU64]> {
        (slot <= SLOTS).then(|| &self.0[SLOT_TABLE + slot * SLOT_WORDS..][..FIRST_SAMPLE])
    }

    /// A word of a slot; 0 for one that cannot be.
    pub fn slot_word(self, slot: u32, word: SlotWord) -> u64 {
        let words = self.slot(slot as usize);
        words.map_or(0, |words| words[word as usize].load(Ordering::Relaxed))
    }

    /// Writes one; for the controller only.
    pub fn set_slot_word(self, slot: u32, word: SlotWord, value: u64) {
        if let Some(words) = self.slot(slot as usize) {
            words[word as usize].store(value, Ordering::Relaxed);
        }
    }

    /// Counts a worker of `slot` that was replaced; for the controller only.
    pub fn count_restart(self, slot: u32, cause: Cause) {
        if let Some(words) = self.slot(slot as usize) {
            words[SlotWord::Restarts as usize + cause as usize].fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn samples(self, slot: usize) -> Option<&'a [AtomicU64]> {
        let words = SLOT_WORDS - FIRST_SAMPLE;
        (slot <= SLOTS).then(|| &self.0[SLOT_TABLE + slot * SLOT_WORDS + FIRST_SAMPLE..][..words])
    }

    /// The times of the samples: behind the fleet's words.
    pub(super) fn sample_times(self) -> &'a [AtomicU64] {
        &self.0[FLEET_WORDS - 16..FLEET_WORDS]
    }

    /// The counters of a slot's former workers.
    pub(super) fn former(self, slot: usize) -> Option<Seat<'a>> {
        if slot > SLOTS {
            return None;
        }
        self.0[FORMER + slot * BLOCK_WORDS..].first_chunk().map(Seat)
    }

    /// The words of a seat; `None` for one that cannot be.
    pub fn seat(self, seat: usize) -> Option<Seat<'a>> {
        if seat >= SEATS {
            return None;
        }
        self.0[SEAT_TABLE + seat * BLOCK_WORDS..].first_chunk().map(Seat)
    }
}
