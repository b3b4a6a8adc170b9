//! How long a worker waits for a client to do something.

use std::time::Duration;

use crate::config::ConnectionConfig;
use crate::event_loop::timers::Wait;

/// While draining, a connection on which nothing has moved for so long has nothing under way.
const QUIET: Duration = Duration::from_secs(1);

/// What a connection may take its time for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Patience {
    /// To send anything.
    pub idle: Wait,
    /// To read anything of what waits for it.
    pub write: Wait,
    /// To close, once we have.
    pub linger: Wait,
}

impl Patience {
    /// The configured patience.
    pub(super) fn new(config: &ConnectionConfig) -> Self {
        let wait = |limit: Option<Duration>| limit.map_or(Wait::FOREVER, Wait::from);
        Self {
            idle: wait(config.idle_timeout),
            write: wait(config.write_timeout),
            linger: config.linger_timeout.into(),
        }
    }

    /// The same while the worker drains: quiet connections go now, busy ones still end their work.
    pub(super) fn while_draining(self) -> Self {
        let quiet = Wait::from(QUIET);
        Self { idle: self.idle.min(quiet), linger: self.linger.min(quiet), ..self }
    }
}
