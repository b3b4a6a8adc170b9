//! The daemon as the controller shows it: statistics, the stats dump, the state file.

use super::dump::Dump;
use super::figures::Figures;
use super::state_file::StateFile;
use crate::event_loop::timers::Clock;
use crate::stats::Statistics;

/// Everything that is shown, and what is remembered for it.
#[derive(Debug)]
pub(super) struct Publisher {
    pub(super) statistics: Statistics,
    pub(super) clock: Clock,
    pub(super) figures: Figures,
    pub(super) dump: Dump,
    /// Where the totals are kept, if they are.
    pub(super) state_file: Option<StateFile>,
    /// The reason of the first worker that could not start.
    pub(super) failure: Option<String>,
}

impl Publisher {
    pub(super) fn new(statistics: Statistics, clock: Clock, state_file: Option<StateFile>) -> Self {
        let (figures, dump) = (Figures::default(), Dump::default());
        Self { statistics, clock, figures, dump, state_file, failure: None }
    }
}
