//! History of a simulation, for the invariants.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use nix::unistd::Pid;

use super::kernel::SocketId;
use crate::daemon::ids::SlotId;
use crate::daemon::stats::SlotState;

/// History of a simulation.
#[derive(Debug)]
pub(super) struct History {
    /// Descriptors held by the program that passed sockets.
    pub(super) external: Vec<SocketId>,
    /// Pids of reaped processes.
    pub(super) freed: Vec<Pid>,
    /// Slots whose last fork or start failed.
    pub(super) failed: BTreeSet<SlotId>,
    /// Times of the starts after failures, by slot.
    pub(super) starts: BTreeMap<SlotId, Vec<Instant>>,
    /// Slots whose worker asked not to be restarted.
    pub(super) refusals: BTreeSet<SlotId>,
    /// Time of the first stop signal.
    pub(super) stopped: Option<Instant>,
    /// Time at which the addresses were closed.
    pub(super) draining: Option<Instant>,
    /// `true` if the remaining workers were killed.
    pub(super) killing: bool,
    /// Time by which the daemon must have ended.
    pub(super) exit_by: Option<Instant>,
    /// Sockets that receive new connections but have no responsive attendant, with the start time.
    pub(super) unattended: BTreeMap<SocketId, Instant>,
    /// Time of the last suspension of the controller.
    pub(super) slept: Instant,
    /// Time of the last check.
    pub(super) last_check: Instant,
    /// States of the slots at the last check.
    pub(super) states: Vec<SlotState>,
    /// Number of consecutive loop iterations with a deadline in the past.
    pub(super) overdue: u32,
    /// Number of group changes at the last check.
    pub(super) moves: u64,
    /// Number of permitted resets.
    pub(super) excused: u64,
    /// `true` if a reload was aborted: workers of different configurations serve.
    pub(super) mixed: bool,
    /// `true` if the manager did not keep a socket.
    pub(super) unkept: bool,
}

impl History {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            external: Vec::new(),
            freed: Vec::new(),
            failed: BTreeSet::new(),
            starts: BTreeMap::new(),
            refusals: BTreeSet::new(),
            stopped: None,
            draining: None,
            killing: false,
            exit_by: None,
            unattended: BTreeMap::new(),
            slept: now,
            last_check: now,
            states: Vec::new(),
            overdue: 0,
            moves: u64::MAX,
            excused: 0,
            mixed: false,
            unkept: false,
        }
    }
}
