//! Send schedules and the task queue. Pure: times are arguments, in nanoseconds since the start of the
//! run.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Intended send times of a client: message `k` is due at `first + k * interval`, whatever becomes of the
/// other messages.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Schedule {
    first: u64,
    interval: f64,
}

impl Schedule {
    /// Returns a schedule from `start` on. The first message is due within the first interval, at an
    /// offset that depends on `client`, so that clients do not send simultaneously.
    pub(super) fn new(start: u64, interval: f64, client: u32) -> Self {
        // Multiples of the golden ratio are evenly distributed for any number of clients.
        let phase = (f64::from(client) * 0.618_033_988_749_895).fract();
        Self { first: start + (phase * interval) as u64, interval }
    }

    /// Returns the schedule without its first `started` messages.
    pub(super) fn after(self, started: u64) -> Self {
        Self { first: self.time(started), ..self }
    }

    /// Returns the time at which message `index`, counted from 0, is due.
    pub(super) fn time(&self, index: u64) -> u64 {
        self.first + (index as f64 * self.interval) as u64
    }

    /// Returns the number of messages due by `now`.
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

/// Kind of a [`Task`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Action {
    /// Send the message that is due.
    Send,
    /// Finish a connection at the end of its lifetime.
    Finish,
    /// Fail a connection that is still connecting.
    ConnectDeadline,
    /// Close a connection that is still finishing.
    FinishDeadline,
    /// Open a connection after a failure.
    Retry,
}

/// An action for one connection at a given time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Task {
    pub at: u64,
    pub action: Action,
    pub client: u32,
    /// Generation of the client's connection. Tasks of earlier generations are stale.
    pub generation: u32,
}

/// Pending tasks, earliest first. Tasks are never removed before they are due.
#[derive(Debug, Default)]
pub(super) struct TaskQueue(BinaryHeap<Reverse<Task>>);

impl TaskQueue {
    pub(super) fn add(&mut self, task: Task) {
        self.0.push(Reverse(task));
    }

    /// Removes and returns the earliest task if it is due by `now`.
    pub(super) fn take_due(&mut self, now: u64) -> Option<Task> {
        self.next().filter(|at| *at <= now)?;
        self.0.pop().map(|Reverse(task)| task)
    }

    /// Returns the time of the earliest task.
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
        let schedule = Schedule::new(1_000, 250.0, 0);
        assert_eq!(schedule.due(999), 0);
        assert_eq!(schedule.due(1_000), 1);
        assert_eq!(schedule.due(1_249), 1);
        assert_eq!(schedule.due(1_250), 2);
        assert_eq!(schedule.time(4), 2_000);
    }

    #[test]
    fn the_remaining_messages_keep_their_times() {
        let schedule = Schedule::new(1_000, 250.0, 0);
        assert_eq!(schedule.after(0), schedule);
        let rest = schedule.after(3);
        assert_eq!((rest.time(0), rest.time(2)), (schedule.time(3), schedule.time(5)));
        assert_eq!((rest.due(1_749), rest.due(1_750), schedule.due(1_750)), (0, 1, 4));
    }

    #[test]
    fn clients_start_at_different_times() {
        let firsts: Vec<u64> =
            (0..8).map(|n| Schedule::new(0, 8e6, n).time(0) / 1_000_000).collect();
        let mut sorted = firsts.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert!(sorted.len() >= 7, "{firsts:?}");
        assert!(firsts.iter().all(|first| *first < 8));
    }

    #[test]
    fn tasks_are_taken_in_order_of_time() {
        let task = |at, client| Task { at, action: Action::Send, client, generation: 0 };
        let mut tasks = TaskQueue::default();
        assert_eq!(tasks.next(), None);
        [task(30, 1), task(10, 2), task(20, 3)].into_iter().for_each(|task| tasks.add(task));
        assert_eq!(tasks.next(), Some(10));
        assert_eq!(tasks.take_due(9), None);
        assert_eq!(tasks.take_due(25).map(|task| task.client), Some(2));
        assert_eq!(tasks.take_due(25).map(|task| task.client), Some(3));
        assert_eq!(tasks.take_due(25), None);
    }

    proptest! {
        #[test]
        fn the_due_count_agrees_with_the_times(
            start in 0..1_000_000_000_u64,
            interval in 1.0..1e12_f64,
            number: u32,
            index in 0..1_000_000_u64,
        ) {
            let schedule = Schedule::new(start, interval, number);
            let time = schedule.time(index);
            prop_assert!(schedule.due(time) > index);
            prop_assert!(schedule.due(time - 1) <= index || schedule.time(index + 1) == time);
            prop_assert!(schedule.time(0) >= start);
        }
    }
}
