//! A worker as the controller sees it; the other side is [`crate::worker`].

use std::time::Instant;

use crate::process::channel::Channel;

/// What the controller keeps of a worker that it has forked, until it is reaped.
#[derive(Debug)]
pub(super) struct WorkerHandle {
    /// The slot it was forked for, from 1.
    pub slot: u32,
    /// The wire to it.
    pub channel: Channel,
    /// Its place in the statistics.
    pub seat: usize,
    /// The heartbeat last seen there.
    pub heartbeat: u64,
    /// When it was forked.
    pub since: Instant,
}
