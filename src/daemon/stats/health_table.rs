//! The health table: the healthy workers, as workers see each other.

use std::sync::atomic::Ordering;

use super::block::StatsBlock;
use super::layout::Layout;
use crate::daemon::ids::{BlockId, SlotId};

/// The stats blocks of all slots' healthy workers. The controller writes the table, workers read it.
#[derive(Clone, Copy, Debug)]
pub struct HealthTable<'a>(Layout<'a>);

impl<'a> HealthTable<'a> {
    pub(super) fn new(layout: Layout<'a>) -> Self {
        Self(layout)
    }

    /// Returns a block by its number, `None` if the number is out of range.
    pub(crate) fn block(self, block: BlockId) -> Option<StatsBlock<'a>> {
        self.0.block(block)
    }

    /// Returns slot, block number, and block of each slot with a healthy worker.
    pub(crate) fn iter(self) -> impl Iterator<Item = (SlotId, BlockId, StatsBlock<'a>)> {
        let entries = SlotId::workers(SlotId::MAX.0).zip(self.0.health_entries());
        entries.filter_map(move |(slot, entry)| {
            let block = BlockId(entry.load(Ordering::Relaxed).checked_sub(1)? as usize);
            Some((slot, block, self.0.block(block)?))
        })
    }
}
