//! Identifiers that the controller, the workers, and the shared statistics have in common.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::config::MAX_WORKERS;

/// Number of a slot: the stable place of a worker, from 1, or of the admin process, 0.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct SlotId(pub u32);

/// Index of a block of counters in the shared statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BlockId(pub usize);

/// Name of a queue of connections: the accept queue of a listening socket, or the handoff queue of
/// a slot. Unique as long as the daemon runs, across reloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct QueueId(pub u32);

impl SlotId {
    /// Slot of the admin process.
    pub const ADMIN: Self = Self(0);
    /// Slot of the first worker.
    pub const FIRST: Self = Self(1);
    /// Highest slot that a worker can have.
    pub const MAX: Self = Self(MAX_WORKERS);

    /// Returns the slots of the first `count` workers in ascending order.
    pub fn workers(count: u32) -> impl DoubleEndedIterator<Item = Self> {
        (Self::FIRST.0..=count).map(Self)
    }

    /// Returns the slot at this index of a table of all slots, which begins with the admin process.
    pub fn from_index(index: usize) -> Self {
        Self(u32::try_from(index).unwrap_or(u32::MAX))
    }

    /// Returns the slot at this index of a table of workers only.
    pub fn from_worker_index(index: usize) -> Self {
        Self::from_index(index.saturating_add(Self::FIRST.index()))
    }

    /// Returns the index in a table of all slots, which begins with the admin process.
    pub fn index(self) -> usize {
        self.0 as usize
    }

    /// Returns the index in a table of workers only, or `None` for the admin process.
    pub fn worker_index(self) -> Option<usize> {
        self.index().checked_sub(Self::FIRST.index())
    }

    /// Returns `true` for the slot of the admin process.
    pub fn is_admin(self) -> bool {
        self == Self::ADMIN
    }
}

impl fmt::Display for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_numbered_from_one_beside_the_admin_process() {
        let slots: Vec<SlotId> = SlotId::workers(3).collect();
        assert_eq!(slots, [SlotId(1), SlotId(2), SlotId(3)]);
        assert_eq!(SlotId::workers(0).count(), 0);
        assert_eq!(SlotId::ADMIN.worker_index(), None);
        assert_eq!(SlotId(3).worker_index(), Some(2));
        assert_eq!(SlotId::from_index(3).index(), 3);
    }

    #[test]
    fn identifiers_are_plain_numbers_in_json() {
        let text = serde_json::to_string(&(SlotId(1), BlockId(2), QueueId(3)));
        assert_eq!(text.ok().as_deref(), Some("[1,2,3]"));
    }
}
