//! What there is: the only part of the doctor that asks the system.

use std::io;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

use super::cgroup::Cgroup;
use super::files::{Fact, Files, Unread};
use super::holder::{self, Holder};
use crate::config::{AccessLog, AdminAddress, Config, Endpoint, ListenConfig, reason};
use crate::process::descriptors::{self, Limits};
use crate::process::fork::own_pid;
use crate::process::front::{self, Front};
use crate::process::sockets::{self, Claim, ListenError};
use crate::process::{cpu, steering};

/// Bit of CAP_NET_BIND_SERVICE (linux/capability.h).
const NET_BIND_SERVICE: u32 = 10;

/// The first pid namespace of every kernel (linux/proc_ns.h).
const FIRST_PID_NAMESPACE: &str = "pid:[4026531836]";

/// What is known of the machine and of this process in it.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) descriptors: Fact<Limits>,
    /// The most that the limit of descriptors can be raised to.
    pub(super) nr_open: Fact<u64>,
    /// Open files in the whole system: the most, and now.
    pub(super) file_max: Fact<Option<u64>>,
    pub(super) files_open: Fact<u64>,
    pub(super) cgroup: Cgroup,
    /// Bytes of memory in the machine.
    pub(super) memory: Fact<u64>,
    /// CPUs that the affinity permits.
    pub(super) cpus: Fact<usize>,
    pub(super) somaxconn: Fact<u64>,
    pub(super) syn_backlog: Fact<u64>,
    pub(super) syncookies: Fact<u64>,
    pub(super) migrate_req: Fact<u64>,
    /// Whether the kernel takes a steering program.
    pub(super) steering: Result<(), String>,
    pub(super) ipv6: Ipv6,
    pub(super) ports: Ports,
    pub(super) conntrack: Conntrack,
    pub(super) place: Place,
    /// What became of the try to bind each address.
    pub(super) addresses: Vec<(Endpoint, Trial)>,
    /// The same for the admin process's.
    pub(super) admin: Option<(AdminAddress, Trial)>,
    /// Files that are to be written: what they are, where, and why they cannot be.
    pub(super) files: Vec<(&'static str, PathBuf, Option<String>)>,
}

/// IPv6 on this machine.
#[derive(Clone, Debug)]
pub(super) struct Ipv6 {
    /// Whether there can be sockets.
    pub(super) sockets: bool,
    /// How many addresses the interfaces have.
    pub(super) addresses: Fact<usize>,
    /// Whether sockets are IPv6 only unless they say otherwise.
    pub(super) bindv6only: Fact<u64>,
}

/// Ports of this machine.
#[derive(Clone, Debug)]
pub(super) struct Ports {
    /// From this one on everybody may bind.
    pub(super) unprivileged: Fact<u64>,
    /// Whether this process may bind the others, too.
    pub(super) privilege: Fact<bool>,
    /// First and last that the kernel gives to outgoing connections, as `32768 60999`.
    pub(super) local: Fact<String>,
    /// Those of them that it keeps back, as `8080,9000-9010`.
    pub(super) reserved: Fact<String>,
}

/// The table of tracked connections.
#[derive(Clone, Debug)]
pub(super) struct Conntrack {
    pub(super) most: Fact<u64>,
    pub(super) now: Fact<u64>,
    /// Seconds for which a closed connection keeps its entry.
    pub(super) time_wait: Fact<u64>,
}

/// Where this process runs.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) pid: i32,
    /// What the container says it is.
    pub(super) container: Option<String>,
    /// Whether it has a pid namespace of its own.
    pub(super) pid_namespace: Fact<bool>,
    pub(super) proc: Fact<()>,
}

/// What became of the try to bind an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trial {
    Free,
    /// Somebody has it, perhaps one that we may see.
    InUse(Option<Holder>),
    /// The privilege is missing.
    Denied,
    /// One clause that says why.
    Failed(String),
}

