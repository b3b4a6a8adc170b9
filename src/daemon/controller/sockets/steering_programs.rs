//! Steering programs: attached to groups, they keep new connections away from workers that hang, crash,
//! or are about to be replaced. `queues::steering` decides who gets the connections.
//!
//! A program in the kernel selects a random member of a `SO_REUSEPORT` group among those with a
//! healthy worker. It is attached only while some slot is unhealthy; otherwise the kernel's hash is
//! as good and costs nothing.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use tracing::{debug, warn};

use crate::daemon::ids::SlotId;
use crate::sys::steering;

/// Time between two attempts to change a group's program after the system has run out of something.
const RETRY: Duration = Duration::from_secs(1);

// One program can select among all workers.
const _: () = assert!(steering::MOST_MEMBERS >= SlotId::MAX.0 as usize);

/// Steering programs of the groups.
#[derive(Debug, Default)]
pub(crate) struct SteeringPrograms {
    groups: BTreeMap<SocketAddr, Group>,
    /// `true` if the kernel cannot detach a program (Linux before 5.3).
    cannot_detach: bool,
    /// `true` if the kernel has no programs or forbids them.
    off: bool,
}

/// State of a group.
#[derive(Debug, Default)]
struct Group {
    program: Program,
    /// The last attempt failed; time of the next one.
    retry_at: Option<Instant>,
}

/// Program that selects among the members of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Program {
    /// The kernel's hash: no program is attached.
    #[default]
    None,
    /// The previous image may have attached any program.
    Unknown,
    /// A program selects one of these positions. Without any, it leaves the choice to the kernel's
    /// hash.
    Among(Vec<u16>),
}

/// System call that changes a group's program.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Attach(Vec<u16>),
    Detach,
}

/// Consequence of a failed system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    /// Programs cannot be attached on this machine.
    Off,
    /// Programs cannot be detached on this machine.
    NoDetach,
    /// First failure in a row; the attempt is repeated.
    Later,
    /// Repeated failure.
    StillFailing,
}

impl SteeringPrograms {
    /// Returns the programs of an image that has restored these groups.
    pub(crate) fn of(groups: impl IntoIterator<Item = SocketAddr>) -> Self {
        let unknown = || Group { program: Program::Unknown, retry_at: None };
        let groups = groups.into_iter().map(|address| (address, unknown())).collect();
        Self { groups, ..Self::default() }
    }

    /// Steers the new connections of a group to these positions; `None` means all. `member` is any
    /// listening member.
    pub(crate) fn steer(
        &mut self,
        address: SocketAddr,
        member: BorrowedFd<'_>,
        wanted: Option<&[u16]>,
    ) {
        let now = Instant::now();
        while let Some(step) = self.next(address, wanted, now) {
            let done = match &step {
                Step::Attach(positions) => steering::steer(member, positions),
                Step::Detach => steering::unsteer(member),
            };
            let error = done.err();
            if error.is_none() {
                debug!(%address, ?step, "steering");
            }
            let failure = self.record_result(address, step, error.as_ref(), now);
            if let Some((failure, error)) = failure.zip(error) {
                log(failure, &error);
            }
        }
    }

    /// Returns the next system call that brings a group closer to `wanted`, the positions that get
    /// new connections; `None` means all.
    fn next(&self, address: SocketAddr, wanted: Option<&[u16]>, now: Instant) -> Option<Step> {
        let group = self.groups.get(&address);
        let is_early = group.and_then(|group| group.retry_at).is_some_and(|at| now < at);
        if self.off || is_early {
            return None;
        }
        match (wanted, group.map_or(&Program::None, |group| &group.program)) {
            (Some(wanted), Program::Among(positions)) if positions == wanted => None,
            (Some(wanted), _) => Some(Step::Attach(wanted.to_vec())),
            (None, Program::None) => None,
            (None, Program::Among(positions)) if positions.is_empty() => None,
            (None, _) if self.cannot_detach => Some(Step::Attach(Vec::new())),
            (None, _) => Some(Step::Detach),
        }
    }

    /// Records the result of a step, and returns the consequence of a failure.
    fn record_result(
        &mut self,
        address: SocketAddr,
        step: Step,
        error: Option<&io::Error>,
        now: Instant,
    ) -> Option<Failure> {
        let group = self.groups.entry(address).or_default();
        let again = group.retry_at.take().is_some();
        let Some(error) = error else {
            group.program = match step {
                Step::Attach(positions) => Program::Among(positions),
                Step::Detach => Program::None,
            };
            return None;
        };
        match (step, error.raw_os_error()) {
            (Step::Detach, _) => {
                self.cannot_detach = true;
                Some(Failure::NoDetach)
            }
            (_, Some(libc::ENOPROTOOPT | libc::EPERM | libc::EINVAL)) => {
                self.off = true;
                Some(Failure::Off)
            }
            _ => {
                group.retry_at = Some(now + RETRY);
                Some(if again { Failure::StillFailing } else { Failure::Later })
            }
        }
    }
}

