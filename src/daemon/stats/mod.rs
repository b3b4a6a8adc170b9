//! Statistics in memory that all processes share, created before the first fork.
//!
//! Each worker has a **block** of counters and gauges. The controller allocates it before the fork. When
//! it reaps the worker, it adds the counters to those of the slot's former workers and clears the block.
//! So a draining worker and its replacement never write to the same word. Every word has a single writer,
//! which therefore adds by a plain load and store. `/stats`, `/metrics`, the page, and the stats dump
//! show a `Snapshot`. Readers only compare and add these numbers: they check every index and length.

mod block;
pub(crate) mod events;
mod fields;
mod health_table;
pub(crate) mod histogram;
mod labels;
pub(crate) mod layout;
pub(crate) mod rates;
pub(crate) mod reading;
pub(crate) mod saved;
#[cfg(test)]
mod saved_tests;
pub(crate) mod snapshot;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;

pub use self::block::StatsBlock;
pub(crate) use self::fields::{Field, FleetField, SlotField};
pub use self::health_table::HealthTable;
pub(crate) use self::labels::{AcceptError, Cause, Stage};
pub use self::labels::{Phase, Reason, SlotState};
pub use self::layout::Layout;
use self::layout::{BLOCKS, MAGIC, VERSION, WORDS};
pub(crate) use self::snapshot::{SILENCE_MS, Snapshot};
use crate::daemon::ids::{BlockId, SlotId};
use crate::sys::memory::SharedWords;

/// The shared memory, owned by the controller, which allocates the blocks in it.
#[derive(Debug)]
pub struct Statistics {
    memory: SharedWords,
    free: Vec<BlockId>,
}

impl Statistics {
    /// Creates the memory, with blocks for 8192 workers. Pages are allocated when they are first written.
    ///
    /// # Errors
    /// Out of memory or descriptors.
    pub fn new() -> io::Result<Self> {
        let memory = SharedWords::new(WORDS)?;
        let statistics = Self { memory, free: (0..BLOCKS).rev().map(BlockId).collect() };
        statistics.write_header();
        Ok(statistics)
    }

    /// Writes magic number and version, which [`Self::resume`] checks after a reload.
    pub(crate) fn write_header(&self) {
        self.layout().set_fleet(FleetField::Magic, MAGIC);
        self.layout().set_fleet(FleetField::Version, VERSION);
    }

    /// Restores the statistics after a reload. The blocks `taken` are still allocated.
    ///
    /// # Errors
    /// The memory is too small or of another version.
    pub(crate) fn resume(file: OwnedFd, taken: &[BlockId]) -> io::Result<Self> {
        let memory = SharedWords::map(file, WORDS)?;
        let statistics = Self {
            memory,
            free: (0..BLOCKS).rev().map(BlockId).filter(|block| !taken.contains(block)).collect(),
        };
        let fleet = |word| statistics.layout().fleet(word);
        if (fleet(FleetField::Magic), fleet(FleetField::Version)) != (MAGIC, VERSION) {
            return Err(io::Error::other("the statistics are of another version"));
        }
        Ok(statistics)
    }

    /// Allocates a block and returns its number, `None` if all are allocated.
    pub fn allocate(&mut self) -> Option<BlockId> {
        let block = self.free.pop()?;
        let used = self.layout().fleet(FleetField::BlocksUsed).max(block.0 as u64 + 1);
        self.layout().set_fleet(FleetField::BlocksUsed, used);
        Some(block)
    }

    /// Assigns a block to the process `pid`: the worker of a slot, from 1, or the admin process, slot 0.
    /// `uptime_ms` is the time of the fork.
    pub(crate) fn assign(&self, block: BlockId, slot: SlotId, pid: u64, uptime_ms: u64) {
        let words = self.block(block);
        words.set(Field::Slot, u64::from(slot.0));
        words.set(Field::Forked, uptime_ms);
        words.set(Field::Pid, pid);
        let used = self.layout().fleet(FleetField::SlotsUsed).max(u64::from(slot.0));
        self.layout().set_fleet(FleetField::SlotsUsed, used);
    }

    /// Frees a block after adding its counters to those of the slot's former workers.
    pub(crate) fn release(&mut self, block: BlockId) {
        let layout = self.layout();
        let words = self.block(block);
        let slot = words.get(Field::Slot) as usize;
        layout.change(|| reading::retire_block(words, slot, layout.former(slot)));
        self.free.push(block);
    }

    /// Returns an allocated block.
    ///
    /// # Panics
    /// If the number is out of range.
    pub fn block(&self, block: BlockId) -> StatsBlock<'_> {
        self.layout().block(block).expect("number of a block")
    }

    /// Enters the block of the healthy worker of `slot`, from 1, into the health table; `None` if it has no
    /// healthy worker.
    pub(crate) fn set_healthy_block(&self, slot: SlotId, block: Option<BlockId>) {
        let entry = slot.worker_index().and_then(|index| self.layout().health_entries().get(index));
        if let Some(entry) = entry {
            entry.store(block.map_or(0, |block| block.0 as u64 + 1), Ordering::Relaxed);
        }
    }

    pub(crate) fn health_table(&self) -> HealthTable<'_> {
        HealthTable::new(self.layout())
    }

    pub(crate) fn layout(&self) -> Layout<'_> {
        Layout(self.memory.words())
    }

    /// Returns the descriptor of the memory, for a reload.
    pub(crate) fn file(&self) -> &OwnedFd {
        self.memory.file()
    }
}
