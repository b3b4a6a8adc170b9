//! Limits of the cgroups of this process, version 1 and 2.
//!
//! A limit applies to all cgroups below it, so the lowest one on the path to the mount point counts;
//! cgroups above the mount point are invisible. In version 1 each controller has its own hierarchy, in
//! version 2 all share one, and a machine can have both.

use super::files::{Fact, Files, if_exists};

/// Limits of the cgroups; `None` is unlimited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cgroup {
    /// Memory in bytes.
    pub(super) memory: Fact<Option<u64>>,
    /// `true` if the kernel kills all processes of the cgroup when memory runs out.
    pub(super) oom_group: Fact<bool>,
    /// CPU time in thousandths of a CPU.
    pub(super) cpu: Fact<Option<u64>>,
    /// Number of processes and threads.
    pub(super) processes: Fact<Option<u64>>,
}

impl Cgroup {
    pub(super) fn read(files: &Files) -> Self {
        let limit = |name: &str| files.limit(name);
        let oom_group = |name: &str| Ok(Some(files.number(name)?).filter(|number| *number > 0));
        let cpu = |name: &str| match name.strip_suffix("cfs_quota_us") {
            // Without a limit the time is -1, which `quota` does not parse.
            Some(stem) => {
                let period = files.text(&format!("{stem}cfs_period_us"))?;
                Ok(quota(&format!("{} {period}", files.text(name)?)))
            }
            None => Ok(quota(&files.text(name)?)),
        };
        Self {
            memory: lowest(files, "memory", ["memory.limit_in_bytes", "memory.max"], limit),
            // Version 1 does not have this file.
            oom_group: lowest(files, "memory", ["memory.oom.group"; 2], oom_group)
                .map(|group| group.is_some()),
            cpu: lowest(files, "cpu", ["cpu.cfs_quota_us", "cpu.max"], cpu),
            processes: lowest(files, "pids", ["pids.max"; 2], limit),
        }
    }
}

/// Returns the lowest limit that `read` finds for a controller. `names` are the files of versions 1 and
/// 2; a directory without the file has no limit.
fn lowest(
    files: &Files,
    controller: &str,
    names: [&str; 2],
    read: impl Fn(&str) -> Fact<Option<u64>>,
) -> Fact<Option<u64>> {
    let (cgroups, mounts) = (files.text("/proc/self/cgroup")?, files.text("/proc/self/mountinfo")?);
    let mut lowest = None;
    let Some((version, directories)) = find(controller, &cgroups, &mounts) else { return Ok(None) };
    for directory in directories {
        let limit = if_exists(read(&format!("{directory}/{}", names[version])))?.flatten();
        lowest = [lowest, limit].into_iter().flatten().min();
    }
    Ok(lowest)
}

/// Parses `50000 100000` or `max 100000`: CPU time and period in microseconds.
fn quota(text: &str) -> Option<u64> {
    let (time, period) = text.split_once(' ')?;
    let (time, period) = (time.parse::<u64>().ok()?, period.trim().parse::<u64>().ok()?);
    time.checked_mul(1000)?.checked_div(period)
}

/// Finds a controller in the texts of /proc/self/cgroup and /proc/self/mountinfo. Returns 0 for version
/// 1 or 1 for version 2, and the directories from the process's cgroup up to the mount point.
fn find(controller: &str, cgroups: &str, mounts: &str) -> Option<(usize, Vec<String>)> {
    let has = |list: &str| list.split(',').any(|name| name == controller);
    let mounts = || mounts.lines().filter_map(Mount::parse);
    let version_1 = || {
        let path = cgroup_path(cgroups, has)?;
        let mount = mounts().find(|mount| mount.kind == "cgroup" && has(mount.options))?;
        Some((0, mount.directories(path)))
    };
    let version_2 = || {
        let path = cgroup_path(cgroups, str::is_empty)?;
        Some((1, mounts().find(|mount| mount.kind == "cgroup2")?.directories(path)))
    };
    version_1().or_else(version_2)
}

/// Returns the path in the line (`4:memory:/path`) whose list of controllers matches.
fn cgroup_path(cgroups: &str, matches: impl Fn(&str) -> bool) -> Option<&str> {
    cgroups.lines().find_map(|line| {
        let (list, path) = line.split_once(':')?.1.split_once(':')?;
        matches(list).then_some(path)
    })
}

/// A line of /proc/self/mountinfo.
struct Mount<'a> {
    /// Mounted part of the file system.
    root: &'a str,
    point: &'a str,
    kind: &'a str,
    options: &'a str,
}

impl<'a> Mount<'a> {
    /// Parses `35 31 0:31 ROOT POINT rw,relatime shared:1 - KIND SOURCE OPTIONS`.
    fn parse(line: &'a str) -> Option<Self> {
        let (mount, system) = line.split_once(" - ")?;
        let (mut mount, mut system) = (mount.split(' ').skip(3), system.split(' '));
        let (root, point) = (mount.next()?, mount.next()?);
        Some(Self { root, point, kind: system.next()?, options: system.nth(1)? })
    }

