//! A stats block: what one worker counts.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::fields::ACCEPT_ERRORS;
use super::fields::{BLOCK_WORDS, CLOSED, DURATION, Field, FieldRange, LAG};
use super::histogram::{DURATION_BOUNDS, LAG_BOUNDS, bucket};
use super::{AcceptError, Reason};
use crate::sys::clock;

/// A view of a stats block. A block has a single writer, which therefore adds by a plain load and store;
/// other processes only read it.
#[derive(Clone, Copy, Debug)]
pub struct StatsBlock<'a>(pub(super) &'a Block);

// The length is part of the type, so that the compiler can omit bounds checks.
pub(super) type Block = [AtomicU64; BLOCK_WORDS];

impl StatsBlock<'_> {
    /// Returns the value of a field.
    pub(crate) fn get(&self, field: Field) -> u64 {
        self.0[field as usize].load(Ordering::Relaxed)
    }

    /// Sets a field. Only for the block's writer.
    pub(crate) fn set(&self, field: Field, value: u64) {
        self.0[field as usize].store(value, Ordering::Relaxed);
    }

    /// Adds to a field, wrapping around. Only for the block's writer.
    pub(crate) fn add(&self, field: Field, amount: u64) {
        self.add_at(field as usize, amount);
    }

    /// Subtracts from a field, down to 0. Only for the block's writer.
    pub(crate) fn subtract(&self, field: Field, amount: u64) {
        self.set(field, self.get(field).saturating_sub(amount));
    }

    fn add_at(&self, index: usize, amount: u64) {
        let word = &self.0[index];
        word.store(word.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
    }

    /// Returns the sum of a range of fields.
    pub(super) fn sum(&self, range: FieldRange) -> u64 {
        let words = &self.0[range.first..][..range.len];
        words.iter().fold(0, |sum, word| word.load(Ordering::Relaxed).saturating_add(sum))
    }

    /// Returns the number of connections that were closed for this reason.
    #[cfg(test)]
    pub(crate) fn closed(&self, reason: Reason) -> u64 {
        self.0[CLOSED.first + reason as usize].load(Ordering::Relaxed)
    }

    /// Counts a connection that was closed after `duration` with `unsent` bytes in its write buffer.
    /// These bytes count as abandoned if the connection was reset. After an orderly close nothing counts
    /// them, so that they show up as lost.
    pub(crate) fn count_closed(&self, reason: Reason, duration: Duration, unsent: u64) {
        self.add_at(CLOSED.first + reason as usize, 1);
        let millis = clock::millis(duration);
        self.add_at(DURATION.first + bucket(&DURATION_BOUNDS, millis), 1);
        self.add(Field::DurationSum, millis);
        if unsent > 0 {
            self.subtract(Field::Buffered, unsent);
            if !reason.is_orderly() {
                self.add(Field::Abandoned, unsent);
            }
        }
    }

    /// Counts an event loop iteration of this duration.
    pub(crate) fn count_iteration(&self, duration: Duration) {
        let micros = duration.as_micros() as u64;
        self.add_at(LAG.first + bucket(&LAG_BOUNDS, micros), 1);
        self.add(Field::LagSum, micros);
    }

    /// Counts a failure of accept(2).
    pub(crate) fn count_accept_error(&self, error: AcceptError) {
        self.add_at(ACCEPT_ERRORS.first + error as usize, 1);
    }

    /// Counts what a killed worker could not: its `connections` were closed with `unsent` bytes.
    pub(super) fn count_lost(&self, connections: u64, unsent: u64) {
        self.add_at(CLOSED.first + Reason::WorkerDied as usize, connections);
        self.add(Field::Abandoned, unsent);
    }

    /// Reserves a handoff: one more connection is on its way to the worker. Any process may call it.
    pub(crate) fn reserve_handoff(&self) {
        self.0[Field::HandoffsReserved as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Commits a reserved handoff: a worker has taken the connection. Any process may call it.
    ///
    /// The worker that takes it commits first and calls [`Self::set_connections`] next, so that
    /// [`Self::load`] never counts the connection twice.
    pub(crate) fn commit_handoff(&self) {
        self.0[Field::HandoffsCommitted as usize].fetch_add(1, Ordering::Release);
    }

    /// Cancels a reserved handoff: the connection was not sent. Any process may call it.
    pub(crate) fn cancel_handoff(&self) {
        self.0[Field::HandoffsReserved as usize].fetch_sub(1, Ordering::Relaxed);
    }

    /// Publishes the number of open connections; for the worker of the block only.
    pub fn set_connections(&self, count: u64) {
        self.0[Field::Connections as usize].store(count, Ordering::Release);
    }

    /// Returns the number of connections that the worker has or that are on their way to it.
    ///
    /// A connection counts at most once. Between the two writes of the worker that takes it, it counts
    /// nowhere. That is the harmless side: a worker hands off only to one with fewer connections, so a
    /// load that is one too low still leaves the two at most one apart; one too high would make it two.
    pub(crate) fn load(&self) -> u64 {
        // In the reverse order of the writes: whoever sees the new number of connections sees the commit,
        // and whoever sees the commit sees the reservation, which came before the message.
        let connections = self.0[Field::Connections as usize].load(Ordering::Acquire);
        let committed = self.0[Field::HandoffsCommitted as usize].load(Ordering::Acquire);
        let reserved = self.get(Field::HandoffsReserved);
        connections.saturating_add(reserved.saturating_sub(committed))
    }
}
