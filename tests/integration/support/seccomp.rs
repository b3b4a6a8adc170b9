//! Simulation of older kernels: a seccomp filter that makes one socket option fail.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use libc::{
    BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP,
    SECCOMP_MODE_FILTER, SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO, SYS_setsockopt, c_int, sock_filter,
    sock_fprog,
};

/// Socket option that the filter rejects, and the error number it returns.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refusal {
    pub(crate) level: c_int,
    pub(crate) option: c_int,
    pub(crate) errno: c_int,
}

impl Refusal {
    /// Returns the filter program: each of three checks jumps to the last instruction if it fails.
    fn filter(self) -> Vec<sock_filter> {
        // Offsets in `struct seccomp_data`: the call's number, then from 16 on its arguments.
        let (number, level, option) = (0, 24 + 4 * HIGH_FIRST, 32 + 4 * HIGH_FIRST);
        let load = |offset| statement(BPF_LD | BPF_W | BPF_ABS, offset);
        let check =
            |value: u32, jf| sock_filter { jf, ..statement(BPF_JMP | BPF_JEQ | BPF_K, value) };
        vec![
            load(number),
            check(SYS_setsockopt as u32, 5),
            load(level),
            check(self.level as u32, 3),
            load(option),
            check(self.option as u32, 1),
            statement(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | self.errno as u32),
            statement(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        ]
    }

    /// Installs the filter in the process that `command` starts and in its descendants.
    pub(crate) fn install(self, command: &mut Command) {
        let mut filter = self.filter();
        let install = move || {
            let program = sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
            // SAFETY: prctl(2) copies the program, which outlives both calls.
            let done = unsafe {
                libc::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
                    && libc::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &raw const program) == 0
            };
            if done { Ok(()) } else { Err(io::Error::last_os_error()) }
        };
        // SAFETY: the closure makes two system calls and allocates nothing.
        unsafe { command.pre_exec(install) };
    }
}

/// Index of the lower half of a 64-bit argument: 1 on big-endian machines.
const HIGH_FIRST: u32 = cfg!(target_endian = "big") as u32;

fn statement(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}
