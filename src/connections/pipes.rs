//! The pipes that bulk passes through: a bounded pool, given back to the system when nobody needs it.

use crate::process::pipe::Pipe;

/// The most bytes that a pipe takes. The kernel gives an unprivileged user few larger ones (pipe(7),
/// `pipe-user-pages-soft`).
const LARGEST: usize = 256 * 1024;

/// Pipes that a process may have. Whoever gets none copies.
const MOST: usize = 16;

/// The pool. A connection has a pipe only while there are bytes in it.
#[derive(Debug)]
pub(super) struct Pipes {
    free: Vec<Pipe>,
    /// How many there are, in the pool and out of it.
    made: usize,
    /// Bytes that a pipe takes.
    capacity: usize,
    /// Fewer are enough lately.
    fewest_free: usize,
    enabled: bool,
    /// The system has given us none a moment ago.
    refused: bool,
}

impl Pipes {
    /// An empty pool; one that never has any, if not `enabled`. A pipe takes at most `buffer_size` bytes,
    /// as a receive does: that is the most that is kept for a client that does not read.
    pub(super) fn new(enabled: bool, buffer_size: usize) -> Self {
        let capacity = buffer_size.min(LARGEST);
        Self { free: Vec::new(), made: 0, capacity, fewest_free: 0, enabled, refused: false }
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
        let made = Pipe::new(self.capacity);
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
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn there_are_only_so_many_and_they_come_back() {
        let mut pipes = Pipes::new(true, LARGEST);
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
    fn a_pipe_takes_no_more_than_a_receive() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let mut client = TcpStream::connect(listener.local_addr().expect("bound")).expect("client");
        let (server, _) = listener.accept().expect("accept");
        client.write_all(&[7; 10_000]).expect("write");
        // Less than a page, and not a number of pages that a pipe can have.
        for size in [3000, 5000] {
            let mut pipe = Pipes::new(true, size).take().expect("a pipe");
            assert_eq!(pipe.fill(&server).expect("fill"), size);
        }
    }

    #[test]
    fn a_pool_that_is_switched_off_has_none() {
        assert!(Pipes::new(false, LARGEST).take().is_none());
    }
}
