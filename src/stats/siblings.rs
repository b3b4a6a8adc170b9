//! Who else serves, as workers see each other.

use std::sync::atomic::Ordering;

use super::layout::Layout;
use super::seat::Seat;

/// The directory with what it points to.
#[derive(Clone, Copy, Debug)]
pub struct Siblings<'a>(Layout<'a>);

impl<'a> Siblings<'a> {
    pub(super) fn new(layout: Layout<'a>) -> Self {
        Self(layout)
    }

    /// The worker on this seat.
    pub fn seat(self, seat: usize) -> Option<Seat<'a>> {
        self.0.seat(seat)
    }

    /// The slots with a healthy worker, and that worker's block: its number, and what is in it.
    pub fn iter(self) -> impl Iterator<Item = (u32, usize, Seat<'a>)> {
        self.0.directory().iter().zip(1..).filter_map(move |(entry, slot)| {
            let seat = entry.load(Ordering::Relaxed).checked_sub(1)? as usize;
            Some((slot, seat, self.0.seat(seat)?))
        })
    }
}
