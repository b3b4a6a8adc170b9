//! The descriptor table: its limits, and closing inherited descriptors.

use std::io;
use std::os::fd::RawFd;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Limits of open descriptors (`RLIMIT_NOFILE`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Limit in force.
    pub soft: u64,
    /// Maximum of the soft limit.
    pub hard: u64,
}

/// Returns the limits of this process.
///
/// # Errors
/// None in practice.
pub(crate) fn limits() -> io::Result<Limits> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(Limits { soft, hard })
}

/// Raises the soft limit to the hard limit and returns it.
///
/// # Errors
/// None in practice: this needs no privilege.
pub(crate) fn raise_limit() -> io::Result<u64> {
    let Limits { soft, hard } = limits()?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}

/// Closes all descriptors from 3 on except those in `keep`.
///
/// Only for a process that was just forked and ends by `_exit`: values that own a closed descriptor must
/// not be dropped afterwards.
pub(crate) fn close_all_but(keep: &[RawFd]) {
    let mut keep: Vec<u32> = keep.iter().filter_map(|&fd| u32::try_from(fd).ok()).collect();
    keep.sort_unstable();
    let mut next = 3;
    for fd in keep {
        if fd > next {
            close_range(next, fd - 1);
        }
        next = next.max(fd + 1);
    }
    close_range(next, u32::MAX);
}

fn close_range(first: u32, last: u32) {
    // SAFETY: by the contract of `close_all_but` these descriptors are not used again.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    if done == 0 {
        return;
    }
    // Before Linux 5.9: close the open ones one by one.
    let open = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let numbers: Vec<u32> =
        open.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for number in numbers.into_iter().filter(|number| (first..=last).contains(number)) {
        // SAFETY: as above.
        unsafe { libc::close(number as RawFd) };
    }
}
