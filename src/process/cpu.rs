//! Which CPUs this process may use, and pinning to one of them.

use std::io;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// Pins this process to one of the CPUs it may use: worker `slot` (1..) gets the `slot`th, round and
/// round. Returns the CPU's number.
///
/// # Errors
/// Those of sched_setaffinity(2): `EINVAL` when a cpuset took the CPU away in the meantime.
pub fn pin(slot: u32) -> io::Result<usize> {
    let cpu = pick(&allowed()?, slot).ok_or(io::ErrorKind::NotFound)?;
    let mut wanted = CpuSet::new();
    wanted.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &wanted)?;
    Ok(cpu)
}

/// The numbers of the CPUs that this process may use; a quota of time does not count.
///
/// # Errors
/// Those of sched_getaffinity(2): `EINVAL` on a machine with more than 1024 CPUs.
pub fn allowed() -> io::Result<Vec<usize>> {
    let allowed = sched_getaffinity(Pid::from_raw(0))?;
    Ok((0..CpuSet::count()).filter(|&cpu| allowed.is_set(cpu).unwrap_or(false)).collect())
}

fn pick(cpus: &[usize], slot: u32) -> Option<usize> {
    let turn = usize::try_from(slot.saturating_sub(1)).ok()?;
    cpus.get(turn.checked_rem(cpus.len())?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_take_the_allowed_cpus_in_turn() {
        assert_eq!(pick(&[2, 5], 1), Some(2));
        assert_eq!(pick(&[2, 5], 2), Some(5));
        assert_eq!(pick(&[2, 5], 3), Some(2));
        assert_eq!(pick(&[], 1), None);
    }
}
