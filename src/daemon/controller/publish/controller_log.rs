//! Log lines of the controller, and warnings about settings and limits at its start.

use std::time::Duration;

use nix::unistd::Pid;
use tracing::{debug, error, info, warn};

use crate::config::{AccessLog, Balance, Config, Endpoint};
use crate::daemon::controller::supervisor::{LogEvent, STARTUP_TIMEOUT};
use crate::daemon::controller::{Controller, ControllerError};
use crate::daemon::ids::SlotId;
use crate::daemon::stats::Snapshot;
use crate::daemon::stats::snapshot::Worker;
use crate::sys::wait::ExitStatus;

/// Version of this build.
const VERSION: &str = env!("CARGO_PKG_VERSION");

impl Controller<'_> {
    /// Writes the log line of an event of the supervisor.
    pub(crate) fn log_event(&self, event: LogEvent) {
        let millis = |duration: Duration| duration.as_millis() as u64;
        match event {
            LogEvent::Serving(workers) => {
                let endpoints = self.sockets.endpoints();
                let addresses: Vec<_> = endpoints.iter().map(Endpoint::to_string).collect();
                info!(workers, version = VERSION, "serving on {}", addresses.join(", "));
            }
            LogEvent::NoneReady => {
                error!("no worker became ready within {} s", STARTUP_TIMEOUT.as_secs());
            }
            LogEvent::Ready(SlotId::ADMIN, pid) => {
                info!(admin_pid = pid.as_raw(), "admin process listening on {}", self.admin.url());
            }
            LogEvent::AdminExited(pid, status, restart) => {
                self.log_admin_exit(pid, status, restart);
            }
            LogEvent::Ready(slot, pid) => {
                let since = self.children.get(pid).map(|child| child.since);
                let startup_ms = since.map_or(0, |since| millis(since.elapsed()));
                info!(slot = slot.0, worker_pid = pid.as_raw(), startup_ms, "worker ready");
            }
            LogEvent::Exited(slot, pid, status) if status.code() == Some(0) => {
                info!(slot = slot.0, worker_pid = pid.as_raw(), %status, "worker exited");
            }
            LogEvent::Exited(slot, pid, status) => {
                warn!(slot = slot.0, worker_pid = pid.as_raw(), %status, "worker exited");
            }
            LogEvent::RestartDelayed(slot, delay) => {
                warn!(slot = slot.0, delay_ms = millis(delay), "worker restart delayed");
            }
            LogEvent::Unresponsive(slot, pid) => {
                warn!(slot = slot.0, worker_pid = pid.as_raw(), "worker unresponsive");
            }
            LogEvent::Responsive(slot, pid) => {
                info!(slot = slot.0, worker_pid = pid.as_raw(), "worker responsive again");
            }
            LogEvent::Hung(slot, pid) => {
                warn!(slot = slot.0, worker_pid = pid.as_raw(), "worker hung");
            }
            LogEvent::NotReady(slot, pid) => {
                warn!(slot = slot.0, worker_pid = pid.as_raw(), "worker did not become ready");
            }
            LogEvent::Abandoned(slot) => {
                error!(slot = slot.0, "slot abandoned: its worker cannot start");
            }
            LogEvent::ReloadDone => info!(version = VERSION, done = self.reload.done, "reloaded"),
            LogEvent::ReloadAborted(slot) => {
                warn!(
                    slot = slot.0,
                    failed = self.reload.failed,
                    "reload aborted, keeping current workers: new worker did not become ready"
                );
            }
            LogEvent::Scaled(workers) => info!(workers, "scaled"),
            LogEvent::CannotScale(workers) => self.log_scaling_limit(workers),
            LogEvent::Delaying(delay) => {
                info!(delay_ms = millis(delay), "shutdown delayed, still accepting");
            }
            LogEvent::Draining => info!("draining"),
            LogEvent::Killing(workers) => warn!(workers, "killing remaining workers"),
            LogEvent::UnknownExited(pid, status) => {
                debug!(unknown_pid = pid.as_raw(), %status, "reaped unknown process");
            }
        }
    }

    fn log_admin_exit(&self, pid: Pid, status: ExitStatus, restart: Option<Duration>) {
        let admin_pid = pid.as_raw();
        match restart {
            None => debug!(admin_pid, %status, "admin process exited"),
            // A signal to the process group reaches it too, but it is needed until the last worker
            // has exited.
            Some(_) if self.fleet.supervisor.is_stopping() && status.code() == Some(0) => {
                info!(admin_pid, "admin process exited early, replacing it");
            }
            Some(delay) => {
                let delay_ms = delay.as_millis() as u64;
                warn!(admin_pid, %status, delay_ms, "admin process exited, replacing it");
            }
        }
    }

    fn log_scaling_limit(&self, workers: u32) {
        if self.fleet.supervisor.is_stopping() {
            warn!(workers, "cannot scale: stopping");
        } else if workers == 1 || workers >= SlotId::MAX.0 {
            warn!(workers, "cannot scale: already at {workers} worker{}", plural(workers));
        } else {
            warn!(workers, "cannot scale: the slots of all other workers are abandoned");
        }
    }
}

