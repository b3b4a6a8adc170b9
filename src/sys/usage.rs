//! Resource usage of a process, from proc(5).

use std::fs;

use nix::unistd::{SysconfVar, sysconf};

/// Resource usage of a process. A value that cannot be read is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Usage {
    /// CPU time, in seconds.
    pub cpu_seconds: Option<f64>,
    /// Resident memory, in bytes.
    pub resident_bytes: Option<u64>,
    /// Virtual memory, in bytes.
    pub virtual_bytes: Option<u64>,
    /// Number of open descriptors.
    pub open_descriptors: Option<u64>,
    /// Soft limit of open descriptors.
    pub max_descriptors: Option<u64>,
}

impl Usage {
    /// Reads the usage of a process. All values are `None` without `/proc`.
    pub(crate) fn of(pid: u64) -> Self {
        let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).ok();
        let stat = read("stat").unwrap_or_default();
        // The name, in brackets, may contain anything.
        let fields: Vec<&str> =
            stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        let system = |name| sysconf(name).ok().flatten().map(|value| value as u64);
        let ticks = system(SysconfVar::CLK_TCK).filter(|ticks| *ticks > 0);
        let limits = read("limits").unwrap_or_default();
        let files = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
        Self {
            cpu_seconds: (|| Some((field(14)? + field(15)?) as f64 / ticks? as f64))(),
            virtual_bytes: field(23),
            resident_bytes: (|| field(24)?.checked_mul(system(SysconfVar::PAGE_SIZE)?))(),
            open_descriptors: fs::read_dir(format!("/proc/{pid}/fd"))
                .ok()
                .map(|entries| entries.count() as u64),
            max_descriptors: files.and_then(|text| text.split_whitespace().next()?.parse().ok()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_something_and_no_process_nothing() {
        let usage = Usage::of(std::process::id().into());
        assert!(usage.cpu_seconds.is_some_and(|seconds| seconds >= 0.0), "{usage:?}");
        assert!(usage.resident_bytes.is_some_and(|bytes| bytes > 100_000), "{usage:?}");
        assert!(usage.virtual_bytes > usage.resident_bytes, "{usage:?}");
        assert!(usage.open_descriptors.is_some_and(|count| count >= 3), "{usage:?}");
        assert!(usage.max_descriptors >= usage.open_descriptors, "{usage:?}");
        assert_eq!(Usage::of(u64::MAX), Usage::default());
    }
}
