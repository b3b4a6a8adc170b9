//! Layout of the shared memory, in words of 64 bits.
//!
//! | words | contents | writer |
//! |---|---|---|
//! | 128 | the daemon: [`FleetField`], sample times | controller |
//! | 1024 | health table: for each slot the block number of its healthy worker plus one, or 0 | controller |
//! | 512 | ring of the last events | controller |
//! | 64 × 1025 | for each slot [`SlotField`] and samples of its rates; slot 0 is the whole daemon | controller |
//! | 96 × 1025 | for each slot the counters of its former workers; slot 0 has those of former daemons | controller |
//! | 96 × 8192 | blocks, one for each worker | the worker |

use std::sync::atomic::{AtomicU64, Ordering, fence};

use super::block::StatsBlock;
use super::fields::{BLOCK_WORDS, FleetField, SlotField};
use super::labels::Cause;
use crate::daemon::ids::{BlockId, SlotId};

/// `tcp-echo` in ASCII.
pub(super) const MAGIC: u64 = u64::from_be_bytes(*b"tcp-echo");
/// Version of the layout, changed if an older build cannot read it.
pub(crate) const VERSION: u64 = 2;

/// Maximum number of slots.
pub(super) const SLOTS: usize = SlotId::MAX.0 as usize;
/// Number of blocks: for 1024 workers and seven times as many that drain.
pub(super) const BLOCKS: usize = 8192;
/// Length of the ring of events.
pub(super) const EVENTS: usize = 128;

const FLEET_WORDS: usize = 128;
const EVENT_WORDS: usize = 4;
const SLOT_WORDS: usize = 64;
/// Offset of the samples in the words of a slot.
const FIRST_SAMPLE: usize = 20;

const HEALTH_TABLE: usize = FLEET_WORDS;
const EVENT_RING: usize = HEALTH_TABLE + SLOTS;
const SLOT_TABLE: usize = EVENT_RING + EVENTS * EVENT_WORDS;
const FORMER: usize = SLOT_TABLE + (SLOTS + 1) * SLOT_WORDS;
const BLOCK_TABLE: usize = FORMER + (SLOTS + 1) * BLOCK_WORDS;

/// Total size.
pub(super) const WORDS: usize = BLOCK_TABLE + BLOCKS * BLOCK_WORDS;

/// A view of the shared memory by fields.
#[derive(Clone, Copy, Debug)]
pub struct Layout<'a>(pub(super) &'a [AtomicU64]);

impl<'a> Layout<'a> {
    pub(crate) fn fleet(self, field: FleetField) -> u64 {
        self.0[field as usize].load(Ordering::Relaxed)
    }

    /// Sets a field of the daemon. Only for the controller.
    pub(crate) fn set_fleet(self, field: FleetField, value: u64) {
        self.0[field as usize].store(value, Ordering::Relaxed);
    }

    /// Returns the sequence number of changes, odd while one is under way.
    pub(super) fn epoch(self) -> &'a AtomicU64 {
        &self.0[FleetField::Epoch as usize]
    }

    /// Changes several words at once: readers retry until they see all of the change or nothing of it (a
    /// sequence lock). Only for the controller.
    pub(super) fn change<T>(self, act: impl FnOnce() -> T) -> T {
        // A controller that was killed may have left it odd.
        let odd = self.epoch().load(Ordering::Relaxed) | 1;
        self.epoch().store(odd, Ordering::Relaxed);
        fence(Ordering::Release);
        let done = act();
        self.epoch().store(odd.wrapping_add(1), Ordering::Release);
        done
    }

    pub(super) fn health_entries(self) -> &'a [AtomicU64] {
        &self.0[HEALTH_TABLE..][..SLOTS]
    }

    /// Returns the words of an event by its number since the start.
    pub(super) fn event(self, number: u64) -> &'a [AtomicU64] {
        let index = (number % EVENTS as u64) as usize;
        &self.0[EVENT_RING + index * EVENT_WORDS..][..EVENT_WORDS]
    }

    /// Returns the fields of a slot, `None` if the slot is out of range.
    pub(super) fn slot(self, slot: usize) -> Option<&'a [AtomicU64]> {
        (slot <= SLOTS).then(|| &self.0[SLOT_TABLE + slot * SLOT_WORDS..][..FIRST_SAMPLE])
    }

    /// Returns the value of a field of a slot; 0 if the slot is out of range.
    pub(crate) fn slot_word(self, slot: SlotId, field: SlotField) -> u64 {
        let words = self.slot(slot.index());
        words.map_or(0, |words| words[field as usize].load(Ordering::Relaxed))
    }

    /// Sets a field of a slot. Only for the controller.
    pub(crate) fn set_slot_word(self, slot: SlotId, field: SlotField, value: u64) {
        if let Some(words) = self.slot(slot.index()) {
            words[field as usize].store(value, Ordering::Relaxed);
        }
    }

    /// Counts a replaced worker of `slot`. Only for the controller.
    pub(crate) fn count_restart(self, slot: SlotId, cause: Cause) {
        if let Some(words) = self.slot(slot.index()) {
            words[SlotField::Restarts as usize + cause as usize].fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn samples(self, slot: usize) -> Option<&'a [AtomicU64]> {
        let words = SLOT_WORDS - FIRST_SAMPLE;
        (slot <= SLOTS).then(|| &self.0[SLOT_TABLE + slot * SLOT_WORDS + FIRST_SAMPLE..][..words])
    }

    /// Returns the times of the samples, which follow the fields of the daemon.
    pub(super) fn sample_times(self) -> &'a [AtomicU64] {
        &self.0[FLEET_WORDS - 16..FLEET_WORDS]
    }

    /// Returns the counters of a slot's former workers.
    pub(super) fn former(self, slot: usize) -> Option<StatsBlock<'a>> {
        if slot > SLOTS {
            return None;
        }
        self.0[FORMER + slot * BLOCK_WORDS..].first_chunk().map(StatsBlock)
    }

    /// Returns a block, `None` if the number is out of range.
    pub(crate) fn block(self, block: BlockId) -> Option<StatsBlock<'a>> {
        if block.0 >= BLOCKS {
            return None;
        }
        self.0[BLOCK_TABLE + block.0 * BLOCK_WORDS..].first_chunk().map(StatsBlock)
    }
}
