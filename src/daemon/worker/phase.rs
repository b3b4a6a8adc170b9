//! Phases of a worker, and the permitted transitions; pure.

use std::time::Instant;

use crate::daemon::stats::Stage;

/// The reason why a worker's event loop ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// All connections have ended.
    Drained,
    /// The deadline has passed.
    DeadlineReached {
        /// Connections that were reset.
        reset: usize,
    },
}

/// Phase of a worker's life. All but the first end at a deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Accepts and serves.
    Serving,
    /// Has accepted as many connections as it may, and serves them undisturbed.
    Recycling { deadline: Instant },
    /// Was replaced: closes connections once they are quiet, spread over time.
    Retiring { deadline: Instant },
    /// The daemon stops: closes connections once they are quiet.
    Draining { deadline: Instant },
}

impl Phase {
    /// Begins to recycle; returns `false` if the worker is about to end already.
    pub(super) fn recycle(&mut self, deadline: Instant) -> bool {
        let begins = *self == Self::Serving;
        if begins {
            *self = Self::Recycling { deadline };
        }
        begins
    }

    /// Begins to retire; returns `false` if the worker retires or drains already.
    pub(super) fn retire(&mut self, deadline: Instant) -> bool {
        let begins = matches!(self, Self::Serving | Self::Recycling { .. });
        if begins {
            *self = Self::Retiring { deadline };
        }
        begins
    }

    /// Begins to drain, and returns the phase before; `None` if the worker drains already, until the
    /// earlier of the two deadlines.
    pub(super) fn drain(&mut self, deadline: Instant) -> Option<Self> {
        match self {
            Self::Draining { deadline: current } => {
                *current = deadline.min(*current);
                None
            }
            _ => Some(std::mem::replace(self, Self::Draining { deadline })),
        }
    }

    /// Returns the time at which the remaining connections are reset.
    pub(super) fn deadline(self) -> Option<Instant> {
        match self {
            Self::Serving => None,
            Self::Recycling { deadline }
            | Self::Retiring { deadline }
            | Self::Draining { deadline } => Some(deadline),
        }
    }

    /// Returns the phase as the statistics have it.
    pub(super) fn stage(self) -> Stage {
        match self {
            Self::Serving => Stage::Serving,
            Self::Recycling { .. } | Self::Retiring { .. } => Stage::Retiring,
            Self::Draining { .. } => Stage::Draining,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn phases_only_lead_towards_the_end() {
        let deadline = Instant::now();
        let later = deadline + SECOND;
        let serving = Phase::Serving;
        let recycling = Phase::Recycling { deadline };
        let retiring = Phase::Retiring { deadline };
        let draining = Phase::Draining { deadline };
        // Each phase after an order to recycle, to retire, and to drain a second later.
        let next = [
            (serving, Phase::Recycling { deadline: later }, Phase::Retiring { deadline: later }),
            (recycling, recycling, Phase::Retiring { deadline: later }),
            (retiring, retiring, retiring),
            (draining, draining, draining),
        ];
        for (before, recycled, retired) in next {
            let mut phase = before;
            assert_eq!(phase.recycle(later), before != recycled);
            assert_eq!(phase, recycled);
            let mut phase = before;
            assert_eq!(phase.retire(later), before != retired);
            assert_eq!(phase, retired);
            let mut phase = before;
            let drains = (before != draining).then_some(before);
            assert_eq!(phase.drain(later), drains);
            let until = if drains.is_some() { later } else { deadline };
            assert_eq!(phase, Phase::Draining { deadline: until });
        }
    }

    #[test]
    fn a_second_drain_can_only_shorten_the_first() {
        let deadline = Instant::now() + 2 * SECOND;
        for (second, expected) in
            [(deadline + SECOND, deadline), (deadline - SECOND, deadline - SECOND)]
        {
            let mut phase = Phase::Draining { deadline };
            assert_eq!(phase.drain(second), None);
            assert_eq!(phase.deadline(), Some(expected));
        }
    }

    #[test]
    fn all_phases_but_serving_have_a_deadline_and_a_stage() {
        let deadline = Instant::now();
        assert_eq!((Phase::Serving.deadline(), Phase::Serving.stage()), (None, Stage::Serving));
        for (phase, stage) in [
            (Phase::Recycling { deadline }, Stage::Retiring),
            (Phase::Retiring { deadline }, Stage::Retiring),
            (Phase::Draining { deadline }, Stage::Draining),
        ] {
            assert_eq!((phase.deadline(), phase.stage()), (Some(deadline), stage));
        }
    }
}
