//! Consistent reads of all blocks while their writers go on.

use std::sync::atomic::{Ordering, fence};
use std::thread;
use std::time::{Duration, Instant};

use super::block::{Block, StatsBlock};
use super::events::{self, Event};
use super::fields::{BLOCK_WORDS, CLOSED, FIRST_COUNTER, Field, FleetField};
use super::layout::{BLOCKS, Layout, SLOTS};
use super::rates::{self, Counts, Sample};
use crate::daemon::ids::BlockId;

/// Time for which a read is retried while the controller changes several words. It takes microseconds,
/// unless the controller is preempted or killed meanwhile.
const MAX_RETRY_TIME: Duration = Duration::from_millis(50);

/// The sum of several blocks.
#[derive(Clone, Copy)]
pub(super) struct Sum(pub(super) [u64; BLOCK_WORDS]);

impl Sum {
    fn add(&mut self, block: &[u64; BLOCK_WORDS]) {
        for (sum, word) in self.0.iter_mut().zip(block) {
            *sum = sum.saturating_add(*word);
        }
    }

    /// Adds only the count of dropped log lines.
    fn add_dropped(&mut self, block: StatsBlock<'_>) {
        let sum = &mut self.0[Field::LogDropped as usize];
        *sum = sum.saturating_add(block.get(Field::LogDropped));
    }

    pub(super) fn get(&self, field: Field) -> u64 {
        self.0[field as usize]
    }

    fn counts(&self) -> Counts {
        [Field::Accepted, Field::Messages, Field::Received, Field::Sent]
            .map(|field| self.get(field))
    }
}

/// Copies a block, the last word first. A worker counts sent bytes after received ones, and the sent
/// ones are behind them: so a copy never has more bytes sent than received.
fn copy(block: &Block) -> [u64; BLOCK_WORDS] {
    let mut words = [0; BLOCK_WORDS];
    for (copy, word) in words.iter_mut().zip(block).rev() {
        *copy = word.load(Ordering::Relaxed);
    }
    words
}

/// One consistent read: sums and samples by slot, from 0, allocated blocks, and the last events.
pub(super) struct Reading {
    pub(super) sums: Vec<Sum>,
    pub(super) samples: Vec<Vec<Sample>>,
    pub(super) blocks: Vec<[u64; BLOCK_WORDS]>,
    pub(super) events: Vec<Event>,
}

impl Reading {
    /// Reads everything, again if the controller changed it meanwhile. Returns the last read after 50 ms
    /// even if it is inconsistent: the controller may have been killed during a change.
    pub(super) fn read(layout: Layout<'_>) -> Self {
        let begin = Instant::now();
        loop {
            let before = layout.epoch().load(Ordering::Acquire);
            let reading = Self::once(layout);
            fence(Ordering::Acquire);
            let after = layout.epoch().load(Ordering::Relaxed);
            if (before % 2 == 0 && before == after) || begin.elapsed() > MAX_RETRY_TIME {
                return reading;
            }
            thread::yield_now();
        }
    }

    fn once(layout: Layout<'_>) -> Self {
        // Numbers from shared memory are checked before they index anything.
        let slots = (layout.fleet(FleetField::SlotsUsed) as usize).min(SLOTS);
        let used = (layout.fleet(FleetField::BlocksUsed) as usize).min(BLOCKS);
        let mut sums = vec![Sum([0; BLOCK_WORDS]); slots + 1];
        for (slot, sum) in sums.iter_mut().enumerate() {
            layout.former(slot).iter().for_each(|block| sum.add(&copy(block.0)));
        }
        let mut blocks = Vec::new();
        for block in (0..used).filter_map(|block| layout.block(BlockId(block))) {
            let slot = block.get(Field::Slot) as usize;
            if block.get(Field::Pid) == 0 {
                continue;
            }
            // Of the admin process, whose connections are not those of clients, only log lines count.
            if slot == 0 {
                sums[0].add_dropped(block);
                continue;
            }
            if let Some(sum) = sums.get_mut(slot) {
                let mut words = copy(block.0);
                // The reason of a pause cannot be added; the number of paused workers can.
                words[Field::Paused as usize] = u64::from(words[Field::Paused as usize] != 0);
                sum.add(&words);
                blocks.push(words);
            }
        }
        let samples = (0..=slots).map(|slot| rates::samples(layout, slot)).collect();
        Self { sums, samples, blocks, events: events::recent(layout) }
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

/// Samples the counters for the rates at this uptime. Called by the controller once a second.
pub(crate) fn sample(layout: Layout<'_>, at_ms: u64) {
    let reading = Reading::read(layout);
    layout.change(|| {
        rates::begin_sample(layout, at_ms);
        rates::take_sample(layout, 0, reading.total().counts());
        for (slot, sum) in reading.sums.iter().enumerate().skip(1) {
            rates::take_sample(layout, slot, sum.counts());
        }
    });
}

/// Returns the sum of all blocks, with the log lines dropped by the controller, and the samples of the
/// whole daemon.
pub(super) fn totals(layout: Layout<'_>) -> ([u64; BLOCK_WORDS], Vec<Sample>) {
    let mut reading = Reading::read(layout);
    let mut total = reading.total().0;
    let dropped = &mut total[Field::LogDropped as usize];
    *dropped = dropped.saturating_add(layout.fleet(FleetField::LogDropped));
    (total, reading.samples.swap_remove(0))
}

/// Adds the counters of a block to those of the slot's former workers and clears it. The connections that
/// a killed worker had open count as closed, and their unsent bytes as abandoned. Of the admin process,
/// slot 0, only dropped log lines count.
pub(super) fn retire_block(block: StatsBlock<'_>, slot: usize, former: Option<StatsBlock<'_>>) {
    let died = block.get(Field::Accepted).saturating_sub(block.sum(CLOSED));
    let gone = block.get(Field::Sent).saturating_add(block.get(Field::Abandoned));
    let received = block.get(Field::Received).saturating_sub(block.get(Field::Consumed));
    let owed = received.saturating_add(block.get(Field::Injected));
    if let (0, Some(former)) = (slot, former) {
        former.add(Field::LogDropped, block.get(Field::LogDropped));
    } else if let Some(former) = former {
        for index in FIRST_COUNTER..BLOCK_WORDS {
            let sum = former.0[index].load(Ordering::Relaxed);
            let own = block.0[index].load(Ordering::Relaxed);
            former.0[index].store(sum.saturating_add(own), Ordering::Relaxed);
        }
        former.count_lost(died, owed.saturating_sub(gone));
    }
    block.0.iter().for_each(|word| word.store(0, Ordering::Relaxed));
}
