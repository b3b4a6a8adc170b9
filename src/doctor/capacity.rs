//! Judgements about what there may be too little of: descriptors, memory, CPUs, processes.

use super::facts::Facts;
use super::files::Fact;
use super::report::Verdict;
use crate::client::amount;
use crate::config::{Balance, Config};
use crate::controller;

/// Room for so many connections is what one may count on.
const USUAL_ROOM: u64 = 1000;

/// Memory of a process that has no connections, beside its buffer.
const PROCESS_MEMORY: u64 = 2 << 20;

/// What a connection costs that is idle: its place in the table, and the kernel's objects.
const CONNECTION_MEMORY: u64 = 4 << 10;

/// What this configuration can come to need.
#[derive(Clone, Copy, Debug)]
struct Demand {
    workers: u64,
    /// Descriptors of the controller.
    controller: u64,
    /// Descriptors of a worker that has no connections.
    worker: u64,
    /// Connections at once in a worker, if that is limited.
    limit: Option<u64>,
}

impl Demand {
    fn of(config: &Config) -> Self {
        let workers = u64::from(config.fleet.workers.get());
        let addresses = config.listen.endpoints.len() as u64;
        // Its own, standard ones included, and a sibling's listeners that it may look after.
        let worker = 12
            + 2 * addresses
            + match config.fleet.balance {
                Balance::Hash => 0,
                // Two inboxes to read from, and the ways to all.
                Balance::LeastConnections => 2 + workers,
            };
        Self {
            workers,
            controller: controller::descriptors_needed(config),
            worker,
            limit: config.connection.max_concurrent_connections.map(|most| most.get().into()),
        }
    }

    /// Connections that a worker can come to have with so many descriptors.
    fn connections(&self, descriptors: u64) -> u64 {
        let room = descriptors.saturating_sub(self.worker);
        self.limit.map_or(room, |limit| limit.min(room))
    }
}

/// Descriptors that a process may have: the daemon raises the soft limit to the hard one.
fn most_descriptors(facts: &Facts) -> Fact<u64> {
    match (facts.descriptors.clone()?.hard, facts.nr_open.clone()) {
        (hard, Ok(most)) => Ok(hard.min(most)),
        // Unlimited is as much as that.
        (u64::MAX, Err(unread)) => Err(unread),
        (hard, Err(_)) => Ok(hard),
    }
}

/// Descriptors of the controller and of each worker; the limit is that of one process.
pub(super) fn descriptors(facts: &Facts, config: &Config) -> Fact<Verdict> {
    let demand @ Demand { workers, controller, worker, limit } = Demand::of(config);
    let most = most_descriptors(facts)?;
    let needed = controller.max(worker + limit.unwrap_or(USUAL_ROOM));
    let raise = || {
        let first = match facts.nr_open {
            Ok(most) if most < needed => format!("sysctl -w fs.nr_open={needed}, and "),
            _ => String::new(),
        };
        format!(
            "{first}LimitNOFILE={needed} in the unit, docker run --ulimit nofile={needed}, or \
             as root: ulimit -n {needed}"
        )
    };
    let room = demand.connections(most);
    if controller > most {
        let text =
            format!("{most} a process; the controller needs {controller} for {workers} workers");
        return Ok(Verdict::wrong(text).advise(raise()));
    }
    Ok(match limit {
        Some(limit) if room < limit => {
            let text = format!(
                "{most} a process; a worker needs {} for --max-concurrent-connections {limit}",
                worker + limit
            );
            Verdict::wrong(text).advise(raise())
        }
        None if room < USUAL_ROOM => {
            let text = format!(
                "{most} a process: each of {workers} workers has room for {room} connections, \
                 others wait"
            );
            Verdict::warn(text).advise(raise())
        }
        _ => Verdict::ok(format!(
            "{most} a process: each of {workers} workers has room for {} connections",
            // The limit is a promise, the room is what is left.
            limit.unwrap_or(room)
        )),
    })
}

/// Open files of the whole system.
pub(super) fn system_files(facts: &Facts, config: &Config) -> Fact<Verdict> {
    let demand = Demand::of(config);
    let open = facts.files_open.clone()?;
    let Some(most) = facts.file_max.clone()? else {
        return Ok(Verdict::ok(format!("{open} in use, and no limit (fs.file-max)")));
    };
    let each = demand.worker + demand.connections(most_descriptors(facts)?);
    let needed = demand.controller.saturating_add(demand.workers.saturating_mul(each));
    if needed <= most.saturating_sub(open) {
        let text = format!("{open} in use of {most} (fs.file-max); the daemon may need {needed}");
        return Ok(Verdict::ok(text));
    }
    let text = format!("{open} in use of {most} (fs.file-max), and the daemon may need {needed}");
    let verdict = match demand.limit {
        Some(_) => Verdict::warn(text),
        // It is the limit of descriptors that permits so many; nobody has asked for them.
        None => Verdict::note(text),
    };
    Ok(verdict.advise(format!("sysctl -w fs.file-max={}", open.saturating_add(needed))))
}

