//! The connections of a simulated worker: accepting, handing off, and ending them.

use std::time::{Duration, Instant};

use super::super::coverage::Point;
use super::{Context, Process};

impl Process {
    /// Accepts the connections that wait in the process's queues.
    pub(super) fn accept(&mut self, context: &mut Context<'_>) {
        if self.full {
            return;
        }
        for index in 0..self.attends.len() {
            let socket = self.attends[index].1;
            while let Some(since) = context.kernel.sockets[socket].waiting.pop_front() {
                if !self.hand_off(since, context) {
                    self.admit(1, context);
                }
            }
        }
        for index in 0..self.handoff_queues.len() {
            let socket = self.handoff_queues[index].1;
            let taken = std::mem::take(&mut context.kernel.sockets[socket].waiting).len();
            if taken > 0 {
                context.coverage.hit(Point::HandoffTaken);
                self.admit(taken, context);
            }
        }
    }

    /// Hands a connection off to a random sibling; returns `true` if it did.
    fn hand_off(&mut self, since: Instant, context: &mut Context<'_>) -> bool {
        if !self.balances || context.listed.is_empty() || context.random.chance(40) {
            return false;
        }
        let sibling = context.listed[context.random.index(context.listed.len())];
        let Some((_, queue)) = self.siblings.iter().find(|(slot, _)| *slot == sibling) else {
            return false;
        };
        let queue = *queue;
        let handed = sibling != self.slot && context.kernel.hand_off(queue, since);
        if handed {
            context.coverage.hit(Point::HandedOff);
            context.touched.push(queue);
        }
        handed
    }

    /// Adds accepted connections.
    pub(super) fn admit(&mut self, count: usize, context: &mut Context<'_>) {
        if count == 0 {
            return;
        }
        self.connections += count as u32;
        let longest = if context.calm { 300 } else { 6000 };
        let end = context.now + Duration::from_millis(context.random.between(5, longest));
        self.next_end = Some(self.next_end.map_or(end, |next| next.min(end)));
    }

    /// Ends some connections if their time has come.
    pub(super) fn end_connections(&mut self, context: &mut Context<'_>) {
        if self.next_end.is_none_or(|at| at > context.now) {
            return;
        }
        self.connections -= context.random.between(1, u64::from(self.connections)) as u32;
        self.next_end = None;
        if self.connections > 0 {
            let longest = if context.calm { 300 } else { 6000 };
            let end = Duration::from_millis(context.random.between(5, longest));
            self.next_end = Some(context.now + end);
        }
    }

    /// Makes connections end soon.
    pub(super) fn hurry_connections(&mut self, context: &mut Context<'_>) {
        if let Some(end) = &mut self.next_end {
            let soon = Duration::from_millis(context.random.between(1, 800));
            *end = (*end).min(context.now + soon);
        }
    }
}
