//! The limits of the cgroups that this process is in, of either version.
//!
//! A limit of a cgroup holds for all below it, so the tightest on the way up counts; what is above
//! the mount point is hidden from us. In version 1 each controller has a hierarchy of its own, in
//! version 2 all share one, and a machine may have some of both.

use super::files::{Fact, Files, if_any};

/// The limits; `None` where there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cgroup {
    /// Bytes.
    pub(super) memory: Fact<Option<u64>>,
    /// Whether the kernel kills all processes together when memory runs out.
    pub(super) oom_group: Fact<bool>,
    /// Thousandths of a CPU.
    pub(super) cpu: Fact<Option<u64>>,
    /// Processes and threads.
    pub(super) processes: Fact<Option<u64>>,
}

impl Cgroup {
    pub(super) fn read(files: &Files) -> Self {
        let find = |controller: &str| {
            let (cgroups, mounts) =
                (files.text("/proc/self/cgroup")?, files.text("/proc/self/mountinfo")?);
            Ok(Hierarchy::find(controller, &cgroups, &mounts))
        };
        Self {
            memory: find("memory").and_then(|found| match found {
                Some(Hierarchy { version: 1, way }) => {
                    tightest(&way, "memory.limit_in_bytes", |file| files.limit(file))
                }
                Some(Hierarchy { way, .. }) => {
                    tightest(&way, "memory.max", |file| files.limit(file))
                }
                None => Ok(None),
            }),
            oom_group: find("memory").and_then(|found| match found {
                Some(Hierarchy { version: 2, way }) => {
                    let one_at_a_time =
                        |file: &str| Ok(Some(files.number(file)?).filter(|n| *n > 0));
                    Ok(tightest(&way, "memory.oom.group", one_at_a_time)?.is_some())
                }
                _ => Ok(false),
            }),
            cpu: find("cpu").and_then(|found| match found {
                Some(Hierarchy { version: 1, way }) => {
                    tightest(&way, "cpu.cfs_quota_us", |file| quota_of_version_1(files, file))
                }
                Some(Hierarchy { way, .. }) => {
                    tightest(&way, "cpu.max", |file| Ok(quota(&files.text(file)?)))
                }
                None => Ok(None),
            }),
            processes: find("pids").and_then(|found| match found {
                Some(Hierarchy { way, .. }) => tightest(&way, "pids.max", |file| files.limit(file)),
                None => Ok(None),
            }),
        }
    }
}

/// The least of what `read` finds in the directories; one without the file limits nothing.
fn tightest(
    way: &[String],
    file: &str,
    read: impl Fn(&str) -> Fact<Option<u64>>,
) -> Fact<Option<u64>> {
    let mut least = None;
    for directory in way {
        let limit = if_any(read(&format!("{directory}/{file}")))?.flatten();
        least = [least, limit].into_iter().flatten().min();
    }
    Ok(least)
}

/// `50000 100000`: microseconds of CPU time in so many microseconds; or `max 100000`.
fn quota(text: &str) -> Option<u64> {
    let (time, period) = text.split_once(' ')?;
    let (time, period) = (time.parse::<u64>().ok()?, period.trim().parse::<u64>().ok()?);
    time.checked_mul(1000)?.checked_div(period)
}

fn quota_of_version_1(files: &Files, name: &str) -> Fact<Option<u64>> {
    let period = files.text(&name.replace("quota", "period"))?;
    // Without a limit the time is -1, which is no number here.
    Ok(quota(&format!("{} {period}", files.text(name)?)))
}

/// Where the limits of a controller are.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hierarchy {
    version: u8,
    /// The directories from this process's cgroup up to the mount point.
    way: Vec<String>,
}

impl Hierarchy {
    /// Finds it in /proc/self/cgroup and /proc/self/mountinfo.
    fn find(controller: &str, cgroups: &str, mounts: &str) -> Option<Self> {
        let of_version_1 = || {
            let has = |list: &str| list.split(',').any(|name| name == controller);
            let path = path_where(cgroups, has)?;
            let way = mounts.lines().filter_map(Mount::parse).find_map(|mount| {
                (mount.kind == "cgroup" && has(mount.options)).then(|| mount.way_to(path))
            })?;
            Some(Self { version: 1, way })
        };
        let of_version_2 = || {
            let path = path_where(cgroups, str::is_empty)?;
            let mount =
                mounts.lines().filter_map(Mount::parse).find(|mount| mount.kind == "cgroup2")?;
            Some(Self { version: 2, way: mount.way_to(path) })
        };
        of_version_1().or_else(of_version_2)
    }
}

/// The path of the line (`4:memory:/path`) whose list of controllers is meant.
fn path_where(cgroups: &str, is_meant: impl Fn(&str) -> bool) -> Option<&str> {
    cgroups.lines().find_map(|line| {
        let (list, path) = line.split_once(':')?.1.split_once(':')?;
        is_meant(list).then_some(path)
    })
}

/// A line of /proc/self/mountinfo.
struct Mount<'a> {
    /// What of the file system is mounted.
    root: &'a str,
    point: &'a str,
    kind: &'a str,
    options: &'a str,
}

impl<'a> Mount<'a> {
    /// `35 31 0:31 ROOT POINT rw,relatime shared:1 - KIND SOURCE OPTIONS`
    fn parse(line: &'a str) -> Option<Self> {
        let (mount, system) = line.split_once(" - ")?;
        let (mut mount, mut system) = (mount.split(' ').skip(3), system.split(' '));
        let (root, point) = (mount.next()?, mount.next()?);
        Some(Self { root, point, kind: system.next()?, options: system.nth(1)? })
    }

    /// The directories from the cgroup `path` up to the mount point. A cgroup that is not below what
    /// is mounted is not to be seen from here: then there is only the mount point.
    fn way_to(&self, path: &str) -> Vec<String> {
        let below = path.strip_prefix(self.root.trim_end_matches('/')).unwrap_or_default();
        let mut rest = if below.contains("..") { "" } else { below.trim_matches('/') };
        let mut way = Vec::new();
        while !rest.is_empty() {
            way.push(format!("{}/{rest}", self.point));
            rest = rest.rsplit_once('/').map_or("", |(upper, _)| upper);
        }
        way.push(self.point.to_owned());
        way
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
    fn limits_of_version_2_are_the_tightest_on_the_way_up() {
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
    fn limits_of_version_1_are_where_each_controller_is() {
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
    fn without_cgroups_nothing_is_limited_and_without_proc_nothing_is_known() {
        let (_root, files) =
            tree(&[("/proc/self/cgroup", ""), ("/proc/self/mountinfo", "22 27 0:21 / /proc rw")]);
        let found = Cgroup::read(&files);
        assert_eq!((found.memory, found.oom_group), (Ok(None), Ok(false)));
        assert_eq!((found.cpu, found.processes), (Ok(None), Ok(None)));
        let (_root, nothing) = tree(&[]);
        assert!(Cgroup::read(&nothing).memory.is_err());
    }

    #[test]
    fn the_way_begins_at_what_is_mounted() {
        let way = |root, path| Mount { root, point: "/c", kind: "", options: "" }.way_to(path);
        assert_eq!(way("/", "/"), ["/c"]);
        assert_eq!(way("/", "/a/b"), ["/c/a/b", "/c/a", "/c"]);
        assert_eq!(way("/docker/x", "/docker/x"), ["/c"]);
        assert_eq!(way("/docker/x", "/docker/x/y"), ["/c/y", "/c"]);
        assert_eq!(way("/", "/../other"), ["/c"]);
        assert_eq!(way("/docker/x", "/elsewhere"), ["/c"]);
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