impl Facts {
    /// Asks for all that the judgements want to know.
    pub(super) fn gather(files: &Files, config: &Config) -> Self {
        let number = |name: &str| files.number(name);
        let listen = &config.listen;
        Self {
            descriptors: asked("the limit of descriptors", descriptors::limits()),
            nr_open: number("/proc/sys/fs/nr_open"),
            file_max: files.limit("/proc/sys/fs/file-max"),
            files_open: number("/proc/sys/fs/file-nr"),
            cgroup: Cgroup::read(files),
            memory: memory_of(files),
            cpus: asked("the CPU affinity", cpu::allowed().map(|cpus| cpus.len())),
            somaxconn: number("/proc/sys/net/core/somaxconn"),
            syn_backlog: number("/proc/sys/net/ipv4/tcp_max_syn_backlog"),
            syncookies: number("/proc/sys/net/ipv4/tcp_syncookies"),
            migrate_req: number("/proc/sys/net/ipv4/tcp_migrate_req"),
            steering: steering::try_out().map_err(|error| reason(&error)),
            ipv6: Ipv6 {
                sockets: sockets::has_ipv6(),
                addresses: files.text("/proc/net/if_inet6").map(|text| text.lines().count()),
                bindv6only: number("/proc/sys/net/ipv6/bindv6only"),
            },
            ports: Ports {
                unprivileged: number("/proc/sys/net/ipv4/ip_unprivileged_port_start"),
                privilege: has_privilege(files),
                local: files.text("/proc/sys/net/ipv4/ip_local_port_range"),
                reserved: files.text("/proc/sys/net/ipv4/ip_local_reserved_ports"),
            },
            conntrack: Conntrack {
                most: number("/proc/sys/net/netfilter/nf_conntrack_max"),
                now: number("/proc/sys/net/netfilter/nf_conntrack_count"),
                time_wait: number("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_time_wait"),
            },
            place: Place {
                pid: own_pid().as_raw(),
                container: container_of(files, |name| std::env::var(name).ok()),
                pid_namespace: files
                    .link("/proc/self/ns/pid")
                    .map(|namespace| namespace != FIRST_PID_NAMESPACE),
                proc: files.text("/proc/self/stat").map(drop),
            },
            addresses: listen
                .endpoints
                .iter()
                .map(|&endpoint| (endpoint, attempt(files, endpoint, listen)))
                .collect(),
            admin: config.admin.address.clone().map(|it| (it.clone(), attempt_admin(files, &it))),
            files: files_of(config)
                .map(|(what, path)| (what, path.to_owned(), why_not_written(path)))
                .collect(),
        }
    }
}

fn asked<T>(what: &str, answer: io::Result<T>) -> Fact<T> {
    answer.map_err(|error| Unread::new(what, reason(&error)))
}

