//! Checks of capacity: descriptors, memory, CPUs, processes.

use super::facts::Facts;
use super::files::Fact;
use super::findings::Verdict;
use crate::config::{Balance, Config};
use crate::daemon::controller;
use crate::text;

/// Number of connections that a worker should have room for if there is no configured limit.
const USUAL_CONNECTIONS: u64 = 1000;

/// Memory of a process without connections and receive buffer, in bytes.
const PROCESS_MEMORY: u64 = 2 << 20;

/// Memory of an idle connection in bytes: its table entry and the kernel's objects.
const CONNECTION_MEMORY: u64 = 4 << 10;

/// Maximum demand of a configuration.
#[derive(Clone, Copy, Debug)]
struct Demand {
    workers: u64,
    /// Descriptors of the controller.
    controller: u64,
    /// Descriptors of a worker without connections.
    worker: u64,
    /// Configured limit of connections per worker.
    limit: Option<u64>,
}

impl Demand {
    fn of(config: &Config) -> Self {
        let workers = u64::from(config.fleet.workers.get());
        let addresses = config.listen.listeners.len() as u64;
        // Including the listeners of another worker whose accept queue it may take over.
        let worker = 12
            + 2 * addresses
            + match config.fleet.balance {
                Balance::Hash => 0,
                // Two own handoff queues, and those of all workers.
                Balance::LeastConnections => 2 + workers,
            };
        Self {
            workers,
            controller: controller::descriptors_needed(config),
            worker,
            limit: config.limits.max_concurrent_connections.map(|limit| limit.get().into()),
        }
    }

    /// Returns the maximum number of connections in a worker with this many descriptors.
    fn connections(&self, descriptors: u64) -> u64 {
        let room = descriptors.saturating_sub(self.worker);
        self.limit.map_or(room, |limit| limit.min(room))
    }
}

/// Returns the hard limit of descriptors, to which the daemon raises its soft limit.
fn available_descriptors(facts: &Facts) -> Fact<u64> {
    match (facts.descriptors.clone()?.hard, facts.nr_open.clone()) {
        (hard, Ok(max)) => Ok(hard.min(max)),
        // Without a hard limit, only fs.nr_open applies.
        (u64::MAX, Err(error)) => Err(error),
        (hard, Err(_)) => Ok(hard),
    }
}

/// Compares the limit of descriptors with the needs of the controller and of a worker.
pub(super) fn descriptors(facts: &Facts, config: &Config) -> Fact<Verdict> {
    let demand @ Demand { workers, controller, worker, limit } = Demand::of(config);
    let available = available_descriptors(facts)?;
    let needed = controller.max(worker + limit.unwrap_or(USUAL_CONNECTIONS));
    let room = demand.connections(available);
    let each = format!("{available} per process: each of {workers} workers has room for");
    let verdict = match limit {
        _ if controller > available => Verdict::wrong(format!(
            "{available} per process; the controller needs {controller} for {workers} workers"
        )),
        Some(limit) if room < limit => Verdict::wrong(format!(
            "{available} per process; a worker needs {} for --max-concurrent-connections {limit}",
            worker + limit
        )),
        None if room < USUAL_CONNECTIONS => {
            Verdict::warn(format!("{each} {room} connections; further ones wait"))
        }
        _ => return Ok(Verdict::ok(format!("{each} {} connections", limit.unwrap_or(room)))),
    };
    let nr_open = match facts.nr_open {
        Ok(max) if max < needed => format!("sysctl -w fs.nr_open={needed}, and "),
        _ => String::new(),
    };
    Ok(verdict.advise(format!(
        "{nr_open}LimitNOFILE={needed} in the unit, docker run --ulimit nofile={needed}, or as \
         root: ulimit -n {needed}"
    )))
}

/// Compares the limit of open files in the whole system with the daemon's maximum.
pub(super) fn system_files(facts: &Facts, config: &Config) -> Fact<Verdict> {
    let demand = Demand::of(config);
    let open = facts.files_open.clone()?;
    let Some(max) = facts.file_max.clone()? else {
        return Ok(Verdict::ok(format!("{open} in use, no limit (fs.file-max)")));
    };
    let worker = demand.worker + demand.connections(available_descriptors(facts)?);
    let needed = demand.controller.saturating_add(demand.workers.saturating_mul(worker));
    let text = format!("{open} of {max} in use (fs.file-max); the daemon may need {needed}");
    Ok(match demand.limit {
        _ if needed <= max.saturating_sub(open) => return Ok(Verdict::ok(text)),
        Some(_) => Verdict::warn(text),
        // Only the limit of descriptors permits so many connections; they are not configured.
        None => Verdict::note(text),
    }
    .advise(format!("sysctl -w fs.file-max={}", open.saturating_add(needed))))
}

