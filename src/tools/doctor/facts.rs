//! Facts about the machine and this process.

use std::io;

use super::cgroup::Cgroup;
use super::files::{Fact, Files, ReadError};
use super::probes::{self, BindResult, OutputFile};
use crate::config::{AdminAddress, Config, Endpoint};
use crate::sys::descriptors::{self, Limits};
use crate::sys::fork::own_pid;
use crate::sys::{cpu, sockets, steering};
use crate::text::{one_line, reason};

/// Bit of CAP_NET_BIND_SERVICE (linux/capability.h).
const NET_BIND_SERVICE: u32 = 10;

/// The initial pid namespace of every kernel (linux/proc_ns.h).
const INITIAL_PID_NAMESPACE: &str = "pid:[4026531836]";

/// Facts about the machine and this process.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) descriptors: Fact<Limits>,
    /// Upper bound of the hard limit of descriptors.
    pub(super) nr_open: Fact<u64>,
    /// Limit of open files in the whole system.
    pub(super) file_max: Fact<Option<u64>>,
    pub(super) files_open: Fact<u64>,
    pub(super) cgroup: Cgroup,
    /// Memory of the machine in bytes.
    pub(super) memory: Fact<u64>,
    /// Number of CPUs in the affinity mask.
    pub(super) cpus: Fact<usize>,
    pub(super) somaxconn: Fact<u64>,
    pub(super) syn_backlog: Fact<u64>,
    pub(super) syncookies: Fact<u64>,
    pub(super) migrate_req: Fact<u64>,
    /// Result of attaching a steering program.
    pub(super) steering: Result<(), String>,
    pub(super) ipv6: Ipv6,
    pub(super) ports: Ports,
    pub(super) conntrack: Conntrack,
    pub(super) environment: Environment,
    pub(super) addresses: Vec<(Endpoint, BindResult)>,
    pub(super) admin: Option<(AdminAddress, BindResult)>,
    pub(super) files: Vec<OutputFile>,
}

#[derive(Clone, Debug)]
pub(super) struct Ipv6 {
    /// `true` if IPv6 sockets can be created.
    pub(super) sockets: bool,
    /// Number of IPv6 addresses of all interfaces.
    pub(super) addresses: Fact<usize>,
    pub(super) bindv6only: Fact<u64>,
}

#[derive(Clone, Debug)]
pub(super) struct Ports {
    /// Lowest port that needs no privilege.
    pub(super) unprivileged: Fact<u64>,
    /// `true` if this process has CAP_NET_BIND_SERVICE.
    pub(super) privilege: Fact<bool>,
    /// Range for outgoing connections, such as `32768 60999`.
    pub(super) local: Fact<String>,
    /// Ports excluded from that range, such as `8080,9000-9010`.
    pub(super) reserved: Fact<String>,
}

/// Table of tracked connections.
#[derive(Clone, Debug)]
pub(super) struct Conntrack {
    pub(super) max: Fact<u64>,
    pub(super) count: Fact<u64>,
    /// Seconds until the entry of a closed connection expires.
    pub(super) time_wait: Fact<u64>,
}

#[derive(Clone, Debug)]
pub(super) struct Environment {
    pub(super) pid: i32,
    /// Name of the container runtime.
    pub(super) container: Option<String>,
    /// `true` if the process is in a pid namespace other than the initial one.
    pub(super) pid_namespace: Fact<bool>,
    pub(super) proc: Fact<()>,
}

impl Facts {
    /// Gathers all facts that the checks need.
    pub(super) fn gather(files: &Files, config: &Config) -> Self {
        let number = |name: &str| files.number(name);
        Self {
            descriptors: system("the limit of descriptors", descriptors::limits()),
            nr_open: number("/proc/sys/fs/nr_open"),
            file_max: files.limit("/proc/sys/fs/file-max"),
            files_open: number("/proc/sys/fs/file-nr"),
            cgroup: Cgroup::read(files),
            memory: memory(files),
            cpus: system("the CPU affinity", cpu::allowed().map(|cpus| cpus.len())),
            somaxconn: number("/proc/sys/net/core/somaxconn"),
            syn_backlog: number("/proc/sys/net/ipv4/tcp_max_syn_backlog"),
            syncookies: number("/proc/sys/net/ipv4/tcp_syncookies"),
            migrate_req: number("/proc/sys/net/ipv4/tcp_migrate_req"),
            steering: steering::probe().map_err(|error| reason(&error)),
            ipv6: Ipv6 {
                sockets: sockets::has_ipv6(),
                addresses: files.text("/proc/net/if_inet6").map(|text| text.lines().count()),
                bindv6only: number("/proc/sys/net/ipv6/bindv6only"),
            },
            ports: Ports {
                unprivileged: number("/proc/sys/net/ipv4/ip_unprivileged_port_start"),
                privilege: has_bind_privilege(files),
                local: files.text("/proc/sys/net/ipv4/ip_local_port_range"),
                reserved: files.text("/proc/sys/net/ipv4/ip_local_reserved_ports"),
            },
            conntrack: Conntrack {
                max: number("/proc/sys/net/netfilter/nf_conntrack_max"),
                count: number("/proc/sys/net/netfilter/nf_conntrack_count"),
                time_wait: number("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_time_wait"),
            },
            environment: Environment {
                pid: own_pid().as_raw(),
                container: container(files, |name| std::env::var(name).ok()),
                pid_namespace: files
                    .link("/proc/self/ns/pid")
                    .map(|namespace| namespace != INITIAL_PID_NAMESPACE),
                proc: files.text("/proc/self/stat").map(drop),
            },
            addresses: probes::bind_endpoints(files, &config.listen),
            admin: config
                .admin
                .address
                .as_ref()
                .map(|it| (it.clone(), probes::bind_admin(files, it))),
            files: probes::output_files(config),
        }
    }
}

