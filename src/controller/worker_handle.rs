//! A worker as the controller sees it; the other side is [`crate::worker`].

use std::time::Instant;

use crate::process::channel::Channel;

/// What the controller keeps of a worker that it has forked, until it is reaped.
#[derive(Debug)]
pub(super) struct WorkerHandle {
    /// The slot it was forked for, from 1.
    pub(super) slot: u32,
    /// The wire to it.
    pub(super) channel: Channel,
    /// Its place in the statistics.
    pub(super) seat: usize,
    /// Whether it takes what siblings pass on.
    pub(super) exchanges: bool,
    /// When it was forked, or taken over.
    pub(super) since: Instant,
    /// Whether it has got ready.
    pub(super) ready: bool,
}
