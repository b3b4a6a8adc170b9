//! Reading the blocks: all in one go, added up, while others go on writing.

use std::sync::atomic::{Ordering, fence};
use std::thread;
use std::time::{Duration, Instant};

use super::events::{self, Event};
use super::layout::{Layout, SEATS, SLOTS};
use super::rates::{self, Counts, Sample};
use super::seat::{Block, Seat};
use super::words::{BLOCK_WORDS, CLOSED, FIRST_COUNTER, FleetWord, Word};

/// How long to read again while numbers move. They do for microseconds, unless the controller loses its
/// CPU in that moment.
const PATIENCE: Duration = Duration::from_millis(50);

/// The blocks that belong together, added up.
#[derive(Clone, Copy)]
pub(super) struct Sum(pub(super) [u64; BLOCK_WORDS]);

impl Sum {
    fn add(&mut self, block: &[u64; BLOCK_WORDS]) {
        for (sum, word) in self.0.iter_mut().zip(block) {
            *sum = sum.saturating_add(*word);
        }
    }

    /// Adds only the log lines that were dropped.
    fn add_dropped(&mut self, seat: Seat<'_>) {
        let sum = &mut self.0[Word::LogDropped as usize];
        *sum = sum.saturating_add(seat.get(Word::LogDropped));
    }

    pub(super) fn get(&self, word: Word) -> u64 {
        self.0[word as usize]
    }

    fn counts(&self) -> Counts {
        [Word::Accepted, Word::Messages, Word::Received, Word::Sent].map(|word| self.get(word))
    }
}

/// Copies a block, the last word first: what follows from another number stands behind it, so that a
/// worker at work is never seen to have sent more than it has received.
fn copy(block: &Block) -> [u64; BLOCK_WORDS] {
    let mut words = [0; BLOCK_WORDS];
    for (copy, word) in words.iter_mut().zip(block).rev() {
        *copy = word.load(Ordering::Relaxed);
    }
    words
}

/// What was read in one go: for slots 0 and up the sums and the samples, the seats that are taken, and
/// the last events.
pub(super) struct Reading {
    pub(super) sums: Vec<Sum>,
    pub(super) samples: Vec<Vec<Sample>>,
    pub(super) seats: Vec<[u64; BLOCK_WORDS]>,
    pub(super) events: Vec<Event>,
}

impl Reading {
    /// Reads again while numbers move from one block to another. Should they never stop, because the
    /// controller was killed in that moment, the last reading has to do.
    pub(super) fn take(layout: Layout<'_>) -> Self {
        let begin = Instant::now();
        loop {
            let before = layout.epoch().load(Ordering::Acquire);
            let reading = Self::once(layout);
            fence(Ordering::Acquire);
            let after = layout.epoch().load(Ordering::Relaxed);
            if (before % 2 == 0 && before == after) || begin.elapsed() > PATIENCE {
                return reading;
            }
            thread::yield_now();
        }
    }

    fn once(layout: Layout<'_>) -> Self {
        // Nothing that is read here is trusted to be an index.
        let slots = (layout.fleet(FleetWord::SlotsUsed) as usize).min(SLOTS);
        let used = (layout.fleet(FleetWord::SeatsUsed) as usize).min(SEATS);
        let mut sums = vec![Sum([0; BLOCK_WORDS]); slots + 1];
        for (slot, sum) in sums.iter_mut().enumerate() {
            layout.former(slot).iter().for_each(|block| sum.add(&copy(block.0)));
        }
        let mut seats = Vec::new();
        for seat in (0..used).filter_map(|seat| layout.seat(seat)) {
            let slot = seat.get(Word::Slot) as usize;
            if seat.get(Word::Pid) == 0 {
                continue;
            }
            // The admin process echoes nothing.
            if slot == 0 {
                sums[0].add_dropped(seat);
                continue;
            }
            if let Some(sum) = sums.get_mut(slot) {
                let mut words = copy(seat.0);
                // Why it pauses is no number to add.
                words[Word::Paused as usize] = u64::from(words[Word::Paused as usize] != 0);
                sum.add(&words);
                seats.push(words);
            }
        }
        let samples = (0..=slots).map(|slot| rates::samples(layout, slot)).collect();
        Self { sums, samples, seats, events: events::recent(layout) }
    }

    pub(super) fn total(&self) -> Sum {
        let mut total = Sum([0; BLOCK_WORDS]);
        for sum in &self.sums {
            total
                .0
                .iter_mut()
                .zip(sum.0)
                .for_each(|(total, part)| *total = total.saturating_add(part));
        }
        total
    }
}

/// Takes the samples of the rates; for the controller, once a second.
pub fn sample(layout: Layout<'_>, at_ms: u64) {
    let reading = Reading::take(layout);
    layout.change(|| {
        rates::begin_sample(layout, at_ms);
        rates::take_sample(layout, 0, reading.total().counts());
        for (slot, sum) in reading.sums.iter().enumerate().skip(1) {
            rates::take_sample(layout, slot, sum.counts());
        }
    });
}

/// What is to be kept beyond the end of the daemon: the words of all blocks together, and the samples
/// of the whole daemon.
pub(super) fn for_keeps(layout: Layout<'_>) -> ([u64; BLOCK_WORDS], Vec<Sample>) {
    let mut reading = Reading::take(layout);
    let mut total = reading.total().0;
    let dropped = &mut total[Word::LogDropped as usize];
    *dropped = dropped.saturating_add(layout.fleet(FleetWord::LogDropped));
    (total, reading.samples.swap_remove(0))
}

/// What of a block is gone with its worker, and what stays: moves the counters of `seat` to `former`
/// and clears it. What the worker could not count any more because it was killed is put right: its
/// connections have ended, and what they had not been sent they never will be. Of the admin process,
/// which has slot 0 and echoes nothing, only the log lines that it dropped count.
pub(super) fn settle(seat: Seat<'_>, slot: usize, former: Option<Seat<'_>>) {
    let died = seat.get(Word::Accepted).saturating_sub(seat.sum(CLOSED));
    let gone = seat.get(Word::Sent).saturating_add(seat.get(Word::Abandoned));
    let owed = seat.get(Word::Received).saturating_add(seat.get(Word::Injected));
    if let (0, Some(former)) = (slot, former) {
        former.add(Word::LogDropped, seat.get(Word::LogDropped));
    } else if let Some(former) = former {
        for index in FIRST_COUNTER..BLOCK_WORDS {
            let sum = former.0[index].load(Ordering::Relaxed);
            let own = seat.0[index].load(Ordering::Relaxed);
            former.0[index].store(sum.saturating_add(own), Ordering::Relaxed);
        }
        former.lost(died, owed.saturating_sub(gone));
    }
    seat.0.iter().for_each(|word| word.store(0, Ordering::Relaxed));
}
