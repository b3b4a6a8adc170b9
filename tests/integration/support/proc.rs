//! Processes and sockets as the kernel shows them in `/proc`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use super::sock_diag::{self, States};

/// Process, from /proc/PID/stat.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    /// Process id in the namespace of the tests.
    pub(crate) pid: i32,
    /// Short title (`comm`).
    pub(crate) title: String,
    /// `R`unning, `S`leeping, s`T`opped, `Z`ombie, ...
    pub(crate) state: char,
    /// Parent process, which reaps it.
    pub(crate) ppid: i32,
    /// Process group.
    pub(crate) group: i32,
    /// Session.
    pub(crate) session: i32,
}

/// Returns a process; `None` if the pid is not in use.
pub(crate) fn process(pid: i32) -> Option<Process> {
    let line = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The title stands in parentheses and may contain both blanks and parentheses.
    let (open, close) = (line.find('(')?, line.rfind(')')?);
    let mut rest = line[close + 1..].split_whitespace();
    Some(Process {
        pid,
        title: line[open + 1..close].to_owned(),
        state: rest.next()?.chars().next()?,
        ppid: rest.next()?.parse().ok()?,
        group: rest.next()?.parse().ok()?,
        session: rest.next()?.parse().ok()?,
    })
}

/// Returns all processes of this machine.
pub(crate) fn processes() -> Vec<Process> {
    let pids = fs::read_dir("/proc").expect("/proc is mounted").flatten();
    pids.filter_map(|entry| process(entry.file_name().to_str()?.parse().ok()?)).collect()
}

/// Returns `true` if the process exists and is no zombie.
pub(crate) fn is_alive(pid: i32) -> bool {
    process(pid).is_some_and(|process| !matches!(process.state, 'Z' | 'X'))
}

/// Returns `true` if the process is stopped by a signal.
pub(crate) fn is_stopped(pid: i32) -> bool {
    process(pid).is_some_and(|process| process.state == 'T')
}

/// Returns `true` if the process is stopped by a tracer.
pub(crate) fn is_traced(pid: i32) -> bool {
    process(pid).is_some_and(|process| process.state == 't')
}

/// Returns the living workers of a controller, pid by slot, recognized by their titles.
pub(crate) fn workers_of(controller: i32) -> BTreeMap<u32, i32> {
    let mine = |process: &Process| process.ppid == controller && process.state != 'Z';
    let slot = |title: &str| -> Option<u32> {
        title.strip_prefix("tcp-echo[wrk")?.strip_suffix(']')?.parse().ok()
    };
    let all = processes().into_iter().filter(mine);
    all.filter_map(|process| Some((slot(&process.title)?, process.pid))).collect()
}

/// Returns the full title as `ps` shows it: the argument area with spaces for NUL bytes.
pub(crate) fn command_line(pid: i32) -> String {
    let raw = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&raw).replace('\0', " ").trim().to_owned()
}

/// Returns `true` if the initial environment of the process contains `text`.
pub(crate) fn environment_has(pid: i32, text: &str) -> bool {
    let raw = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    raw.windows(text.len()).any(|window| window == text.as_bytes())
}

/// Returns the CPU time of all threads of the process.
pub(crate) fn cpu_time(pid: i32) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    tasks.filter_map(|task| Some(schedstat(&task.path())?[0])).sum()
}

/// Returns the time that a single-threaded process has spent runnable, waiting for a processor.
pub(crate) fn waiting_time(pid: i32) -> Duration {
    schedstat(Path::new(&format!("/proc/{pid}"))).map_or(Duration::ZERO, |[_, waiting]| waiting)
}

/// Returns the time that the calling thread has spent runnable, waiting for a processor.
pub(crate) fn own_waiting_time() -> Duration {
    schedstat(Path::new("/proc/thread-self")).map_or(Duration::ZERO, |[_, waiting]| waiting)
}

/// Returns the time that a thread has spent on a processor and the time it has waited for one.
fn schedstat(task: &Path) -> Option<[Duration; 2]> {
    let line = fs::read_to_string(task.join("schedstat")).ok()?;
    let mut fields = line.split_whitespace().map(|field| field.parse().map(Duration::from_nanos));
    Some([fields.next()?.ok()?, fields.next()?.ok()?])
}

/// Returns the time that a single-threaded process has run or waited for a processor.
pub(crate) fn runnable_time(pid: i32) -> Duration {
    let line = fs::read_to_string(format!("/proc/{pid}/schedstat")).expect("the process lives");
    let words = line.split_whitespace().take(2);
    Duration::from_nanos(words.map(|word| word.parse::<u64>().unwrap()).sum())
}

