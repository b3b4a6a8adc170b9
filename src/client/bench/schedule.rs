//! When things are due. Pure: times are nanoseconds since the run began, and arguments.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The intended send times of one connection: message `k` is due at `first + k * interval`, whatever
/// has become of the others.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Timetable {
    first: u64,
    interval: f64,
}

impl Timetable {
    /// A timetable from `start` on. The first message of connection `number` is due within the first
    /// interval, at a place of its own: connections do not all send at the same moment.
    pub(super) fn new(start: u64, interval: f64, number: u32) -> Self {
        // Multiples of the golden ratio spread evenly, however many there are.
        let phase = (f64::from(number) * 0.618_033_988_749_895).fract();
        Self { first: start + (phase * interval) as u64, interval }
    }

    /// What is left of it when so many messages have been begun.
    pub(super) fn after(self, begun: u64) -> Self {
        Self { first: self.time(begun), ..self }
    }

    /// When message `index`, from 0, is due.
    pub(super) fn time(&self, index: u64) -> u64 {
        self.first + (index as f64 * self.interval) as u64
    }

    /// How many messages are due by `now`.
    pub(super) fn due(&self, now: u64) -> u64 {
        let Some(since) = now.checked_sub(self.first) else { return 0 };
        let mut count = (since as f64 / self.interval) as u64 + 1;
        // Rounding may be one off, and must agree with `time`.
        while self.time(count) <= now {
            count += 1;
        }
        while count > 0 && self.time(count - 1) > now {
            count -= 1;
        }
        count
    }
}

/// What is to be done at some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Task {
    /// The next message of a connection is due.
    Send,
    /// A connection has lived long enough.
    Finish,
    /// A connection has taken too long to be opened.
    ConnectDeadline,
    /// A connection has taken too long to end.
    EndDeadline,
    /// Another try to open it.
    Retry,
}

/// A task for one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry {
    /// When.
    pub at: u64,
    /// What.
    pub task: Task,
    /// The connection's place.
    pub slot: u32,
    /// Which of the place's connections: an earlier one's entries are of no use any more.
    pub generation: u32,
}

/// All that is to be done, the most urgent first. Nothing is ever taken back.
#[derive(Debug, Default)]
pub(super) struct Agenda(BinaryHeap<Reverse<Entry>>);

impl Agenda {
    /// Adds an entry.
    pub(super) fn add(&mut self, entry: Entry) {
        self.0.push(Reverse(entry));
    }

    /// Takes the first entry, if it is due by `now`.
    pub(super) fn take_due(&mut self, now: u64) -> Option<Entry> {
        let Reverse(first) = self.0.peek()?;
        if first.at > now {
            return None;
        }
        self.0.pop().map(|Reverse(entry)| entry)
    }

    /// When the first entry is due.
    pub(super) fn next(&self) -> Option<u64> {
        self.0.peek().map(|Reverse(first)| first.at)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn messages_are_due_at_their_times_and_not_before() {
        let table = Timetable::new(1_000, 250.0, 0);
        assert_eq!(table.due(999), 0);
        assert_eq!(table.due(1_000), 1);
        assert_eq!(table.due(1_249), 1);
        assert_eq!(table.due(1_250), 2);
        assert_eq!(table.time(4), 2_000);
    }

    #[test]
    fn what_is_left_of_a_timetable_is_due_at_the_same_times() {
        let table = Timetable::new(1_000, 250.0, 0);
        assert_eq!(table.after(0), table);
        let left = table.after(3);
        assert_eq!((left.time(0), left.time(2)), (table.time(3), table.time(5)));
        assert_eq!((left.due(1_749), left.due(1_750), table.due(1_750)), (0, 1, 4));
    }

    #[test]
    fn connections_begin_at_places_of_their_own() {
        let firsts: Vec<u64> =
            (0..8).map(|n| Timetable::new(0, 8e6, n).time(0) / 1_000_000).collect();
        let mut sorted = firsts.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert!(sorted.len() >= 7, "{firsts:?}");
        assert!(firsts.iter().all(|first| *first < 8));
    }

    #[test]
    fn the_agenda_is_in_order_of_time() {
        let entry = |at, slot| Entry { at, task: Task::Send, slot, generation: 0 };
        let mut agenda = Agenda::default();
        assert_eq!(agenda.next(), None);
        [entry(30, 1), entry(10, 2), entry(20, 3)].into_iter().for_each(|entry| agenda.add(entry));
        assert_eq!(agenda.next(), Some(10));
        assert_eq!(agenda.take_due(9), None);
        assert_eq!(agenda.take_due(25).map(|entry| entry.slot), Some(2));
        assert_eq!(agenda.take_due(25).map(|entry| entry.slot), Some(3));
        assert_eq!(agenda.take_due(25), None);
    }

    proptest! {
        #[test]
        fn what_is_due_agrees_with_the_times(
            start in 0..1_000_000_000_u64,
            interval in 1.0..1e12_f64,
            number: u32,
            index in 0..1_000_000_u64,
        ) {
            let table = Timetable::new(start, interval, number);
            let time = table.time(index);
            prop_assert!(table.due(time) > index);
            prop_assert!(table.due(time - 1) <= index || table.time(index + 1) == time);
            prop_assert!(table.time(0) >= start);
        }
    }
}
