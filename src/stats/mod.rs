//! The statistics that all processes share: one block of memory made before the first fork.
//!
//! A **seat** is a worker's place in it: taken when the worker is forked, and when it is reaped its
//! counters move to its slot's block, so that an old worker that still drains and its replacement
//! never write to the same place. Every word has a single writer, which therefore adds by a plain
//! load and store. A [`Snapshot`] of it is what every rendering shows. Whoever reads compares and
//! adds these numbers and nothing more: an index or a length is never taken from them unchecked.

pub mod events;
pub mod histogram;
mod labels;
pub mod layout;
pub mod rates;
pub mod reading;
pub mod saved;
#[cfg(test)]
mod saved_tests;
mod seat;
mod siblings;
pub mod snapshot;
#[cfg(test)]
mod tests;
pub mod words;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;

pub use self::labels::{AcceptError, Cause, Phase, Reason, SlotState, Stage};
pub use self::layout::Layout;
use self::layout::{MAGIC, SEATS, VERSION, WORDS};
pub use self::seat::Seat;
pub use self::siblings::Siblings;
pub use self::snapshot::{SILENCE_MS, Snapshot};
pub use self::words::{FleetWord, SlotWord, Word};
use crate::process::memory::SharedWords;

/// All numbers, as their owner, the controller, has them.
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
        let statistics = Self { memory, free: (0..SEATS).rev().collect() };
        statistics.stamp();
        Ok(statistics)
    }

    /// Says what they are, to the next image.
    pub fn stamp(&self) {
        self.layout().set_fleet(FleetWord::Magic, MAGIC);
        self.layout().set_fleet(FleetWord::Version, VERSION);
    }

    /// The statistics of the image before, with these seats taken.
    ///
    /// # Errors
    /// The memory is not what it should be.
    pub fn resume(file: OwnedFd, taken: &[usize]) -> io::Result<Self> {
        let memory = SharedWords::map(file, WORDS)?;
        let statistics =
            Self { memory, free: (0..SEATS).rev().filter(|seat| !taken.contains(seat)).collect() };
        let fleet = |word| statistics.layout().fleet(word);
        if (fleet(FleetWord::Magic), fleet(FleetWord::Version)) != (MAGIC, VERSION) {
            return Err(io::Error::other("the statistics are of another version"));
        }
        Ok(statistics)
    }

    /// Takes a free seat; `None` when all are taken.
    pub fn take_seat(&mut self) -> Option<usize> {
        let seat = self.free.pop()?;
        let used = self.layout().fleet(FleetWord::SeatsUsed).max(seat as u64 + 1);
        self.layout().set_fleet(FleetWord::SeatsUsed, used);
        Some(seat)
    }

    /// Says whose seat it is: the worker of this slot, from 1, or the admin process (0).
    pub fn seat_worker(&self, seat: usize, slot: u32, pid: u64, uptime_ms: u64) {
        let words = self.seat(seat);
        words.set(Word::Slot, u64::from(slot));
        words.set(Word::Forked, uptime_ms);
        words.set(Word::Pid, pid);
        let used = self.layout().fleet(FleetWord::SlotsUsed).max(u64::from(slot));
        self.layout().set_fleet(FleetWord::SlotsUsed, used);
    }

    /// Gives a seat back. What its worker has counted stays with the slot.
    pub fn free_seat(&mut self, seat: usize) {
        let layout = self.layout();
        let words = self.seat(seat);
        let slot = words.get(Word::Slot) as usize;
        layout.change(|| reading::settle(words, slot, layout.former(slot)));
        self.free.push(seat);
    }

    /// The words of one seat.
    ///
    /// # Panics
    /// When `seat` did not come from [`Self::take_seat`].
    pub fn seat(&self, seat: usize) -> Seat<'_> {
        self.layout().seat(seat).expect("a seat that was taken")
    }

    /// Says which seat the healthy worker of `slot`, from 1, has; `None` if there is no such worker.
    pub fn list(&self, slot: u32, seat: Option<usize>) {
        if let Some(entry) = self.layout().directory().get(slot as usize - 1) {
            entry.store(seat.map_or(0, |seat| seat as u64 + 1), Ordering::Relaxed);
        }
    }

    /// All healthy workers, as they see each other.
    pub fn siblings(&self) -> Siblings<'_> {
        Siblings::new(self.layout())
    }

    /// All words, with names.
    pub fn layout(&self) -> Layout<'_> {
        Layout(self.memory.words())
    }

    /// The descriptor of the memory.
    pub fn file(&self) -> &OwnedFd {
        self.memory.file()
    }
}
