//! The descriptor table: its limit, and closing what a new process must not keep.

use std::io;
use std::os::fd::RawFd;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// How many descriptors a process may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// What holds now.
    pub soft: u64,
    /// What a process may raise it to.
    pub hard: u64,
}

/// This process's limits of open descriptors.
///
/// # Errors
/// None in practice.
pub fn limits() -> io::Result<Limits> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(Limits { soft, hard })
}

/// Raises the soft limit of open descriptors to the hard one and returns it.
///
/// # Errors
/// None in practice: raising up to the hard limit needs no privilege.
pub fn raise_limit() -> io::Result<u64> {
    let Limits { soft, hard } = limits()?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}

/// Closes every descriptor from 3 on, but for those in `keep`.
///
/// For a process that has just been forked and leaves by `_exit`: whatever it inherited and does not
/// name is gone, whoever opened it. Values that own such a descriptor must not be dropped afterwards.
pub fn close_all_but(keep: &[RawFd]) {
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
    // SAFETY: by the contract of `close_all_but` nobody uses these descriptors again.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    if done == 0 {
        return;
    }
    // Before Linux 5.9: one by one, those that are open.
    let open = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let numbers: Vec<u32> =
        open.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for number in numbers.into_iter().filter(|number| (first..=last).contains(number)) {
        // SAFETY: as above.
        unsafe { libc::close(number as RawFd) };
    }
}