    /// Returns the directories from the cgroup `path` up to the mount point. A cgroup outside the
    /// mounted part is invisible, which leaves only the mount point.
    fn directories(&self, path: &str) -> Vec<String> {
        let below = path.strip_prefix(self.root.trim_end_matches('/')).unwrap_or_default();
        let mut cgroup = if below.contains("..") { "" } else { below.trim_matches('/') };
        let mut directories = Vec::new();
        while !cgroup.is_empty() {
            directories.push(format!("{}/{cgroup}", self.point));
            cgroup = cgroup.rsplit_once('/').map_or("", |(parent, _)| parent);
        }
        directories.push(self.point.to_owned());
        directories
    }
}

#[cfg(test)]
mod tests {
    use super::super::files::tree;
    use super::*;

    const TWO: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate";
    const ONE: &str = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
                       32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                       35 31 0:32 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n\
                       41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw";

    #[test]
    fn version_2_has_the_lowest_limit_up_to_the_mount_point() {
        let base = "/sys/fs/cgroup";
        let slice = format!("{base}/system.slice");
        let unit = format!("{slice}/tcp-echo.service");
        let name = |directory: &str, file: &str| format!("{directory}/{file}");
        let (_root, files) = tree(&[
            ("/proc/sys/x", ""),
            ("/proc/self/cgroup", "0::/system.slice/tcp-echo.service\n"),
            ("/proc/self/mountinfo", TWO),
            (&name(&unit, "memory.max"), "max\n"),
            (&name(&slice, "memory.max"), "1073741824\n"),
            (&name(&unit, "memory.oom.group"), "0\n"),
            (&name(&slice, "memory.oom.group"), "1\n"),
            (&name(&unit, "cpu.max"), "150000 100000\n"),
            (&name(&slice, "cpu.max"), "max 100000\n"),
            (&name(&unit, "pids.max"), "100\n"),
            (&name(&slice, "pids.max"), "200\n"),
        ]);
        let found = Cgroup::read(&files);
        let expected = Cgroup {
            memory: Ok(Some(1 << 30)),
            oom_group: Ok(true),
            cpu: Ok(Some(1500)),
            processes: Ok(Some(100)),
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn version_1_has_the_limit_of_each_hierarchy() {
        let (_root, files) = tree(&[
            ("/proc/sys/x", ""),
            ("/proc/self/cgroup", "9:name=systemd:/\n4:memory:/a/b\n1:cpu,cpuacct:/a\n0::/\n"),
            ("/proc/self/mountinfo", ONE),
            ("/sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", "9223372036854771712"),
            ("/sys/fs/cgroup/memory/a/memory.limit_in_bytes", "67108864"),
            ("/sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us", "50000"),
            ("/sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us", "100000"),
            ("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1"),
            ("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000"),
        ]);
        let found = Cgroup::read(&files);
        assert_eq!(found.memory, Ok(Some(64 << 20)));
        assert_eq!(found.oom_group, Ok(false));
        assert_eq!(found.cpu, Ok(Some(500)));
        assert_eq!(found.processes, Ok(None));
    }

    #[test]
    fn no_cgroups_mean_no_limits_and_no_proc_means_unknown_limits() {
        let (_root, files) =
            tree(&[("/proc/self/cgroup", ""), ("/proc/self/mountinfo", "22 27 0:21 / /proc rw")]);
        let found = Cgroup::read(&files);
        assert_eq!((found.memory, found.oom_group), (Ok(None), Ok(false)));
        assert_eq!((found.cpu, found.processes), (Ok(None), Ok(None)));
        let (_root, nothing) = tree(&[]);
        assert!(Cgroup::read(&nothing).memory.is_err());
    }

    #[test]
    fn directories_start_at_the_mounted_part() {
        let directories =
            |root, path| Mount { root, point: "/c", kind: "", options: "" }.directories(path);
        assert_eq!(directories("/", "/"), ["/c"]);
        assert_eq!(directories("/", "/a/b"), ["/c/a/b", "/c/a", "/c"]);
        assert_eq!(directories("/docker/x", "/docker/x"), ["/c"]);
        assert_eq!(directories("/docker/x", "/docker/x/y"), ["/c/y", "/c"]);
        assert_eq!(directories("/", "/../other"), ["/c"]);
        assert_eq!(directories("/docker/x", "/elsewhere"), ["/c"]);
    }

    #[test]
    fn quotas_are_thousandths_of_a_cpu() {
        assert_eq!(quota("max 100000"), None);
        assert_eq!(quota("-1 100000"), None);
        assert_eq!(quota("250000 100000"), Some(2500));
        assert_eq!(quota("1 0"), None);
        assert_eq!(quota(""), None);
    }
}
