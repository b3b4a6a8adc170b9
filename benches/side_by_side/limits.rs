//! Limits of the machine that very many connections need, checked before anything starts.

use std::fs;
use std::sync::{Mutex, PoisonError};

use nix::unistd::geteuid;

use crate::environment::{Environment, setting};
use crate::idle::CONNECTIONS_PER_ADDRESS;
use crate::proc;

const FILE_MAX: &str = "/proc/sys/fs/file-max";
/// Open files other than connections.
const OTHER_FILES: u64 = 50_000;
/// Memory of both ends of a connection in bytes, in the kernel and in processes.
const BYTES: f64 = 10_500.0;
/// Memory in bytes to leave to other processes.
const SPARE_BYTES: f64 = 1.5e9;

/// Value of `fs.file-max` to restore.
static ORIGINAL: Mutex<Option<String>> = Mutex::new(None);

/// Checks that `workers` workers can have `count` connections. If only `fs.file-max` is too low, raises it
/// and prints a line.
///
/// # Errors
/// One line with the limit and what to do.
pub(crate) fn check(count: u64, workers: u64, machine: &Environment) -> Result<Restore, String> {
    // The kernel distributes connections by hash, so some workers get more than the mean.
    let mean = count as f64 / workers as f64;
    let share = (mean + 6.0 * mean.sqrt()) as u64 + 500;
    if share > machine.descriptors {
        return Err(format!(
            "a worker of {workers} needs {share} descriptors; RLIMIT_NOFILE is {}",
            machine.descriptors
        ));
    }
    let watches = number("/proc/sys/fs/epoll/max_user_watches")?;
    if count > watches {
        return Err(format!("fs.epoll.max_user_watches is {watches}: raise it above {count}"));
    }
    let ports = ports();
    if ports < 2 * CONNECTIONS_PER_ADDRESS {
        let least = 2 * CONNECTIONS_PER_ADDRESS;
        return Err(format!("net.ipv4.ip_local_port_range has {ports} ports, needed are {least}"));
    }
    let free = proc::meminfo("MemAvailable");
    let needed = count as f64 * BYTES + SPARE_BYTES;
    if free < needed {
        let gib = |bytes: f64| bytes / f64::from(1 << 30);
        return Err(format!(
            "{count} connections need {:.1} GiB of memory; {:.1} GiB are free",
            gib(needed),
            gib(free)
        ));
    }
    raise_files(2 * count + OTHER_FILES)
}

/// Restores `fs.file-max` on drop.
#[derive(Debug)]
pub(crate) struct Restore(());

impl Drop for Restore {
    fn drop(&mut self) {
        restore();
    }
}

/// Both ends of a connection are open files of this machine.
fn raise_files(needed: u64) -> Result<Restore, String> {
    let limit = number(FILE_MAX)?;
    if limit >= needed {
        return Ok(Restore(()));
    }
    let refusal =
        format!("fs.file-max is {limit}, needed are {needed}: sysctl -w fs.file-max={needed}");
    if !geteuid().is_root() {
        return Err(refusal);
    }
    *ORIGINAL.lock().unwrap_or_else(PoisonError::into_inner) = Some(limit.to_string());
    let raised = Restore(());
    fs::write(FILE_MAX, needed.to_string()).map_err(|error| format!("{refusal} ({error})"))?;
    println!("fs.file-max is raised from {limit} to {needed} and will be restored");
    Ok(raised)
}

/// Restores `fs.file-max` if it was raised.
pub(crate) fn restore() {
    if let Some(value) = ORIGINAL.lock().unwrap_or_else(PoisonError::into_inner).take() {
        match fs::write(FILE_MAX, &value) {
            Ok(()) => println!("fs.file-max is {value} again"),
            Err(error) => eprintln!("side_by_side: fs.file-max was {value}: {error}"),
        }
    }
}

fn number(path: &str) -> Result<u64, String> {
    let text = setting(path);
    text.parse().map_err(|_| format!("{path} holds no number: {text}"))
}

/// Returns the number of ports of a client per server and source address.
fn ports() -> u64 {
    let range = setting("/proc/sys/net/ipv4/ip_local_port_range");
    let mut ends = range.split_whitespace().filter_map(|word| word.parse::<u64>().ok());
    match (ends.next(), ends.next()) {
        (Some(low), Some(high)) => high.saturating_sub(low) + 1,
        _ => 0,
    }
}