/// Names the source of a system error.
fn system<T>(name: &str, result: io::Result<T>) -> Fact<T> {
    result.map_err(|error| ReadError::new(name, reason(&error)))
}

fn memory(files: &Files) -> Fact<u64> {
    const NAME: &str = "/proc/meminfo";
    field(&files.text(NAME)?, "MemTotal:")
        .and_then(|value| value.split(' ').next()?.parse::<u64>().ok()?.checked_mul(1024))
        .ok_or_else(|| ReadError::new(NAME, "it has no MemTotal"))
}

fn has_bind_privilege(files: &Files) -> Fact<bool> {
    const NAME: &str = "/proc/self/status";
    field(&files.text(NAME)?, "CapEff:")
        .and_then(|value| u64::from_str_radix(value, 16).ok())
        .map(|capabilities| capabilities >> NET_BIND_SERVICE & 1 == 1)
        .ok_or_else(|| ReadError::new(NAME, "it has no CapEff"))
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

/// Detects the container runtime by the variables and files that it leaves.
fn container(files: &Files, variable: impl Fn(&str) -> Option<String>) -> Option<String> {
    if variable("KUBERNETES_SERVICE_HOST").is_some() {
        return Some("Kubernetes".to_owned());
    }
    if files.exists("/.dockerenv") {
        return Some("Docker".to_owned());
    }
    // See systemd.io/CONTAINER_INTERFACE. As PID 1, systemd keeps the variable in the file.
    let name = variable("container").or_else(|| files.text("/run/systemd/container").ok());
    match name.filter(|name| !name.is_empty()) {
        Some(name) => Some(one_line(&name)),
        None => files.exists("/run/.containerenv").then(|| "podman".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::files::tree;
    use super::*;

    #[test]
    fn fields_are_parsed() {
        let (_root, files) = tree(&[
            ("/proc/meminfo", "MemTotal:       24684096 kB\nMemFree:        100 kB\n"),
            ("/proc/self/status", "Name:\ttcp-echo\nCapEff:\t0000000000000400\n"),
        ]);
        assert_eq!(memory(&files), Ok(24_684_096 * 1024));
        assert_eq!(has_bind_privilege(&files), Ok(true));
        let (_root, files) =
            tree(&[("/proc/meminfo", "MemTotal: much"), ("/proc/self/status", "CapEff:\t0\n")]);
        assert!(memory(&files).is_err());
        assert_eq!(has_bind_privilege(&files), Ok(false));
    }

    #[test]
    fn containers_are_detected_by_their_traces() {
        let nothing = |_: &str| None;
        let named = |files: &[(&str, &str)]| container(&tree(files).1, nothing);
        assert_eq!(named(&[]), None);
        for (file, text, name) in [
            ("/.dockerenv", "", "Docker"),
            ("/run/.containerenv", "", "podman"),
            ("/run/systemd/container", "lxc\n", "lxc"),
        ] {
            let (_root, files) = tree(&[(file, text)]);
            assert_eq!(container(&files, nothing).as_deref(), Some(name));
        }
        let (_root, files) = tree(&[]);
        let variable =
            |wanted: &'static str| move |name: &str| (name == wanted).then(|| "x\n".into());
        assert_eq!(container(&files, variable("container")).as_deref(), Some("x\\n"));
        let kubernetes = container(&files, variable("KUBERNETES_SERVICE_HOST"));
        assert_eq!(kubernetes.as_deref(), Some("Kubernetes"));
    }
}