fn log(failure: Failure, error: &io::Error) {
    let what = "cannot steer connections away from unhealthy workers";
    match failure {
        Failure::Off => warn!("{what}: {error}"),
        Failure::Later => warn!("{what}, trying again: {error}"),
        Failure::StillFailing => debug!("{what}: {error}"),
        Failure::NoDetach => debug!("cannot detach a steering program: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEALTHY: Option<&[u16]> = None;
    const TROUBLE: Option<&[u16]> = Some(&[0, 2]);

    fn address() -> SocketAddr {
        ([127, 0, 0, 1], 8090).into()
    }

    /// Carries out all steps at `now` on a kernel that answers `errno` to a step, and returns them.
    fn steps(
        steering: &mut SteeringPrograms,
        wanted: Option<&[u16]>,
        now: Instant,
        errno: impl Fn(&Step) -> Option<i32>,
    ) -> Vec<String> {
        let mut steps = Vec::new();
        while let Some(step) = steering.next(address(), wanted, now) {
            steps.push(format!("{step:?}"));
            assert!(steps.len() < 5, "it comes to an end: {steps:?}");
            let error = errno(&step).map(io::Error::from_raw_os_error);
            steering.record_result(address(), step, error.as_ref(), now);
        }
        steps
    }

    /// Returns the answer of Linux before 5.3.
    fn old_kernel(step: &Step) -> Option<i32> {
        (*step == Step::Detach).then_some(libc::ENOPROTOOPT)
    }

    #[test]
    fn a_program_is_attached_in_trouble_and_detached_afterwards() {
        let (mut steering, now) = (SteeringPrograms::default(), Instant::now());
        let mut steps = |wanted| steps(&mut steering, wanted, now, |_| None);
        assert!(steps(HEALTHY).is_empty(), "nothing is attached");
        assert_eq!(steps(TROUBLE), ["Attach([0, 2])"]);
        assert!(steps(TROUBLE).is_empty());
        assert_eq!(steps(Some(&[1])), ["Attach([1])"]);
        assert_eq!(steps(HEALTHY), ["Detach"]);
        assert!(steps(HEALTHY).is_empty());
    }

    #[test]
    fn a_program_of_the_previous_image_is_detached() {
        let (mut steering, now) = (SteeringPrograms::of([address()]), Instant::now());
        assert_eq!(steps(&mut steering, HEALTHY, now, |_| None), ["Detach"]);
        let mut steering = SteeringPrograms::of([address()]);
        assert_eq!(steps(&mut steering, TROUBLE, now, |_| None), ["Attach([0, 2])"]);
    }

    #[test]
    fn without_detach_a_program_defers_to_the_hash() {
        let (mut steering, now) = (SteeringPrograms::default(), Instant::now());
        let mut steps = |wanted| steps(&mut steering, wanted, now, old_kernel);
        assert!(steps(HEALTHY).is_empty());
        assert_eq!(steps(TROUBLE), ["Attach([0, 2])"]);
        assert_eq!(steps(HEALTHY), ["Detach", "Attach([])"]);
        assert!(steps(HEALTHY).is_empty());
        assert_eq!(steps(TROUBLE), ["Attach([0, 2])"]);
        assert_eq!(steps(HEALTHY), ["Attach([])"], "once is enough to learn it");
    }

    #[test]
    fn a_failure_for_lack_of_memory_is_retried() {
        let (mut steering, now) = (SteeringPrograms::default(), Instant::now());
        let no_memory = |_: &Step| Some(libc::ENOMEM);
        assert_eq!(steps(&mut steering, TROUBLE, now, no_memory), ["Attach([0, 2])"]);
        assert!(steps(&mut steering, TROUBLE, now, no_memory).is_empty(), "not at once");
        let later = now + RETRY;
        assert_eq!(steps(&mut steering, TROUBLE, later, |_| None), ["Attach([0, 2])"]);
        assert_eq!(steps(&mut steering, HEALTHY, later, |_| None), ["Detach"]);
    }

    #[test]
    fn repeated_failures_log_one_warning() {
        let (mut steering, now) = (SteeringPrograms::default(), Instant::now());
        let mut fail = |errno: Option<i32>| {
            let error = errno.map(io::Error::from_raw_os_error);
            steering.record_result(address(), Step::Attach(vec![1]), error.as_ref(), now)
        };
        assert_eq!(fail(Some(libc::ENOMEM)), Some(Failure::Later));
        assert_eq!(fail(Some(libc::ENOMEM)), Some(Failure::StillFailing));
        assert_eq!(fail(None), None);
        assert_eq!(fail(Some(libc::ENOMEM)), Some(Failure::Later));
    }

    #[test]
    fn only_a_permanent_error_disables_steering() {
        let now = Instant::now();
        for errno in [libc::ENOPROTOOPT, libc::EPERM, libc::EINVAL] {
            let mut steering = SteeringPrograms::default();
            assert_eq!(steps(&mut steering, TROUBLE, now, |_| Some(errno)).len(), 1);
            let much_later = now + 1000 * RETRY;
            assert!(steps(&mut steering, TROUBLE, much_later, |_| None).is_empty());
        }
    }
}
