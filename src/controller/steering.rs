//! Steering: new connections go to slots that can serve them.
//!
//! A program in the kernel picks a member of a group by a random number. It is attached only while
//! some slot is not healthy; otherwise the kernel's own hash is just as good and costs nothing.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use tracing::{debug, warn};

use crate::process::steering;

/// Time between two attempts to change a group's program after the system has run out of something.
const RETRY: Duration = Duration::from_secs(1);

/// The programs of the groups, as far as they are known.
#[derive(Debug, Default)]
pub(super) struct Steering {
    groups: BTreeMap<SocketAddr, Group>,
    /// The kernel has no way to detach a program (Linux before 5.3).
    cannot_detach: bool,
    /// The kernel has no programs, or forbids them.
    off: bool,
}

/// One group.
#[derive(Debug, Default)]
struct Group {
    program: Program,
    /// The last attempt failed; time of the next one.
    retry_at: Option<Instant>,
}

/// What chooses among the members of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Program {
    /// The kernel's hash: no program is attached.
    #[default]
    None,
    /// Whatever the former image has attached, if anything.
    Unknown,
    /// A program that picks one of these positions. Without any, the kernel's hash chooses.
    Among(Vec<u16>),
}

/// A system call.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Attach(Vec<u16>),
    Detach,
}

/// What a failed system call means for steering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    /// Programs cannot be attached here.
    Off,
    /// Programs cannot be detached here.
    NoDetach,
    /// The first failure in a row; there will be another attempt.
    Later,
    /// Another failure of that kind.
    StillNot,
}

impl Steering {
    /// Steering of an image that has taken these groups over.
    pub(super) fn of(groups: impl IntoIterator<Item = SocketAddr>) -> Self {
        let unknown = || Group { program: Program::Unknown, retry_at: None };
        let groups = groups.into_iter().map(|address| (address, unknown())).collect();
        Self { groups, ..Self::default() }
    }

    /// Gives the new connections of a group to these positions; `None` for all of them. `member` is
    /// any listening member.
    pub(super) fn steer(
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
            let failure = self.note(address, step, error.as_ref(), now);
            if let Some((failure, error)) = failure.zip(error) {
                log(failure, &error);
            }
        }
    }

    /// The next system call that brings a group closer to `wanted`, the positions that get new
    /// connections; `None` for all of them.
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

    /// Notes how a step went: the error of the system call, or none.
    fn note(
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
                Some(if again { Failure::StillNot } else { Failure::Later })
            }
        }
    }
}

fn log(failure: Failure, error: &io::Error) {
    let what = "cannot steer connections away from workers in trouble";
    match failure {
        Failure::Off => warn!("{what}: {error}"),
        Failure::Later => warn!("{what}, trying again: {error}"),
        Failure::StillNot => debug!("{what}: {error}"),
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

    /// Lets steering do all it wants at `now`, on a kernel that answers `errno` to a step; returns the
    /// steps.
    fn steps(
        steering: &mut Steering,
        wanted: Option<&[u16]>,
        now: Instant,
        errno: impl Fn(&Step) -> Option<i32>,
    ) -> Vec<String> {
        let mut steps = Vec::new();
        while let Some(step) = steering.next(address(), wanted, now) {
            steps.push(format!("{step:?}"));
            assert!(steps.len() < 5, "it comes to an end: {steps:?}");
            let error = errno(&step).map(io::Error::from_raw_os_error);
            steering.note(address(), step, error.as_ref(), now);
        }
        steps
    }

    /// What Linux before 5.3 answers.
    fn old_kernel(step: &Step) -> Option<i32> {
        (*step == Step::Detach).then_some(libc::ENOPROTOOPT)
    }

    #[test]
    fn a_program_is_attached_in_trouble_and_detached_afterwards() {
        let (mut steering, now) = (Steering::default(), Instant::now());
        let mut steps = |wanted| steps(&mut steering, wanted, now, |_| None);
        assert!(steps(HEALTHY).is_empty(), "nothing is attached");
        assert_eq!(steps(TROUBLE), ["Attach([0, 2])"]);
        assert!(steps(TROUBLE).is_empty());
        assert_eq!(steps(Some(&[1])), ["Attach([1])"]);
        assert_eq!(steps(HEALTHY), ["Detach"]);
        assert!(steps(HEALTHY).is_empty());
    }

    #[test]
    fn what_a_former_image_has_attached_is_detached() {
        let (mut steering, now) = (Steering::of([address()]), Instant::now());
        assert_eq!(steps(&mut steering, HEALTHY, now, |_| None), ["Detach"]);
        let mut steering = Steering::of([address()]);
        assert_eq!(steps(&mut steering, TROUBLE, now, |_| None), ["Attach([0, 2])"]);
    }

    #[test]
    fn where_nothing_can_be_detached_a_program_leaves_it_to_the_hash() {
        let (mut steering, now) = (Steering::default(), Instant::now());
        let mut steps = |wanted| steps(&mut steering, wanted, now, old_kernel);
        assert!(steps(HEALTHY).is_empty());
        assert_eq!(steps(TROUBLE), ["Attach([0, 2])"]);
        assert_eq!(steps(HEALTHY), ["Detach", "Attach([])"]);
        assert!(steps(HEALTHY).is_empty());
        assert_eq!(steps(TROUBLE), ["Attach([0, 2])"]);
        assert_eq!(steps(HEALTHY), ["Attach([])"], "once is enough to learn it");
    }

    #[test]
    fn out_of_memory_it_tries_again_after_a_while() {
        let (mut steering, now) = (Steering::default(), Instant::now());
        let no_memory = |_: &Step| Some(libc::ENOMEM);
        assert_eq!(steps(&mut steering, TROUBLE, now, no_memory), ["Attach([0, 2])"]);
        assert!(steps(&mut steering, TROUBLE, now, no_memory).is_empty(), "not at once");
        let later = now + RETRY;
        assert_eq!(steps(&mut steering, TROUBLE, later, |_| None), ["Attach([0, 2])"]);
        assert_eq!(steps(&mut steering, HEALTHY, later, |_| None), ["Detach"]);
    }

    #[test]
    fn a_row_of_failures_is_one_warning() {
        let (mut steering, now) = (Steering::default(), Instant::now());
        let mut fail = |errno: Option<i32>| {
            let error = errno.map(io::Error::from_raw_os_error);
            steering.note(address(), Step::Attach(vec![1]), error.as_ref(), now)
        };
        assert_eq!(fail(Some(libc::ENOMEM)), Some(Failure::Later));
        assert_eq!(fail(Some(libc::ENOMEM)), Some(Failure::StillNot));
        assert_eq!(fail(None), None);
        assert_eq!(fail(Some(libc::ENOMEM)), Some(Failure::Later));
    }

    #[test]
    fn only_a_refusal_for_good_switches_it_off() {
        let now = Instant::now();
        for errno in [libc::ENOPROTOOPT, libc::EPERM, libc::EINVAL] {
            let mut steering = Steering::default();
            assert_eq!(steps(&mut steering, TROUBLE, now, |_| Some(errno)).len(), 1);
            let much_later = now + 1000 * RETRY;
            assert!(steps(&mut steering, TROUBLE, much_later, |_| None).is_empty());
        }
    }
}
