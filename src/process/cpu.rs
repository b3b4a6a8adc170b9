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
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this)?;
    let cpus: Vec<usize> =
        (0..CpuSet::count()).filter(|&cpu| allowed.is_set(cpu).unwrap_or(false)).collect();
    let cpu = pick(&cpus, slot).ok_or(io::ErrorKind::NotFound)?;
    let mut wanted = CpuSet::new();
    wanted.set(cpu)?;
    sched_setaffinity(this, &wanted)?;
    Ok(cpu)
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
