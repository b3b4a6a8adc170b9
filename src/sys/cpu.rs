//! CPU affinity of this process.

use std::io;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// Pins this process to the `number`th of its allowed CPUs, from 1, modulo their count. Returns the number
/// of the CPU.
///
/// # Errors
/// Those of sched_setaffinity(2): `EINVAL` if a cpuset took the CPU away meanwhile.
pub(crate) fn pin(number: u32) -> io::Result<usize> {
    let cpu = pick(&allowed()?, number).ok_or(io::ErrorKind::NotFound)?;
    let mut wanted = CpuSet::new();
    wanted.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &wanted)?;
    Ok(cpu)
}

/// Returns the numbers of the CPUs that this process may use, whatever its cgroup quota.
///
/// # Errors
/// Those of sched_getaffinity(2): `EINVAL` on a machine with more than 1024 CPUs.
pub(crate) fn allowed() -> io::Result<Vec<usize>> {
    let allowed = sched_getaffinity(Pid::from_raw(0))?;
    Ok((0..CpuSet::count()).filter(|&cpu| allowed.is_set(cpu).unwrap_or(false)).collect())
}

fn pick(cpus: &[usize], number: u32) -> Option<usize> {
    let index = usize::try_from(number.saturating_sub(1)).ok()?;
    cpus.get(index.checked_rem(cpus.len())?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allowed_cpus_are_used_in_turn() {
        assert_eq!(pick(&[2, 5], 1), Some(2));
        assert_eq!(pick(&[2, 5], 2), Some(5));
        assert_eq!(pick(&[2, 5], 3), Some(2));
        assert_eq!(pick(&[], 1), None);
    }
}
