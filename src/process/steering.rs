//! Steering: which members of a `SO_REUSEPORT` group get the new connections.
//!
//! Without it the kernel spreads them over all members by a hash, whether anybody accepts there or
//! not. A classic BPF program, which needs no privilege, chooses among some of them instead
//! (socket(7), `SO_ATTACH_REUSEPORT_CBPF`). It chooses once for each connection, when it begins;
//! those that exist or are queued already stay where they are.
//!
//! A member is named by its place in the group, and places move (net/core/sock_reuseport.c):
//!
//! * A socket joins at the end when listen(2) is called, by whichever process; bind(2) does not
//!   count, nor does a second listen(2).
//! * When the last descriptor of a listener is closed, in any process, the last member of the group
//!   moves into its place; the others stay. shutdown(2) does the same to it.
//! * Each address has a group of its own.
//! * A program that names a place that nobody has leaves the choice to the kernel's hash, so a
//!   program that is a moment behind the group costs balance, never a connection.

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

/// The most members [`steer`] takes: their program fits into what the kernel grants a socket even
/// where `net.core.optmem_max` is 20 KiB, and each of them may stand alone.
pub const MOST_MEMBERS: usize = 1024;

/// No group is so large.
const NOBODY: u32 = u32::MAX;

/// `SO_DETACH_REUSEPORT_BPF` (asm-generic/socket.h), which libc does not have.
const DETACH_REUSEPORT_BPF: c_int = 68;

/// The program that gives each of `members`, places in the group from 0, the same share of the new
/// connections, by a random number. Their order does not matter, nor does it matter when one is
/// named twice; if there are none the kernel's hash chooses.
///
/// It numbers the members from 0, picks one, and makes its number a place by skipping the gaps
/// between the members: 3 instructions, and 2 for each gap.
pub fn program(members: &[u16]) -> Vec<sock_filter> {
    let members: BTreeSet<u32> = members.iter().copied().map(u32::from).collect();
    if members.is_empty() {
        // A division by none would be refused.
        return vec![instruction(BPF_RET | BPF_K, NOBODY)];
    }
    let random = (SKF_AD_OFF + SKF_AD_RANDOM) as u32;
    let mut program = vec![
        instruction(BPF_LD | BPF_W | BPF_ABS, random),
        instruction(BPF_ALU | BPF_MOD | BPF_K, members.len() as u32),
    ];
    let mut next = 0;
    for member in members {
        if member > next {
            // Short of the gap: over the next instruction.
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

/// Gives all new connections of a group to `members`, places in the group from 0, by a random
/// number.
///
/// `group` is any listening member; a duplicate in another process than the one that accepts does
/// as well. Replaces what was steered before in one step: no connection falls in between. Costs
/// some 10 µs, and 0.6 ms for 1024 members that all stand alone.
///
/// # Errors
/// `InvalidInput` for more than [`MOST_MEMBERS`], and for a socket that does not listen: the kernel
/// would take the program, steer nothing by it, and never let that socket join its group (listen(2)
/// fails with `EADDRINUSE`). `EINVAL` for a listener without `SO_REUSEPORT`, `ENOPROTOOPT` or
/// `EPERM` where there is no BPF: sandboxes, Linux before 4.6.
pub fn steer(group: BorrowedFd<'_>, members: &[u16]) -> io::Result<()> {
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

/// The kernel's `struct sock_fprog`, with its padding spelled out: it is handed over too.
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

/// Lets the kernel's hash choose among all members again. Fine if it already does.
///
/// `group` is any listening member.
///
/// # Errors
/// `EINVAL` for a socket without `SO_REUSEPORT`, `ENOPROTOOPT` before Linux 5.3: there, [`steer`] to
/// no member at all does the same.
pub fn unsteer(group: BorrowedFd<'_>) -> io::Result<()> {
    // The kernel wants a value and ignores it.
    match set_option(group, DETACH_REUSEPORT_BPF, &0) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        done => done,
    }
}

/// Whether steering works here: tries it on a group of its own, which nobody is told of.
///
/// # Errors
/// Those of [`steer`], and those of listening at all.
pub fn try_out() -> io::Result<()> {
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