/// Returns the anonymous resident memory of a process in bytes.
pub(crate) fn anonymous_memory(pid: i32) -> u64 {
    // The numbers in `status` are inexact by up to 64 pages per CPU.
    let sums = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("the process lives");
    let line = sums.lines().find(|line| line.starts_with("Anonymous:")).expect("a sum");
    let kilobytes: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kilobytes * 1024
}

/// TCP socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Socket {
    /// Inode, shared by all descriptors of the socket.
    pub(crate) inode: u64,
    /// Local address.
    pub(crate) local: SocketAddr,
    /// Remote address.
    pub(crate) remote: SocketAddr,
    /// `true` for a listener.
    pub(crate) listens: bool,
    /// Connections waiting at a listener; bytes waiting to be read at other sockets.
    pub(crate) queued: usize,
    /// `true` if the kernel runs a keepalive timer for it.
    pub(crate) keepalive: bool,
    /// `true` if the kernel runs a retransmission timer for it.
    pub(crate) retransmits: bool,
}

/// Returns all TCP sockets that processes in the calling thread's network hold, IPv4 and IPv6.
pub(crate) fn sockets() -> Vec<Socket> {
    sock_diag::sockets(States::HELD).unwrap_or_else(|_| sockets_in_tables())
}

/// TCP tables of the calling thread's network namespace.
const TABLES: [&str; 2] = ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"];

/// Reads the sockets from `/proc/net`, for kernels without sock_diag(7).
fn sockets_in_tables() -> Vec<Socket> {
    let tables = TABLES.map(fs::read_to_string);
    let text: Vec<String> = tables.into_iter().flatten().collect();
    text.iter().flat_map(|table| table.lines()).filter_map(socket).collect()
}

/// Returns all TCP listeners, IPv4 and IPv6. The tables list them first; the remaining lines,
/// possibly tens of thousands, are not read.
pub(crate) fn listeners() -> Vec<Socket> {
    let tables = TABLES.map(fs::File::open);
    let listeners = |table| {
        let lines = BufReader::new(table).lines().skip(1);
        let sockets = lines.map_while(|line| socket(&line.ok()?));
        sockets.take_while(|socket| socket.listens)
    };
    tables.into_iter().flatten().flat_map(listeners).collect()
}

/// Returns the open descriptors of a process.
pub(crate) fn descriptors(pid: i32) -> Vec<usize> {
    let links = fs::read_dir(format!("/proc/{pid}/fd")).expect("the process lives").flatten();
    links.filter_map(|link| link.file_name().to_str()?.parse().ok()).collect()
}

/// Returns the listeners that a process holds open.
pub(crate) fn listeners_of(pid: i32) -> Vec<Socket> {
    let inodes = inodes_of(pid);
    let all = sock_diag::sockets(States::LISTEN).unwrap_or_else(|_| listeners());
    let all = all.into_iter();
    all.filter(|socket| socket.listens && inodes.contains(&socket.inode)).collect()
}

/// Returns the inodes of all sockets that a process holds open.
pub(crate) fn inodes_of(pid: i32) -> Vec<u64> {
    let links = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let names = links.filter_map(|link| fs::read_link(link.path()).ok());
    names
        .filter_map(|name| name.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok())
        .collect()
}

/// Parses a line of /proc/net/tcp: number, local, remote, state, queues, timer, ..., inode.
fn socket(line: &str) -> Option<Socket> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    Some(Socket {
        local: address(fields.get(1)?)?,
        remote: address(fields.get(2)?)?,
        listens: *fields.get(3)? == "0A",
        queued: usize::from_str_radix(fields.get(4)?.split_once(':')?.1, 16).ok()?,
        keepalive: fields.get(5)?.starts_with("02:"),
        retransmits: fields.get(5)?.starts_with("01:"),
        inode: fields.get(9)?.parse().ok()?,
    })
}

/// Parses an address like `0100007F:1F9A`: 32-bit numbers in the machine's byte order, then the port.
fn address(text: &str) -> Option<SocketAddr> {
    let (host, port) = text.split_once(':')?;
    let word = |at: usize| u32::from_str_radix(host.get(at * 8..at * 8 + 8)?, 16).ok();
    let host = if host.len() == 8 {
        IpAddr::from(Ipv4Addr::from(word(0)?.to_ne_bytes()))
    } else {
        let words = [word(0)?, word(1)?, word(2)?, word(3)?].map(u32::to_ne_bytes);
        let bytes: Vec<u8> = words.concat();
        IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?))
    };
    Some(SocketAddr::new(host, u16::from_str_radix(port, 16).ok()?))
}