fn plural(count: u32) -> &'static str {
    if count == 1 { "" } else { "s" }
}

/// Logs the open connections of each worker, and the connections that it has accepted.
pub(crate) fn connections(snapshot: &Snapshot) {
    let in_slots = snapshot.slots.iter().filter_map(|slot| slot.worker.as_ref());
    for worker in in_slots.chain(&snapshot.others) {
        let Worker { slot, pid, connections, accepted, .. } = worker;
        info!(slot, worker_pid = pid, "Worker is currently handling ({connections}) connections");
        info!(slot, worker_pid = pid, "Worker has handled ({accepted}) connections");
    }
}

/// Warns if the kernel limits accept queues to less than `backlog`, which it does silently.
pub(crate) fn warn_of_short_queues(backlog: u32) {
    let limit = std::fs::read_to_string("/proc/sys/net/core/somaxconn").ok();
    let limit = limit.and_then(|text| text.trim().parse::<u32>().ok());
    if let Some(limit) = limit.filter(|&limit| limit < backlog) {
        warn!(
            backlog,
            somaxconn = limit,
            "--connection-backlog exceeds net.core.somaxconn: accept queues are shorter"
        );
    }
}

/// Warns about settings that have no effect or never permit readiness.
pub(crate) fn warn_of_settings(config: &Config) {
    let (least, workers) = (config.admin.min_healthy, config.fleet.workers);
    if least > workers {
        warn!("--min-healthy {least} exceeds --workers {workers}: the daemon is never ready");
    }
    if config.log.access_file.is_some() && config.log.access == AccessLog::Off {
        warn!("--access-log-file has no effect without --access-log");
    }
}

/// Returns the number of descriptors that the controller needs during a reload: for each slot its
/// sockets, the channels of two generations, and both ends of its handoff queue.
pub(crate) fn descriptors_needed(config: &Config) -> u64 {
    const OTHERS: u64 = 16;
    /// The admin socket, and the channels of the admin process and its successor.
    const ADMIN: u64 = 4;
    let admin = config.admin.address.as_ref().map_or(0, |_| ADMIN);
    let addresses = config.listen.listeners.len() as u64;
    let handoff = match config.fleet.balance {
        Balance::Hash => 0,
        Balance::LeastConnections => 2,
    };
    OTHERS + admin + addresses + u64::from(config.fleet.workers.get()) * (addresses + 2 + handoff)
}

/// Checks that the limit of open descriptors permits supervising the configured workers and
/// `draining` retired ones, each of which has a channel.
///
/// # Errors
/// [`ControllerError::Descriptors`].
pub(crate) fn check_descriptors(
    limit: u64,
    config: &Config,
    draining: u64,
) -> Result<(), ControllerError> {
    let workers = config.fleet.workers.get();
    let needed = descriptors_needed(config) + draining;
    debug!(limit, needed, "descriptors");
    if needed > limit {
        return Err(ControllerError::Descriptors { workers, draining, needed, limit });
    }
    Ok(())
}
