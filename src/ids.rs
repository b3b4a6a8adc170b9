//! Names of things that several processes talk about.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The name of a queue, unique in the daemon's life, across reloads.
///
/// A queue is what connections wait in: the accept queue of a listening socket, or the handoff queue
/// of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct QueueId(pub u32);

impl fmt::Display for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
