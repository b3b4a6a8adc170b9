//! Steering: distributing new connections among some members of a `SO_REUSEPORT` group.
//!
//! By default the kernel distributes them over all members by a hash, whether a process accepts there or
//! not. A classic BPF program, which needs no privilege, selects among some members instead (socket(7),
//! `SO_ATTACH_REUSEPORT_CBPF`). It runs once per connection, at the SYN; existing and queued connections
//! stay.
//!
//! Members have positions in the group, which change (net/core/sock_reuseport.c):
//!
//! * A socket joins at the end when any process calls listen(2) on it for the first time; bind(2) does not
//!   count.
//! * When the last descriptor of a listener is closed, in any process, the last member of the group moves
//!   to its position; the others stay. shutdown(2) has the same effect.
//! * Each address has its own group.
//! * If a program returns a position without a member, the kernel uses its hash. So an outdated program
//!   affects the balance, but loses no connection.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use libc::{
    BPF_A, BPF_ABS, BPF_ADD, BPF_ALU, BPF_JGE, BPF_JMP, BPF_K, BPF_LD, BPF_MOD, BPF_RET, BPF_W,
    SKF_AD_OFF, SKF_AD_RANDOM, c_int, sock_filter,
};
use nix::errno::Errno;
use socket2::{Domain, SockRef, Socket, Type};

/// Maximum number of members for [`steer`]: their program is within the socket's memory limit even if
/// `net.core.optmem_max` is 20 KiB and there are gaps between all of them.
pub(crate) const MOST_MEMBERS: usize = 1024;

/// A position that no member has.
const NO_MEMBER: u32 = u32::MAX;

/// `SO_DETACH_REUSEPORT_BPF` (asm-generic/socket.h), which libc does not have.
const DETACH_REUSEPORT_BPF: c_int = 68;

/// Returns a program that gives each of `members`, positions in the group from 0, the same share of new
/// connections at random. Order and duplicates do not matter. Without members the kernel's hash decides.
///
/// The program draws the index of a member and turns it into a position by skipping the gaps between the
/// members: 3 instructions, and 2 for each gap.
pub(crate) fn program(members: &[u16]) -> Vec<sock_filter> {
    let members: BTreeSet<u32> = members.iter().copied().map(u32::from).collect();
    if members.is_empty() {
        // The kernel rejects a division by zero.
        return vec![instruction(BPF_RET | BPF_K, NO_MEMBER)];
    }
    let random = (SKF_AD_OFF + SKF_AD_RANDOM) as u32;
    let mut program = vec![
        instruction(BPF_LD | BPF_W | BPF_ABS, random),
        instruction(BPF_ALU | BPF_MOD | BPF_K, members.len() as u32),
    ];
    let mut next = 0;
    for member in members {
        if member > next {
            // Before the gap: skip the next instruction.
            program.push(sock_filter { jf: 1, ..instruction(BPF_JMP | BPF_JGE | BPF_K, next) });
            program.push(instruction(BPF_ALU | BPF_ADD | BPF_K, member - next));
        }
        next = member + 1;
    }
    program.push(instruction(BPF_RET | BPF_A, 0));
    program
}

fn instruction(code: u32, k: u32) -> sock_filter {
    // An operation code is eight bits in a field of 16.
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

/// Distributes the new connections of a group among `members`, positions in the group from 0, at random.
///
/// `group` is any listening member, or a duplicate of it in another process. Replaces a former program
/// atomically. Takes about 10 µs, for 1024 members with gaps between all of them 0.6 ms.
///
/// # Errors
/// `InvalidInput` for more than [`MOST_MEMBERS`], and for a socket that does not listen: the kernel would
/// accept the program without effect, and listen(2) would fail with `EADDRINUSE` from then on. `EINVAL`
/// for a listener without `SO_REUSEPORT`, `ENOPROTOOPT` or `EPERM` without BPF: sandboxes, Linux before
/// 4.6.
pub(crate) fn steer(group: BorrowedFd<'_>, members: &[u16]) -> io::Result<()> {
    if members.len() > MOST_MEMBERS {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many members to steer to"));
    }
    if !SockRef::from(&group).is_listener()? {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "only a listener can be steered"));
    }
    let mut program = program(members);
    // The kernel copies the program before the call returns.
    let handed =
        Program { len: program.len() as u16, padding: [0; 3], filter: program.as_mut_ptr() };
    set_option(group, libc::SO_ATTACH_REUSEPORT_CBPF, &handed)
}

/// `struct sock_fprog` of the kernel. The padding is explicit, as the kernel reads it, too.
#[repr(C)]
struct Program {
    len: u16,
    padding: [u16; 3],
    filter: *mut sock_filter,
}

fn set_option<T>(socket: BorrowedFd<'_>, option: c_int, value: &T) -> io::Result<()> {
    // SAFETY: the descriptor is open as long as it is borrowed, and the pointer and the length are
    // those of a value that outlives the call.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    Ok(Errno::result(done).map(drop)?)
}

/// Removes the program of a group, if there is one: the kernel's hash distributes over all members.
///
/// `group` is any listening member.
///
/// # Errors
/// `EINVAL` for a socket without `SO_REUSEPORT`, `ENOPROTOOPT` before Linux 5.3: there, [`steer`] to
/// no member has the same effect.
pub(crate) fn unsteer(group: BorrowedFd<'_>) -> io::Result<()> {
    // The kernel wants a value and ignores it.
    match set_option(group, DETACH_REUSEPORT_BPF, &0) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        done => done,
    }
}

/// Checks that steering works on this system, with a group that is not used otherwise.
///
/// # Errors
/// Those of [`steer`] and of listen(2).
pub(crate) fn probe() -> io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    // In a new network namespace even the loopback has no address yet.
    let _ = socket.set_freebind_v4(true);
    socket.set_reuse_port(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    socket.listen(1)?;
    steer(socket.as_fd(), &[0])
}

#[cfg(test)]
#[path = "steering_tests.rs"]
mod tests;
