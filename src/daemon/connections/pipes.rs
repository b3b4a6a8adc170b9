//! The pool of pipes for splice(2): bounded, and returned to the system when idle.

use super::transport::SplicePipe;

/// Most bytes that a pipe takes. The kernel limits the pipe memory of an unprivileged user (pipe(7),
/// `pipe-user-pages-soft`).
const MAX_CAPACITY: usize = 256 * 1024;

/// Most pipes of a process. A connection that gets none copies instead.
const MAX_PIPES: usize = 16;

/// Free pipes. A connection holds a pipe only while there are bytes in it.
#[derive(Debug)]
pub(super) struct PipePool<P> {
    free: Vec<P>,
    /// Pipes that exist, in the pool or held by connections.
    open: usize,
    /// Bytes that a pipe takes.
    capacity: usize,
    /// Fewest free pipes since the last [`Self::shrink`].
    low_watermark: usize,
    enabled: bool,
    /// `true` if the system has refused a pipe since the last [`Self::shrink`].
    refused: bool,
}

impl<P: SplicePipe> PipePool<P> {
    /// Creates an empty pool, which gives out no pipe unless `enabled`. A pipe takes at most
    /// `buffer_size` bytes: as for a receive, that bounds what waits for a client that does not read.
    pub(super) fn new(enabled: bool, buffer_size: usize) -> Self {
        let capacity = buffer_size.min(MAX_CAPACITY);
        Self { free: Vec::new(), open: 0, capacity, low_watermark: 0, enabled, refused: false }
    }

    /// Returns an empty pipe; `None` if no more are allowed.
    pub(super) fn take(&mut self) -> Option<P> {
        if let Some(pipe) = self.free.pop() {
            self.low_watermark = self.low_watermark.min(self.free.len());
            return Some(pipe);
        }
        if !self.enabled || self.refused || self.open >= MAX_PIPES {
            return None;
        }
        let opened = P::open(self.capacity);
        self.open += usize::from(opened.is_ok());
        self.refused = opened.is_err();
        opened.ok()
    }

    /// Returns `pipe` to the pool, or closes it if there are bytes in it.
    pub(super) fn release(&mut self, pipe: P) {
        if pipe.len() == 0 {
            self.free.push(pipe);
        } else {
            self.open -= 1;
        }
    }

    /// Closes the pipes that were not needed since the last call, and lets the next
    /// [`Self::take`] ask the system again.
    pub(super) fn shrink(&mut self) {
        self.refused = false;
        let unneeded = self.low_watermark.min(self.free.len());
        self.free.truncate(self.free.len() - unneeded);
        self.open -= unneeded;
        self.low_watermark = self.free.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::pipe::Pipe;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn pipes_are_bounded_and_reused() {
        let mut pool = PipePool::<Pipe>::new(true, MAX_CAPACITY);
        let taken: Vec<Pipe> = std::iter::from_fn(|| pool.take()).collect();
        assert_eq!(taken.len(), MAX_PIPES);
        taken.into_iter().for_each(|pipe| pool.release(pipe));
        pool.shrink();
        assert_eq!(pool.open, MAX_PIPES, "all were needed since the last call");
        let one = pool.take().expect("a pipe");
        pool.release(one);
        pool.shrink();
        assert_eq!(pool.open, 1);
        pool.shrink();
        assert_eq!((pool.open, pool.free.len()), (0, 0));
    }

    #[test]
    fn a_pipe_takes_no_more_than_a_receive() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let mut client = TcpStream::connect(listener.local_addr().expect("bound")).expect("client");
        let (server, _) = listener.accept().expect("accept");
        client.write_all(&[7; 10_000]).expect("write");
        // Less than a page, and not a number of pages that a pipe can have.
        for size in [3000, 5000] {
            let mut pipe = PipePool::<Pipe>::new(true, size).take().expect("a pipe");
            assert_eq!(pipe.fill(&server).expect("fill"), size);
        }
    }

    #[test]
    fn a_disabled_pool_has_no_pipe() {
        assert!(PipePool::<Pipe>::new(false, MAX_CAPACITY).take().is_none());
    }
}
