//! The machine: the limit of descriptors, a fresh network namespace, and the header of the output.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;

use nix::sched::{CloneFlags, CpuSet, sched_getaffinity, setns, unshare};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, sendto, socket,
};
use nix::unistd::{Pid, geteuid};

/// Environment of servers and clients.
#[derive(Clone, Debug)]
pub(crate) struct Environment {
    pub server_cpu: usize,
    /// CPU of the load; equal to `server_cpu` if there is only one.
    pub load_cpu: usize,
    /// Limit of descriptors of a process.
    pub descriptors: u64,
    /// Description of the network namespace.
    network: String,
}

impl Environment {
    /// Raises the limit of descriptors and, if permitted, enters a fresh network namespace, which has
    /// neither firewall rules nor connection tracking. To be called while there is only one thread.
    ///
    /// # Errors
    /// The limits or the affinity cannot be read.
    pub(crate) fn prepare() -> Result<Self, String> {
        let fail = |error: nix::Error| format!("cannot prepare: {error}");
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(fail)?;
        if soft < hard {
            setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map_err(fail)?;
        }
        let allowed = sched_getaffinity(Pid::from_raw(0)).map_err(fail)?;
        let mut cpus = (0..CpuSet::count()).filter(|&cpu| allowed.is_set(cpu).unwrap_or(false));
        let server_cpu = cpus.next().unwrap_or(0);
        let network = match own_network() {
            Ok(()) => "a fresh network namespace: no firewall, no connection tracking".to_owned(),
            Err(error) => format!("the machine's network, with its firewall ({error})"),
        };
        let load_cpu = cpus.next().unwrap_or(server_cpu);
        Ok(Self { server_cpu, load_cpu, descriptors: hard, network })
    }

    /// Describes the machine in lines.
    pub(crate) fn describe(&self) -> String {
        let kernel = setting("/proc/sys/kernel/osrelease");
        let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let model = model.map_or("unknown CPU", |(_, name)| name);
        let cores = info.lines().filter(|line| line.starts_with("processor")).count();
        let same = if self.server_cpu == self.load_cpu {
            "  (only one CPU: server and load disturb each other, and no figure is worth much)"
        } else {
            ""
        };
        format!(
            "kernel    Linux {kernel}, {model}, {cores} cores\n\
             network   {}\n\
             tcp       congestion control {}\n\
             limits    fs.file-max {}, RLIMIT_NOFILE {}\n\
             pinned    servers to CPU {}, load to CPU {}{same}\n",
            self.network,
            setting("/proc/sys/net/ipv4/tcp_congestion_control"),
            setting("/proc/sys/fs/file-max"),
            self.descriptors,
            self.server_cpu,
            self.load_cpu,
        )
    }
}

/// Returns the content of a file of /proc, or a question mark.
pub(crate) fn setting(path: &str) -> String {
    fs::read_to_string(path).map_or_else(|_| "?".to_owned(), |text| text.trim().to_owned())
}

/// Enters a network namespace with only a loopback interface.
fn own_network() -> Result<(), String> {
    if !geteuid().is_root() {
        return Err("another one needs root".to_owned());
    }
    let former =
        File::open("/proc/self/ns/net").map_err(|error| format!("no way back: {error}"))?;
    unshare(CloneFlags::CLONE_NEWNET).map_err(|error| format!("unshare: {error}"))?;
    raise_loopback().map_err(|error| match setns(&former, CloneFlags::CLONE_NEWNET) {
        Ok(()) => format!("another one has no loopback: {error}"),
        Err(lost) => format!("another one has no loopback, and no way back: {error}, {lost}"),
    })
}

/// Sets interface 1, the loopback, up through netlink.
fn raise_loopback() -> io::Result<()> {
    const NEW_LINK: u16 = 16;
    const REQUEST: u16 = 1;
    const UP: u32 = 1;
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )?;
    let mut message = Vec::new();
    // struct nlmsghdr: length, type, flags, sequence, port.
    message.extend(32_u32.to_ne_bytes());
    message.extend(NEW_LINK.to_ne_bytes());
    message.extend(REQUEST.to_ne_bytes());
    message.extend([0; 8]);
    // struct ifinfomsg: family, padding, type; index, flags, mask of flags.
    message.extend([0; 4]);
    for word in [1, UP, UP] {
        message.extend(word.to_ne_bytes());
    }
    sendto(socket.as_raw_fd(), &message, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    // The kernel handles the request synchronously; the bind tests the result.
    std::net::TcpListener::bind("127.0.0.1:0").map(drop)
}
