//! The pipes that bulk passes through: a bounded pool, given back to the system when nobody needs it.

use crate::process::pipe::Pipe;

/// Bytes that a pipe takes: as many as a receive buffer, so that a client that does not read makes the
/// kernel hold no more than it would for one whose bytes are copied.
const CAPACITY: usize = 256 * 1024;

/// Pipes that a process may have. Whoever gets none copies.
const MOST: usize = 16;

/// The pool. A connection has a pipe only while there are bytes in it.
#[derive(Debug)]
pub(super) struct Pipes {
    free: Vec<Pipe>,
    /// How many there are, in the pool and out of it.
    made: usize,
    /// Fewer are enough lately.
    fewest_free: usize,
    enabled: bool,
    /// The system has given us none a moment ago.
    refused: bool,
}

impl Pipes {
    /// An empty pool; one that never has any, if not `enabled`.
    pub(super) fn new(enabled: bool) -> Self {
        Self { free: Vec::new(), made: 0, fewest_free: 0, enabled, refused: false }
    }

    /// An empty pipe; `None` when there can be no more.
    pub(super) fn take(&mut self) -> Option<Pipe> {
        if let Some(pipe) = self.free.pop() {
            self.fewest_free = self.fewest_free.min(self.free.len());
            return Some(pipe);
        }
        if !self.enabled || self.refused || self.made >= MOST {
            return None;
        }
        let made = Pipe::new(CAPACITY);
        self.made += usize::from(made.is_ok());
        self.refused = made.is_err();
        made.ok()
    }

    /// Takes a pipe back. One with something in it is closed.
    pub(super) fn give_back(&mut self, pipe: Pipe) {
        if pipe.is_empty() {
            self.free.push(pipe);
        } else {
            self.made -= 1;
        }
    }

    /// Closes those that nobody has needed since the last time, and asks the system again.
    pub(super) fn shrink(&mut self) {
        self.refused = false;
        let unneeded = self.fewest_free.min(self.free.len());
        self.free.truncate(self.free.len() - unneeded);
        self.made -= unneeded;
        self.fewest_free = self.free.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_only_so_many_and_they_come_back() {
        let mut pipes = Pipes::new(true);
        let taken: Vec<Pipe> = std::iter::from_fn(|| pipes.take()).collect();
        assert_eq!(taken.len(), MOST);
        taken.into_iter().for_each(|pipe| pipes.give_back(pipe));
        pipes.shrink();
        assert_eq!(pipes.made, MOST, "they were all needed a moment ago");
        let one = pipes.take().expect("a pipe");
        pipes.give_back(one);
        pipes.shrink();
        assert_eq!(pipes.made, 1);
        pipes.shrink();
        assert_eq!((pipes.made, pipes.free.len()), (0, 0));
    }

    #[test]
    fn a_pool_that_is_switched_off_has_none() {
        assert!(Pipes::new(false).take().is_none());
    }
}