/// Binds the address as the daemon would, and lets go of it.
fn attempt(files: &Files, endpoint: Endpoint, options: &ListenConfig) -> Trial {
    match Claim::new(endpoint, 0, options.share_port) {
        Ok(_) => Trial::Free,
        Err(error) if error.is_in_use() => Trial::InUse(holder::find(files, endpoint.address)),
        Err(ListenError { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => {
            Trial::Denied
        }
        Err(error) => Trial::Failed(error.to_string()),
    }
}

/// The same for the admin process's; no file is touched.
fn attempt_admin(files: &Files, wanted: &AdminAddress) -> Trial {
    let address = match wanted {
        AdminAddress::Tcp(address) => *address,
        AdminAddress::Unix(path) if path.exists() && !front::is_stale(path) => {
            return Trial::InUse(holder::at(files, path));
        }
        AdminAddress::Unix(path) => {
            return why_not_written(path).map_or(Trial::Free, Trial::Failed);
        }
    };
    match Front::open(wanted) {
        Ok(front) => {
            front.remove();
            Trial::Free
        }
        Err(error) => match error.source.kind() {
            io::ErrorKind::AddrInUse => Trial::InUse(holder::find(files, address)),
            io::ErrorKind::PermissionDenied => Trial::Denied,
            _ => Trial::Failed(error.to_string()),
        },
    }
}

/// The files that the daemon is told to write.
fn files_of(config: &Config) -> impl Iterator<Item = (&'static str, &Path)> {
    let log = &config.log;
    let access = log.access_file.as_deref().filter(|_| log.access != AccessLog::Off);
    let process = &config.process;
    [
        ("pid file", process.pid_file.as_deref()),
        ("state file", process.state_file.as_deref()),
        ("access log", access),
    ]
    .into_iter()
    .filter_map(|(what, path)| Some((what, path?)))
}

/// Looks, without touching anything.
fn why_not_written(path: &Path) -> Option<String> {
    let may = |path: &Path, flags| access(path, flags).map_err(io::Error::from);
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let result = match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => return Some("it is a directory".to_owned()),
        Ok(_) => may(path, AccessFlags::W_OK),
        Err(_) => {
            let folder = folder.unwrap_or(Path::new("."));
            may(folder, AccessFlags::W_OK | AccessFlags::X_OK)
        }
    };
    result.err().map(|error| reason(&error))
}

fn memory_of(files: &Files) -> Fact<u64> {
    const NAME: &str = "/proc/meminfo";
    field(&files.text(NAME)?, "MemTotal:")
        .and_then(|value| value.split(' ').next()?.parse::<u64>().ok()?.checked_mul(1024))
        .ok_or_else(|| Unread::new(NAME, "it has no MemTotal"))
}

fn has_privilege(files: &Files) -> Fact<bool> {
    const NAME: &str = "/proc/self/status";
    field(&files.text(NAME)?, "CapEff:")
        .and_then(|value| u64::from_str_radix(value, 16).ok())
        .map(|capabilities| capabilities >> NET_BIND_SERVICE & 1 == 1)
        .ok_or_else(|| Unread::new(NAME, "it has no CapEff"))
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

/// What kind of container this is, going by what the usual ones leave lying about.
fn container_of(files: &Files, variable: impl Fn(&str) -> Option<String>) -> Option<String> {
    if variable("KUBERNETES_SERVICE_HOST").is_some() {
        return Some("Kubernetes".to_owned());
    }
    if files.exists("/.dockerenv") {
        return Some("Docker".to_owned());
    }
    // systemd.io/CONTAINER_INTERFACE; systemd as PID 1 keeps the variable's value in the file.
    let name = variable("container").or_else(|| files.text("/run/systemd/container").ok());
    match name.filter(|name| !name.is_empty()) {
        Some(name) => Some(crate::config::one_line(&name)),
        None => files.exists("/run/.containerenv").then(|| "podman".to_owned()),
    }
}

/// Facts and configurations for tests.
#[cfg(test)]
pub(super) mod example {
    use super::*;

    /// A machine of which there is nothing to say, with the default address free.
    pub(crate) fn fine() -> Facts {
        Facts {
            descriptors: Ok(Limits { soft: 1024, hard: 20_000 }),
            nr_open: Ok(1_048_576),
            file_max: Ok(Some(2_000_000)),
            files_open: Ok(1000),
            cgroup: Cgroup {
                memory: Ok(None),
                oom_group: Ok(false),
                cpu: Ok(None),
                processes: Ok(None),
            },
            memory: Ok(64 << 30),
            cpus: Ok(2),
            somaxconn: Ok(4096),
            syn_backlog: Ok(2048),
            syncookies: Ok(1),
            migrate_req: Ok(0),
            steering: Ok(()),
            ipv6: Ipv6 { sockets: true, addresses: Ok(3), bindv6only: Ok(0) },
            ports: Ports {
                unprivileged: Ok(1024),
                privilege: Ok(false),
                local: Ok("32768\t60999".into()),
                reserved: Ok(String::new()),
            },
            conntrack: Conntrack { most: missing(), now: missing(), time_wait: missing() },
            place: Place { pid: 77, container: None, pid_namespace: Ok(false), proc: Ok(()) },
            addresses: config("")
                .listen
                .endpoints
                .iter()
                .map(|&endpoint| (endpoint, Trial::Free))
                .collect(),
            admin: None,
            files: Vec::new(),
        }
    }

    /// What a file says that the kernel does not know.
    pub(crate) fn missing<T>() -> Fact<T> {
        let (_root, files) = super::super::files::tree(&[("/proc/sys/x", "")]);
        Err(files.number("/proc/sys/missing").expect_err("it is not there"))
    }

    /// What a file says that may not be read.
    pub(crate) fn unread<T>() -> Fact<T> {
        Err(Unread::new("/proc/secret", "Permission denied"))
    }

    /// A configuration of two workers from a line of options.
    pub(crate) fn config(line: &str) -> Config {
        let words = ["--workers", "2"].into_iter().chain(line.split_whitespace());
        let words = words.map(std::ffi::OsString::from).collect();
        let cli = crate::cli::Cli::parse_from(words, |_| None).expect("a valid line");
        Config::load(&cli).expect("a valid configuration")
    }
}

#[cfg(test)]
mod tests {
    use super::super::files::tree;
    use super::example::config;
    use super::*;

    #[test]
    fn fields_are_found() {
        let (_root, files) = tree(&[
            ("/proc/meminfo", "MemTotal:       24684096 kB\nMemFree:        100 kB\n"),
            ("/proc/self/status", "Name:\ttcp-echo\nCapEff:\t0000000000000400\n"),
        ]);
        assert_eq!(memory_of(&files), Ok(24_684_096 * 1024));
        assert_eq!(has_privilege(&files), Ok(true));
        let (_root, files) =
            tree(&[("/proc/meminfo", "MemTotal: much"), ("/proc/self/status", "CapEff:\t0\n")]);
        assert!(memory_of(&files).is_err());
        assert_eq!(has_privilege(&files), Ok(false));
    }

    #[test]
    fn containers_are_known_by_what_they_leave() {
        let nothing = |_: &str| None;
        let named = |files: &[(&str, &str)]| container_of(&tree(files).1, nothing);
        assert_eq!(named(&[]), None);
        for (file, text, name) in [
            ("/.dockerenv", "", "Docker"),
            ("/run/.containerenv", "", "podman"),
            ("/run/systemd/container", "lxc\n", "lxc"),
        ] {
            let (_root, files) = tree(&[(file, text)]);
            assert_eq!(container_of(&files, nothing).as_deref(), Some(name));
        }
        let (_root, files) = tree(&[]);
        let variable =
            |wanted: &'static str| move |name: &str| (name == wanted).then(|| "x\n".into());
        assert_eq!(container_of(&files, variable("container")).as_deref(), Some("x\\n"));
        let kubernetes = container_of(&files, variable("KUBERNETES_SERVICE_HOST"));
        assert_eq!(kubernetes.as_deref(), Some("Kubernetes"));
    }

    #[test]
    fn an_address_is_tried_as_the_daemon_would() {
        let (_root, files) = tree(&[]);
        let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = taken.local_addr().expect("address");
        let trial = |listen: &str| {
            let listen = config(&format!("--listen {listen}")).listen;
            attempt(&files, listen.endpoints[0], &listen)
        };
        assert_eq!(trial(&address.to_string()), Trial::InUse(None));
        assert_eq!(trial("127.0.0.1:0"), Trial::Free);
        let Trial::Failed(text) = trial("203.0.113.7:0") else { panic!("it is not ours") };
        assert!(text.ends_with("no interface of this host has this address"), "{text}");
    }
}
