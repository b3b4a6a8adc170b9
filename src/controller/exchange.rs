//! The inboxes of the slots, through which workers pass connections to each other.
//!
//! The controller holds both ends of each: what has not been taken when a worker dies is still there
//! for its successor, as it is with the slot's listeners.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use crate::process::channel::Channel;

/// Both ends of every slot's inbox. A slot that is given up keeps its own, should it come back.
#[derive(Debug, Default)]
pub(super) struct Inboxes {
    ends: BTreeMap<u32, (Channel, Channel)>,
}

impl Inboxes {
    /// Makes an inbox for `slot`, if it has none. Returns whether it is new.
    ///
    /// # Errors
    /// No descriptors left.
    pub(super) fn open(&mut self, slot: u32) -> io::Result<bool> {
        if self.ends.contains_key(&slot) {
            return Ok(false);
        }
        self.ends.insert(slot, Channel::pair()?);
        Ok(true)
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Takes over an inbox from the image before: what to write to, and what to read from.
    pub(super) fn keep(&mut self, slot: u32, outbox: OwnedFd, inbox: OwnedFd) {
        self.ends.insert(slot, (outbox.into(), inbox.into()));
    }

    /// The way to `slot`.
    pub(super) fn outbox(&self, slot: u32) -> Option<BorrowedFd<'_>> {
        self.ends.get(&slot).map(|(outbox, _)| std::os::fd::AsFd::as_fd(outbox))
    }

    /// What was passed to `slot`.
    pub(super) fn inbox(&self, slot: u32) -> Option<BorrowedFd<'_>> {
        self.ends.get(&slot).map(|(_, inbox)| std::os::fd::AsFd::as_fd(inbox))
    }

    /// Every slot with both ends' numbers: the way to it, and its inbox.
    pub(super) fn numbers(&self) -> Vec<(u32, RawFd, RawFd)> {
        let ends = self.ends.iter();
        ends.map(|(&slot, (outbox, inbox))| (slot, outbox.as_raw_fd(), inbox.as_raw_fd())).collect()
    }

    /// The descriptors that a worker of `slot` needs.
    pub(super) fn descriptors_for(&self, slot: u32) -> Vec<RawFd> {
        let inbox = self.ends.get(&slot).map(|(_, inbox)| inbox.as_raw_fd());
        self.ends.values().map(|(outbox, _)| outbox.as_raw_fd()).chain(inbox).collect()
    }

    /// Takes out what a worker of `slot` needs; in a process that becomes one. The rest is closed by
    /// whoever calls.
    pub(super) fn take(&mut self, slot: u32) -> Option<(Channel, Vec<(u32, Channel)>)> {
        let mut own = None;
        let mut outboxes = Vec::new();
        for (number, (outbox, inbox)) in std::mem::take(&mut self.ends) {
            outboxes.push((number, outbox));
            if number == slot {
                own = Some(inbox);
            } else {
                // Its descriptor has been closed with all that are not needed.
                std::mem::forget(inbox);
            }
        }
        Some((own?, outboxes))
    }
}