/// Compares the limit of processes with the workers, and with twice as many during a reload.
pub(super) fn processes(facts: &Facts, config: &Config) -> Fact<Verdict> {
    let workers = u64::from(config.fleet.workers.get());
    let (needed, reload) = (workers + 1, 2 * workers + 2);
    let Some(max) = facts.cgroup.processes.clone()? else {
        return Ok(Verdict::ok("no limit (pids.max of the cgroup)"));
    };
    let text = format!(
        "{max} (pids.max of the cgroup); the daemon needs {needed}, and up to {reload} in a reload"
    );
    let verdict = match max {
        _ if max >= reload => return Ok(Verdict::ok(text)),
        _ if max >= needed => Verdict::warn(text),
        _ => Verdict::wrong(text),
    };
    let advice = format!("TasksMax={reload} in the unit, docker run --pids-limit {reload}");
    Ok(verdict.advise(advice))
}

/// Compares the memory with the worst case, in which no client reads. The kernel's socket buffers come
/// on top.
pub(super) fn memory(facts: &Facts, config: &Config) -> Fact<Verdict> {
    let demand = Demand::of(config);
    // A worker has a receive buffer for each kind of listener.
    let sizes = || config.listen.kinds().map(|it| it.connection.buffer_size as u64);
    let (buffers, buffer) = (sizes().sum::<u64>(), sizes().max().unwrap_or(0));
    let (available, source, in_cgroup) = match (facts.cgroup.memory.clone()?, &facts.memory) {
        (Some(limit), Ok(total)) if limit > *total => (*total, "the machine has", false),
        (Some(limit), _) => (limit, "the cgroup has", true),
        (None, total) => (total.clone()?, "the machine has", false),
    };
    let has = format!("{source} {}", text::bytes(available));
    let idle = PROCESS_MEMORY + demand.workers * (PROCESS_MEMORY + buffers);
    if idle > available {
        let text = format!("{} workers alone need {}; {has}", demand.workers, text::bytes(idle));
        return Ok(
            Verdict::wrong(text).advise("fewer --workers, a smaller --buffer-size, or more memory")
        );
    }
    let connections = demand.connections(available_descriptors(facts)?);
    let each = buffer + CONNECTION_MEMORY;
    let worst =
        demand.workers.saturating_mul(connections).saturating_mul(each).saturating_add(idle);
    let text = format!(
        "up to {} if no client reads ({} workers x {connections} connections x {}); {has}",
        text::bytes(worst),
        demand.workers,
        text::bytes(buffer),
    );
    let fitting = (available - idle) / demand.workers / each;
    Ok(match (worst <= available, in_cgroup) {
        (true, _) => return Ok(Verdict::ok(text)),
        (false, true) => Verdict::warn(text),
        (false, false) => Verdict::note(text),
    }
    .advise(match fitting {
        0 => "a smaller --buffer-size, or more memory".to_owned(),
        fitting => format!("--max-concurrent-connections {fitting}, or a smaller --buffer-size"),
    }))
}

/// Checks `memory.oom.group`: if it is set, no controller remains to replace a killed worker.
pub(super) fn oom_group(facts: &Facts, _: &Config) -> Fact<Verdict> {
    Ok(if facts.cgroup.oom_group.clone()? {
        let text = "if memory runs out, the kernel kills the whole daemon, not one worker \
                    (memory.oom.group of the cgroup)";
        Verdict::warn(text).advise(
            "OOMPolicy=continue in the unit, singleProcessOOMKill: true for the kubelet, or write \
             0 to the file",
        )
    } else {
        Verdict::ok("if memory runs out, one worker is killed and replaced")
    })
}

/// Compares affinity and CPU quota with the number of workers.
pub(super) fn cpus(facts: &Facts, config: &Config) -> Fact<Verdict> {
    let allowed = facts.cpus.clone()? as u64;
    let quota = facts.cgroup.cpu.clone()?;
    let usable = quota.map_or(allowed, |quota| allowed.min((quota / 1000).max(1)));
    let workers = u64::from(config.fleet.workers.get());
    let quota = match quota {
        Some(quota) => format!("a quota of {}", quota as f64 / 1000.0),
        None => "no quota".to_owned(),
    };
    let text = format!("{workers} workers; {allowed} CPUs by affinity, {quota}");
    Ok(if workers <= usable {
        Verdict::ok(text)
    } else if config.fleet.busy_poll.is_some() {
        Verdict::warn(format!("{text}: busy-polling workers compete for CPUs"))
            .advise(format!("--workers {usable}, or no --busy-poll"))
    } else {
        let shared = if config.fleet.pin_cpus { ", even with --cpu-affinity" } else { "" };
        Verdict::note(format!("{text}: workers share CPUs{shared}"))
            .advise(format!("--workers {usable}, unless this is intended"))
    })
}

#[cfg(test)]
#[path = "capacity_tests.rs"]
mod tests;
