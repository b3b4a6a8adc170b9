//! The owner of a listening socket, found through the kernel's tables and the descriptors of processes.

use std::fmt::{self, Display};
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;

use super::files::Files;
use crate::text::one_line;

/// A process that has a listening socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SocketOwner {
    pub(super) pid: u32,
    /// Short process title. Any process can choose any title.
    pub(super) name: String,
}

impl SocketOwner {
    fn new(files: &Files, pid: u32) -> Self {
        let name = files.text(&format!("/proc/{pid}/comm")).unwrap_or_default();
        Self { pid, name: one_line(&name) }
    }

    /// Returns `true` if the title is that of a tcp-echo process.
    pub(super) fn is_tcp_echo(&self) -> bool {
        self.name.starts_with("tcp-echo")
    }

    /// Returns `true` for systemd, which passes sockets to services.
    pub(super) fn is_service_manager(&self) -> bool {
        self.name == "systemd"
    }

    fn is_controller(&self) -> bool {
        self.name == "tcp-echo[ctrlr]"
    }
}

impl Display for SocketOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {})", self.name, self.pid)
    }
}

/// Number of descriptors to examine in a process. Listeners are opened early, and a busy process can
/// have a million other descriptors.
const MAX_DESCRIPTORS: usize = 1024;

/// Finds the process that listens on an address or on a wildcard address that includes it. Of several,
/// returns a controller, or else the lowest pid. Returns `None` if no visible process does.
pub(super) fn find(files: &Files, address: SocketAddr) -> Option<SocketOwner> {
    let sockets: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .into_iter()
        .flat_map(|table| listeners(files, table))
        .filter(|(local, _)| overlap(*local, address))
        .map(|(_, inode)| format!("socket:[{inode}]"))
        .collect();
    if sockets.is_empty() {
        return None;
    }
    let entries = fs::read_dir(files.path("/proc")).ok()?.flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mut processes: Vec<SocketOwner> = pids.map(|pid| SocketOwner::new(files, pid)).collect();
    processes.sort_unstable_by_key(|process| (!process.is_controller(), process.pid));
    processes.into_iter().find(|process| has_one_of(files, process.pid, &sockets))
}

/// Returns the listeners of a table. They precede the connections, of which there can be a million.
fn listeners(files: &Files, table: &str) -> Vec<(SocketAddr, u64)> {
    let file = fs::File::open(files.path(table));
    let lines = file.into_iter().flat_map(|file| BufReader::new(file).lines());
    // The first line is the header.
    lines.map_while(Result::ok).skip(1).map_while(|line| listener(&line)).collect()
}

fn has_one_of(files: &Files, pid: u32, sockets: &[String]) -> bool {
    let descriptors = fs::read_dir(files.path(&format!("/proc/{pid}/fd")));
    let links = descriptors.into_iter().flatten().flatten();
    links.take(MAX_DESCRIPTORS).any(|link| {
        fs::read_link(link.path())
            .is_ok_and(|target| sockets.iter().any(|socket| target.as_os_str() == socket.as_str()))
    })
}

/// Finds the process that listens on a Unix socket.
pub(super) fn find_unix(files: &Files, path: &Path) -> Option<SocketOwner> {
    let stream = UnixStream::connect(path).ok()?;
    let pid = getsockopt(&stream, PeerCredentials).ok()?.pid();
    Some(SocketOwner::new(files, pid.unsigned_abs()))
}

fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let is_wildcard = |address: SocketAddr| address.ip().is_unspecified();
    one.port() == other.port() && (one.ip() == other.ip() || is_wildcard(one) || is_wildcard(other))
}

/// Parses the address and inode of a listener from a line `0: LOCAL REMOTE STATE QUEUES TIMER … UID … INODE`.
fn listener(line: &str) -> Option<(SocketAddr, u64)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let inode = fields.get(9)?.parse().ok()?;
    (*fields.get(3)? == "0A").then_some((address(fields.get(1)?)?, inode))
}

/// Parses `0100007F:1F9A`: words of 32 bits in the machine's byte order, then the port.
fn address(text: &str) -> Option<SocketAddr> {
    let (host, port) = text.split_once(':')?;
    let word = |index: usize| {
        let digits = host.get(8 * index..8 * index + 8)?;
        u32::from_str_radix(digits, 16).ok().map(u32::to_ne_bytes)
    };
    let ip: IpAddr = match host.len() {
        8 => Ipv4Addr::from(word(0)?).into(),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?];
            let bytes: [u8; 16] = words.concat().try_into().ok()?;
            Ipv6Addr::from(bytes).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::super::files::tree;
    use super::*;

    #[test]
    fn the_controller_is_found_among_its_workers() {
        let head = "sl local_address rem_address st tx_queue rx_queue tr tm->when retrnsmt uid";
        let rest = "00000000:00000000 00:00000000 00000000 0 0";
        // Numbers are written as a machine of this byte order would.
        let local = format!("{:08X}", u32::from_ne_bytes([127, 0, 0, 1]));
        let v4 = format!(
            "{head}\n0: {local}:1F9B 00000000:0000 0A {rest} 78 1\n\
             1: {local}:1F9A 00000000:0000 01 {rest} 77 1\n"
        );
        let any = "0".repeat(32);
        let v6 = format!("{head}\n0: {any}:1F9A {any}:0000 0A {rest} 79 1\n");
        let (_root, files) = tree(&[
            ("/proc/net/tcp", &v4),
            ("/proc/net/tcp6", &v6),
            ("/proc/12/comm", "tcp-echo[wrk1]\n"),
            ("/proc/13/comm", "tcp-echo[ctrlr]\n"),
            ("/proc/14/comm", "ng\ninx\n"),
            ("/proc/12/fd/9", ""),
            ("/proc/13/fd/9", ""),
            ("/proc/14/fd/9", ""),
        ]);
        for (pid, inode) in [(12, 79), (13, 79), (14, 78)] {
            let link = files.path(&format!("/proc/{pid}/fd/3"));
            symlink(format!("socket:[{inode}]"), link).expect("link");
        }
        let find = |address: &str| {
            let owner = find(&files, address.parse().expect("address"));
            owner.map(|owner| (owner.to_string(), owner.is_tcp_echo()))
        };
        let controller = Some(("tcp-echo[ctrlr] (pid 13)".to_owned(), true));
        assert_eq!(find("[::]:8090"), controller);
        assert_eq!(find("127.0.0.1:8090"), controller);
        assert_eq!(find("127.0.0.1:8091"), Some(("ng\\ninx (pid 14)".to_owned(), false)));
        assert_eq!(find("0.0.0.0:8091"), find("127.0.0.1:8091"));
        assert_eq!(find("127.0.0.2:8091"), None);
        assert_eq!(find("127.0.0.1:1"), None);
    }

    #[test]
    fn invalid_lines_have_no_owner() {
        for line in ["", "0: x y 0A", "0: 7F:1 0:0 0A a b c d e 5", "a b c 0A d e f g h x"] {
            assert_eq!(listener(line), None, "{line}");
        }
        let (_root, files) = tree(&[]);
        assert_eq!(find(&files, "127.0.0.1:1".parse().expect("address")), None);
    }
}
