//! The statistics that all processes share: one block of memory made before the first fork.
//!
//! A **seat** is a worker's place in it: taken when the worker is forked, cleared when it is reaped,
//! so that an old worker that still drains and its replacement never write to the same place. Every
//! word has a single writer, which therefore adds by a plain load and store. The controller reads
//! and compares these numbers and nothing more: it never takes an index or a length from them.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::process::memory::SharedWords;

/// Words of a seat: two cache lines, so that workers do not slow each other down.
const SEAT_WORDS: usize = 16;

/// What a word of a seat counts.
#[derive(Clone, Copy, Debug)]
#[repr(usize)]
pub enum Word {
    /// Turns of the event loop: changes at least once a second while the worker is alive and well.
    Heartbeat,
    /// Connections open now.
    Connections,
    /// Connections accepted in all.
    Accepted,
}

/// All seats.
#[derive(Debug)]
pub struct Statistics {
    memory: SharedWords,
    free: Vec<usize>,
}

impl Statistics {
    /// Makes room for `seats` workers at a time.
    ///
    /// # Errors
    /// No memory, or no descriptors.
    pub fn new(seats: usize) -> io::Result<Self> {
        let memory = SharedWords::new(seats.max(1) * SEAT_WORDS)?;
        Ok(Self { memory, free: (0..seats).rev().collect() })
    }

    /// Takes a free seat; `None` when all are taken.
    pub fn take_seat(&mut self) -> Option<usize> {
        self.free.pop()
    }

    /// Clears a seat and gives it back.
    pub fn free_seat(&mut self, seat: usize) {
        let words = self.seat(seat).0;
        words.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        self.free.push(seat);
    }

    /// The words of one seat.
    ///
    /// # Panics
    /// When `seat` did not come from [`Self::take_seat`].
    pub fn seat(&self, seat: usize) -> Seat<'_> {
        Seat(&self.memory.words()[seat * SEAT_WORDS..][..SEAT_WORDS])
    }

    /// The descriptor of the memory.
    pub fn file(&self) -> &std::os::fd::OwnedFd {
        self.memory.file()
    }
}

/// One worker's words.
#[derive(Clone, Copy, Debug)]
pub struct Seat<'a>(&'a [AtomicU64]);

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
        self.set(word, self.get(word).wrapping_add(amount));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seat_is_given_out_once_and_comes_back_clean() {
        let mut statistics = Statistics::new(2).expect("memory");
        let (one, other) = (statistics.take_seat().unwrap(), statistics.take_seat().unwrap());
        assert_ne!(one, other);
        assert_eq!(statistics.take_seat(), None);
        statistics.seat(one).add(Word::Accepted, 3);
        statistics.seat(other).add(Word::Accepted, 4);
        assert_eq!(statistics.seat(one).get(Word::Accepted), 3);
        statistics.free_seat(one);
        assert_eq!(statistics.take_seat(), Some(one));
        assert_eq!(statistics.seat(one).get(Word::Accepted), 0);
        assert_eq!(statistics.seat(other).get(Word::Accepted), 4);
    }
}
