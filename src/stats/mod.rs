//! The statistics that all processes share: one block of memory made before the first fork.
//!
//! A **seat** is a worker's place in it: taken when the worker is forked, cleared when it is reaped,
//! so that an old worker that still drains and its replacement never write to the same place. Every
//! word has a single writer, which therefore adds by a plain load and store. The controller reads
//! and compares these numbers and nothing more: it never takes an index or a length from them.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::process::memory::SharedWords;

/// Words of a seat: two cache lines, so that workers do not slow each other down.
const SEAT_WORDS: usize = 16;

/// Seats: a generation of 1024 workers and seven that still drain.
const SEATS: usize = 8192;

/// The directory: for each slot, from 1, its healthy worker's seat plus one, or 0. Written by the
/// controller alone.
const DIRECTORY_WORDS: usize = 1024;

const WORDS: usize = DIRECTORY_WORDS + SEATS * SEAT_WORDS;

/// What a word of a seat counts.
#[derive(Clone, Copy, Debug)]
#[repr(usize)]
pub enum Word {
    /// The uptime in milliseconds (`CLOCK_MONOTONIC`) at the event loop's last turn: at most a second
    /// ago while the worker is alive and well.
    Heartbeat,
    /// Connections open now.
    Connections,
    /// Connections accepted in all.
    Accepted,
    /// Connections that siblings have passed to it. This word and the next have several writers.
    PassedTo,
    /// Those of them that it, or a sibling in its place, has taken.
    Taken,
}

/// All seats.
#[derive(Debug)]
pub struct Statistics {
    memory: SharedWords,
    free: Vec<usize>,
}

impl Statistics {
    /// Room for as many workers as there can ever be. Memory that nobody has touched costs nothing.
    ///
    /// # Errors
    /// No memory, or no descriptors.
    pub fn new() -> io::Result<Self> {
        let memory = SharedWords::new(WORDS)?;
        Ok(Self { memory, free: (0..SEATS).rev().collect() })
    }

    /// The statistics of the image before, with these seats taken.
    ///
    /// # Errors
    /// The memory is not what it should be.
    pub fn resume(file: OwnedFd, taken: &[usize]) -> io::Result<Self> {
        let memory = SharedWords::map(file, WORDS)?;
        Ok(Self { memory, free: (0..SEATS).rev().filter(|seat| !taken.contains(seat)).collect() })
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
        seat_of(self.memory.words(), seat)
    }

    /// Says which seat the healthy worker of `slot`, from 1, has; `None` if there is no such worker.
    pub fn list(&self, slot: u32, seat: Option<usize>) {
        if let Some(entry) = self.memory.words()[..DIRECTORY_WORDS].get(slot as usize - 1) {
            entry.store(seat.map_or(0, |seat| seat as u64 + 1), Ordering::Relaxed);
        }
    }

    /// All healthy workers, as they see each other.
    pub fn siblings(&self) -> Siblings<'_> {
        Siblings(self.memory.words())
    }

    /// The descriptor of the memory.
    pub fn file(&self) -> &OwnedFd {
        self.memory.file()
    }
}

fn seat_of(words: &[AtomicU64], seat: usize) -> Seat<'_> {
    Seat(&words[DIRECTORY_WORDS + seat * SEAT_WORDS..][..SEAT_WORDS])
}

/// The directory with what it points to.
#[derive(Clone, Copy, Debug)]
pub struct Siblings<'a>(&'a [AtomicU64]);

impl<'a> Siblings<'a> {
    /// The worker on this seat.
    pub fn seat(self, seat: usize) -> Option<Seat<'a>> {
        (seat < SEATS).then(|| seat_of(self.0, seat))
    }

    /// The slots with a healthy worker, and that worker's seat.
    pub fn iter(self) -> impl Iterator<Item = (u32, Seat<'a>)> {
        let words = self.0;
        words[..DIRECTORY_WORDS].iter().zip(1..).filter_map(move |(entry, slot)| {
            let seat = entry.load(Ordering::Relaxed).checked_sub(1)? as usize;
            (seat < SEATS).then(|| (slot, seat_of(words, seat)))
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_image_finds_the_numbers_and_leaves_taken_seats_alone() {
        let mut before = Statistics::new().expect("memory");
        let seat = before.take_seat().unwrap();
        before.seat(seat).set(Word::Accepted, 7);
        let file = before.file().try_clone().expect("descriptor");
        let mut after = Statistics::resume(file, &[seat]).expect("memory");
        assert_eq!(after.seat(seat).get(Word::Accepted), 7);
        assert_ne!(after.take_seat(), Some(seat));
    }

    #[test]
    fn siblings_see_who_is_listed_and_what_is_on_its_way() {
        let mut statistics = Statistics::new().expect("memory");
        let seat = statistics.take_seat().unwrap();
        statistics.list(3, Some(seat));
        statistics.seat(seat).set(Word::Connections, 5);
        statistics.seat(seat).pass();
        let seen: Vec<_> =
            statistics.siblings().iter().map(|(slot, seat)| (slot, seat.load())).collect();
        assert_eq!(seen, [(3, 6)]);
        statistics.list(3, None);
        assert_eq!(statistics.siblings().iter().count(), 0);
    }

    #[test]
    fn foreign_memory_is_refused() {
        let file = std::fs::File::open("/dev/null").expect("open");
        assert!(Statistics::resume(file.into(), &[]).is_err());
    }

    #[test]
    fn a_seat_is_given_out_once_and_comes_back_clean() {
        let mut statistics = Statistics::new().expect("memory");
        let (one, other) = (statistics.take_seat().unwrap(), statistics.take_seat().unwrap());
        assert_ne!(one, other);
        statistics.seat(one).add(Word::Accepted, 3);
        statistics.seat(other).add(Word::Accepted, 4);
        assert_eq!(statistics.seat(one).get(Word::Accepted), 3);
        statistics.free_seat(one);
        assert_eq!(statistics.take_seat(), Some(one));
        assert_eq!(statistics.seat(one).get(Word::Accepted), 0);
        assert_eq!(statistics.seat(other).get(Word::Accepted), 4);
    }
}
