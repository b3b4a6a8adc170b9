//! The controller's log lines.

use std::time::Duration;

use nix::unistd::Pid;
use tracing::{debug, error, info, warn};

use super::ControllerError;
use super::supervisor::{ADMIN, BOOT_TIMEOUT, Report};
use crate::config::{AccessLog, Balance, Config, Endpoint};
use crate::stats::Snapshot;
use crate::stats::snapshot::Worker;

/// The build.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The addresses, for people.
fn addresses(endpoints: &[Endpoint]) -> String {
    let addresses: Vec<_> = endpoints.iter().map(Endpoint::to_string).collect();
    addresses.join(", ")
}

/// Writes a report to the log. `age` tells how long ago a worker was forked.
/// `url` tells where the admin process answers, `stopping` whether the daemon was told to stop.
pub(super) fn log(
    report: Report,
    endpoints: &[Endpoint],
    age: impl Fn(&Pid) -> Option<Duration>,
    url: String,
    stopping: bool,
) {
    let millis = |duration: Duration| duration.as_millis() as u64;
    match report {
        Report::Serving(workers) => {
            info!(workers, version = VERSION, "serving on {}", addresses(endpoints));
        }
        Report::NoneReady => error!("no worker has got ready within {} s", BOOT_TIMEOUT.as_secs()),
        Report::Ready(ADMIN, pid) => {
            info!(admin_pid = pid.as_raw(), "admin process answers on {url}");
        }
        Report::AdminExited(pid, ending, None) => {
            debug!(admin_pid = pid.as_raw(), status = %ending, "admin process exited");
        }
        // Told with the whole group to end, it does; it is needed until the last worker is gone.
        Report::AdminExited(pid, ending, Some(_)) if stopping && ending.code() == Some(0) => {
            info!(admin_pid = pid.as_raw(), "admin process ended too early, replacing it");
        }
        Report::AdminExited(pid, ending, Some(delay)) => {
            let (admin_pid, delay_ms) = (pid.as_raw(), millis(delay));
            warn!(admin_pid, status = %ending, delay_ms, "admin process exited, replacing it");
        }
        Report::Ready(slot, pid) => {
            let boot_ms = age(&pid).map_or(0, millis);
            info!(slot, worker_pid = pid.as_raw(), boot_ms, "worker ready");
        }
        Report::Exited(slot, pid, ending) if ending.code() == Some(0) => {
            info!(slot, worker_pid = pid.as_raw(), status = %ending, "worker exited");
        }
        Report::Exited(slot, pid, ending) => {
            warn!(slot, worker_pid = pid.as_raw(), status = %ending, "worker exited");
        }
        Report::Waiting(slot, delay) => {
            warn!(slot, delay_ms = millis(delay), "respawning worker");
        }
        Report::Unresponsive(slot, pid) => {
            warn!(slot, worker_pid = pid.as_raw(), "worker does not respond");
        }
        Report::Responsive(slot, pid) => {
            info!(slot, worker_pid = pid.as_raw(), "worker responds again");
        }
        Report::Scaled(workers) => info!(workers, "scaled"),
        Report::CannotScale(workers) => warn!(workers, "the number of workers stays as it is"),
        // They are counted by the shell, which says so.
        Report::Renewed | Report::NotRenewed(_) => {}
        Report::Hung(slot, pid) => warn!(slot, worker_pid = pid.as_raw(), "worker hung"),
        Report::NotReady(slot, pid) => {
            warn!(slot, worker_pid = pid.as_raw(), "worker does not get ready");
        }
        Report::Abandoned(slot) => error!(slot, "slot given up: its worker cannot start"),
        Report::Delaying(delay) => info!(delay_ms = millis(delay), "stopping, still accepting"),
        Report::Draining => info!("draining"),
        Report::Killing(workers) => warn!(workers, "killing the remaining workers"),
        Report::Stranger(pid, ending) => {
            debug!(stranger_pid = pid.as_raw(), status = %ending, "reaped a stranger");
        }
    }
}

/// Writes to the log what each worker handles now and has handled.
pub(super) fn figures(snapshot: &Snapshot) {
    let in_slots = snapshot.slots.iter().filter_map(|slot| slot.worker.as_ref());
    for worker in in_slots.chain(&snapshot.others) {
        let Worker { slot, pid, connections, accepted, .. } = worker;
        info!(slot, worker_pid = pid, "Worker is currently handling ({connections}) connections");
        info!(slot, worker_pid = pid, "Worker has handled ({accepted}) connections");
    }
}

/// The kernel caps every queue silently; say so.
pub(super) fn warn_of_short_queues(backlog: u32) {
    let limit = std::fs::read_to_string("/proc/sys/net/core/somaxconn").ok();
    let limit = limit.and_then(|text| text.trim().parse::<u32>().ok());
    if let Some(limit) = limit.filter(|&limit| limit < backlog) {
        warn!(
            backlog,
            somaxconn = limit,
            "the kernel allows shorter queues than --connection-backlog asks for"
        );
    }
}

/// What was typed and has no effect, or one that nobody wants.
pub(super) fn warn_of_settings(config: &Config) {
    let (least, workers) = (config.admin.min_healthy, config.fleet.workers);
    if least > workers {
        warn!("never ready: --min-healthy {least} with {workers} workers");
    }
    if config.log.access_file.is_some() && config.log.access == AccessLog::Off {
        warn!("--access-log-file has no effect without --access-log");
    }
}

/// A controller that runs out of descriptors in the middle of a reload would lose workers: it needs,
/// for each slot, its sockets, the channels of two generations, and both ends of its inbox.
pub(super) fn descriptors_needed(config: &Config) -> u64 {
    const OTHERS: u64 = 16;
    /// Its socket, and the channels of the admin process and its successor.
    const ADMIN: u64 = 4;
    let admin = config.admin.address.as_ref().map_or(0, |_| ADMIN);
    let addresses = config.listen.endpoints.len() as u64;
    let inbox = match config.fleet.balance {
        Balance::Hash => 0,
        Balance::LeastConnections => 2,
    };
    OTHERS + admin + addresses + u64::from(config.fleet.workers.get()) * (addresses + 2 + inbox)
}

/// Beside what the configuration needs there is a channel for each worker that drains.
pub(super) fn check_descriptors(
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
