//! Descendants, CPU time, and memory of other processes.

use std::fs;

use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::{Pid, SysconfVar, sysconf};

/// Returns the fields of `/proc/PID/stat` after the name: state, parent, group, …
fn stat(pid: i32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(") ")?;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}

/// Returns a process and its living descendants.
pub(crate) fn tree(root: i32) -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let parents: Vec<(i32, i32)> =
        pids.filter_map(|pid| Some((pid, stat(pid)?.get(1)?.parse().ok()?))).collect();
    let mut tree = vec![root];
    let mut next = 0;
    while let Some(&pid) = tree.get(next) {
        tree.extend(parents.iter().filter(|(_, parent)| *parent == pid).map(|(pid, _)| pid));
        next += 1;
    }
    tree
}

/// Returns the descendants of `root`, or `root` itself if it has none.
pub(crate) fn workers(root: i32) -> Vec<i32> {
    let mut tree = tree(root);
    if tree.len() > 1 {
        tree.remove(0);
    }
    tree
}

/// Returns the CPU time of a process and its descendants in nanoseconds.
///
/// The clock of a process is the sum of the first fields of `/proc/PID/task/*/schedstat`, including
/// exited threads. For exited processes, the kernel keeps only hundredths of a second.
pub(crate) fn cpu(root: i32) -> f64 {
    let tick = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100) as f64;
    let of = |pid: i32| {
        let clock = clock_getcpuclockid(Pid::from_raw(pid)).and_then(clock_gettime);
        let own = clock.map_or(0.0, |time| time.tv_sec() as f64 * 1e9 + time.tv_nsec() as f64);
        let field = |fields: &Vec<String>, index: usize| fields.get(index)?.parse::<f64>().ok();
        let ended = stat(pid).and_then(|f| Some(field(&f, 13)? + field(&f, 14)?)).unwrap_or(0.0);
        own + ended / tick * 1e9
    };
    tree(root).into_iter().map(of).sum()
}

/// Memory of processes in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Memory {
    pub private: f64,
    /// Private memory and the proportional share of shared memory.
    pub proportional: f64,
}

pub(crate) fn memory(pids: &[i32]) -> Memory {
    let mut sum = Memory::default();
    for pid in pids {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        sum.private += kib(&text, "Private_Clean") + kib(&text, "Private_Dirty");
        sum.proportional += kib(&text, "Pss");
    }
    sum
}

/// Returns a line of `/proc/meminfo` in bytes.
pub(crate) fn meminfo(name: &str) -> f64 {
    kib(&fs::read_to_string("/proc/meminfo").unwrap_or_default(), name)
}

/// Parses the line `name:  123 kB` into bytes.
fn kib(text: &str, name: &str) -> f64 {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let number = value.and_then(|value| value.split_whitespace().next()?.parse::<f64>().ok());
    number.unwrap_or(0.0) * 1024.0
}
