//! One worker's words.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::histogram::{DURATION_BOUNDS, LAG_BOUNDS, bucket};
use super::words::ACCEPT_ERRORS;
use super::words::{BLOCK_WORDS, CLOSED, DURATION, Family, LAG, Word};
use super::{AcceptError, Reason};

/// A block of words with a single writer, which therefore adds by a plain load and store.
#[derive(Clone, Copy, Debug)]
pub struct Seat<'a>(pub(super) &'a Block);

/// The words themselves; their number is known, so that an access is checked when it is compiled.
pub(super) type Block = [AtomicU64; BLOCK_WORDS];

impl Seat<'_> {
    /// Reads a word.
    pub fn get(&self, word: Word) -> u64 {
        self.0[word as usize].load(Ordering::Relaxed)
    }

    /// Writes a word; for its single writer only.
    pub fn set(&self, word: Word, value: u64) {
        self.0[word as usize].store(value, Ordering::Relaxed);
    }

    /// Adds to a word, wrapping around; for its single writer only.
    pub fn add(&self, word: Word, amount: u64) {
        self.add_at(word as usize, amount);
    }

    /// Takes from a word; for its single writer only.
    pub fn subtract(&self, word: Word, amount: u64) {
        self.set(word, self.get(word).saturating_sub(amount));
    }

    fn add_at(&self, index: usize, amount: u64) {
        let word = &self.0[index];
        word.store(word.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
    }

    /// Reads a word of a family; 0 where there is none.
    pub fn member(&self, family: Family, index: usize) -> u64 {
        let index = (index < family.len).then(|| family.first + index);
        index.map_or(0, |index| self.0[index].load(Ordering::Relaxed))
    }

    /// The sum of a family.
    pub fn sum(&self, family: Family) -> u64 {
        (0..family.len).fold(0, |sum, index| self.member(family, index).saturating_add(sum))
    }

    /// Notes that a connection has ended after so long; `unsent` bytes will never be sent. They are
    /// abandoned if it was reset; after an orderly end they are lost, and the figures show it.
    pub fn closed(&self, reason: Reason, duration: Duration, unsent: u64) {
        self.add_at(CLOSED.first + reason as usize, 1);
        let millis = duration.as_millis() as u64;
        self.add_at(DURATION.first + bucket(&DURATION_BOUNDS, millis), 1);
        self.add(Word::DurationSum, millis);
        if unsent > 0 {
            self.subtract(Word::Buffered, unsent);
            if !reason.is_orderly() {
                self.add(Word::Abandoned, unsent);
            }
        }
    }

    /// Notes how long a turn of the event loop took: so long may an event have waited.
    pub fn turned(&self, duration: Duration) {
        let micros = duration.as_micros() as u64;
        self.add_at(LAG.first + bucket(&LAG_BOUNDS, micros), 1);
        self.add(Word::LagSum, micros);
    }

    /// Notes a failure of accept(2).
    pub fn not_accepted(&self, error: AcceptError) {
        self.add_at(ACCEPT_ERRORS.first + error as usize, 1);
    }

    /// Counts what a killed worker could not: `connections` of it have ended, and `unsent` bytes will
    /// never be sent.
    pub(super) fn lost(&self, connections: u64, unsent: u64) {
        self.add_at(CLOSED.first + Reason::WorkerDied as usize, connections);
        self.add(Word::Abandoned, unsent);
    }

    /// Notes that a connection was passed to this worker; for anybody.
    pub fn pass(&self) {
        self.0[Word::PassedTo as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that a connection that was passed to this worker has been taken; for anybody.
    pub fn take(&self) {
        self.0[Word::Taken as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Takes a [`Self::pass`] back: the connection could not be sent.
    pub fn unpass(&self) {
        self.0[Word::PassedTo as usize].fetch_sub(1, Ordering::Relaxed);
    }

    /// The connections it has and those that are on their way to it.
    pub fn load(&self) -> u64 {
        let on_their_way = self.get(Word::PassedTo).saturating_sub(self.get(Word::Taken));
        self.get(Word::Connections).saturating_add(on_their_way)
    }
}