/// Processes: all workers, and in a reload their successors and the check.
pub(super) fn processes(facts: &Facts, config: &Config) -> Fact<Verdict> {
    let workers = u64::from(config.fleet.workers.get());
    let (needed, reload) = (workers + 1, 2 * workers + 2);
    let Some(most) = facts.cgroup.processes.clone()? else {
        return Ok(Verdict::ok("no limit (pids.max of the cgroup)"));
    };
    let advice = format!("TasksMax={reload} in the unit, docker run --pids-limit {reload}");
    Ok(if most < needed {
        let text = format!("{most} (pids.max of the cgroup), and the daemon has {needed}");
        Verdict::wrong(text).advise(advice)
    } else if most < reload {
        let text = format!(
            "{most} (pids.max of the cgroup) is enough for {needed}, but a reload may need {reload}"
        );
        Verdict::warn(text).advise(advice)
    } else {
        Verdict::ok(format!("{most} (pids.max of the cgroup); a reload may need {reload}"))
    })
}

/// Memory in the worst case: no client reads. What the kernel's socket buffers hold comes on top.
pub(super) fn memory(facts: &Facts, config: &Config) -> Fact<Verdict> {
    let demand = Demand::of(config);
    let buffer = config.connection.buffer_size as u64;
    let (most, whose, in_cgroup) = match (facts.cgroup.memory.clone()?, &facts.memory) {
        (Some(limit), Ok(total)) if limit > *total => (*total, "the machine has", false),
        (Some(limit), _) => (limit, "the cgroup has", true),
        (None, total) => (total.clone()?, "the machine has", false),
    };
    let has = format!("{whose} {}", amount::bytes(most));
    let idle = PROCESS_MEMORY + demand.workers * (PROCESS_MEMORY + buffer);
    if idle > most {
        let text = format!("{} workers alone need {}; {has}", demand.workers, amount::bytes(idle));
        return Ok(Verdict::wrong(text).advise("fewer --workers, a smaller --buffer-size, or more"));
    }
    let connections = demand.connections(most_descriptors(facts)?);
    let each = buffer + CONNECTION_MEMORY;
    let worst =
        demand.workers.saturating_mul(connections).saturating_mul(each).saturating_add(idle);
    let text = format!(
        "up to {} when no client reads ({} workers x {connections} connections x {}); {has}",
        amount::bytes(worst),
        demand.workers,
        amount::bytes(buffer),
    );
    let fitting = (most - idle) / demand.workers / each;
    Ok(match (worst <= most, in_cgroup) {
        (true, _) => return Ok(Verdict::ok(text)),
        (false, true) => Verdict::warn(text),
        (false, false) => Verdict::note(text),
    }
    .advise(match fitting {
        0 => "a smaller --buffer-size, or more memory".to_owned(),
        fitting => format!("--max-concurrent-connections {fitting}, or a smaller --buffer-size"),
    }))
}

/// A cgroup may want to die as a whole; then nobody is left to replace a worker.
pub(super) fn oom_group(facts: &Facts, _: &Config) -> Fact<Verdict> {
    Ok(if facts.cgroup.oom_group.clone()? {
        let text = "when memory runs out the kernel kills all of the daemon, not one worker \
                    (memory.oom.group of the cgroup)";
        Verdict::warn(text).advise(
            "OOMPolicy=continue in the unit, singleProcessOOMKill: true for the kubelet, or write \
             0 into the file",
        )
    } else {
        Verdict::ok("when memory runs out one worker is killed, and replaced")
    })
}

/// CPUs: affinity and quota against workers, and what spins.
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
        Verdict::warn(format!("{text}: workers that spin (--busy-poll) hinder each other"))
            .advise(format!("--workers {usable}, or no --busy-poll"))
    } else {
        let shared = if config.fleet.pin_cpus { ", even pinned ones" } else { "" };
        Verdict::note(format!("{text}: workers share CPUs{shared}"))
            .advise(format!("--workers {usable}, unless it is meant so"))
    })
}

#[cfg(test)]
#[path = "capacity_tests.rs"]
mod tests;
