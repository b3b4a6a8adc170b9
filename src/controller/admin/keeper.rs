//! Which admin process there is to be: decides, and does nothing.
//!
//! There is one that answers. In a reload it is outdated: it answers until its successor is ready.

use std::time::{Duration, Instant};

use nix::unistd::Pid;

use super::super::backoff::{Backoff, Jitter};

/// How long a process may take from fork to READY.
const BOOT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long one that has a successor may take to end its answers.
pub(super) const RETIRING: Duration = Duration::from_secs(2);
/// What it may overrun that by.
const OVERRUN: Duration = Duration::from_millis(500);
/// How long one may take to end when the daemon does.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// A silence of our own that long says that we, not the admin process, were stopped.
const OWN_SILENCE: Duration = Duration::from_secs(3);
/// Whoever ends it may be ending the whole group, us too, in this moment.
const GROUP_STOP: Duration = Duration::from_millis(50);

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deed {
    /// Fork one, and say [`Keeper::spawned`] or [`Keeper::not_spawned`].
    Spawn,
    /// Tell this one that it has a successor, or is not wanted any more.
    Retire(Pid),
    /// Tell this one to end now.
    Terminate(Pid),
    /// Kill this one, for this reason, if it is not only late.
    Kill(Pid, Option<&'static str>),
}

/// Where a process is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    /// Forked then, not ready.
    Booting(Instant),
    /// Answers; its loop was last seen to turn then.
    Answering { since: Instant, seen: Instant },
    /// Was told to end; killed then.
    Leaving(Instant),
    /// Killed, not reaped.
    Killed,
}

#[derive(Clone, Copy, Debug)]
struct One {
    pid: Pid,
    life: Life,
    outdated: bool,
}

/// The brain.
#[derive(Debug)]
pub(super) struct Keeper {
    wanted: bool,
    all: Vec<One>,
    /// When the next one is to be forked, if one is needed.
    due: Instant,
    backoff: Backoff,
    jitter: Jitter,
    looked: Instant,
}

impl Keeper {
    pub(super) fn new(seed: u64, now: Instant) -> Self {
        let (backoff, jitter) = (Backoff::default(), Jitter::new(seed));
        Self { wanted: false, all: Vec::new(), due: now, backoff, jitter, looked: now }
    }

    /// One that the image before has left.
    pub(super) fn inherit(&mut self, pid: Pid, now: Instant) {
        let life = Life::Answering { since: now, seen: now };
        self.all.push(One { pid, life, outdated: false });
    }

    /// Whether there is to be one.
    pub(super) fn want(&mut self, wanted: bool) {
        self.wanted = wanted;
    }

    /// All that there are have had their time.
    pub(super) fn renew(&mut self) {
        self.all.iter_mut().for_each(|one| one.outdated = true);
    }

    /// The one that counts.
    pub(super) fn current(&self) -> Option<Pid> {
        let answers = |one: &&One| matches!(one.life, Life::Booting(_) | Life::Answering { .. });
        self.all.iter().rfind(answers).map(|one| one.pid)
    }

    /// Whether none is left.
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(super) fn spawned(&mut self, pid: Pid, now: Instant) {
        self.all.push(One { pid, life: Life::Booting(now), outdated: false });
    }

    pub(super) fn not_spawned(&mut self, now: Instant) {
        self.wait(None, now);
    }

    pub(super) fn ready(&mut self, pid: Pid, now: Instant) {
        let life = Life::Answering { since: now, seen: now };
        self.all.iter_mut().filter(|one| one.pid == pid).for_each(|one| one.life = life);
    }

    /// Its loop was last seen to turn `at` then.
    pub(super) fn beat(&mut self, pid: Pid, at: Instant) {
        for one in self.all.iter_mut().filter(|one| one.pid == pid) {
            if let Life::Answering { seen, .. } = &mut one.life {
                *seen = at.max(*seen);
            }
        }
    }

    /// One has ended. Returns how long to wait for the next if it was not meant to, or nothing.
    pub(super) fn ended(&mut self, pid: Pid, by_itself: bool, now: Instant) -> Option<Duration> {
        let index = self.all.iter().position(|one| one.pid == pid)?;
        let One { life, outdated, .. } = self.all.remove(index);
        match life {
            Life::Leaving(_) | Life::Killed => None,
            // Its successor is on its way.
            _ if outdated => Some(Duration::ZERO),
            Life::Booting(_) => Some(self.wait(None, now)),
            Life::Answering { since, .. } => {
                let served = now.saturating_duration_since(since);
                let delay = self.wait(Some(served), now);
                if by_itself {
                    self.due = self.due.max(now + GROUP_STOP);
                }
                Some(delay)
            }
        }
    }

    /// The daemon ends: so do they, soon.
    pub(super) fn end(&mut self, now: Instant) -> Vec<Deed> {
        self.wanted = false;
        let mut deeds = Vec::new();
        for one in &mut self.all {
            let kill_at = now + LAST_WORDS;
            match one.life {
                Life::Killed => {}
                Life::Leaving(earlier) => one.life = Life::Leaving(kill_at.min(earlier)),
                Life::Booting(_) | Life::Answering { .. } => {
                    one.life = Life::Leaving(kill_at);
                    deeds.push(Deed::Terminate(one.pid));
                }
            }
        }
        deeds
    }

    /// What is to be done so that what is becomes what is wanted.
    pub(super) fn settle(&mut self, timeout: Option<Duration>, now: Instant) -> Vec<Deed> {
        let mut deeds = Vec::new();
        self.forgive_own_silence(timeout, now);
        self.kill_the_late(timeout, now, &mut deeds);
        let answers = |one: &One| matches!(one.life, Life::Answering { .. });
        let has_successor = self.all.iter().any(|one| answers(one) && !one.outdated);
        for one in &mut self.all {
            let surplus = one.outdated && has_successor || !self.wanted;
            if surplus && matches!(one.life, Life::Answering { .. } | Life::Booting(_)) {
                one.life = Life::Leaving(now + RETIRING + OVERRUN);
                deeds.push(Deed::Retire(one.pid));
            }
        }
        if self.needs_one() && self.due <= now {
            deeds.push(Deed::Spawn);
        }
        deeds
    }

    /// When something is to be decided.
    pub(super) fn deadline(&self, timeout: Option<Duration>) -> Option<Instant> {
        let lives = self.all.iter().filter_map(|one| match one.life {
            Life::Booting(since) => Some(since + BOOT_TIMEOUT),
            Life::Answering { seen, .. } => timeout.map(|limit| seen + limit),
            Life::Leaving(kill_at) => Some(kill_at),
            Life::Killed => None,
        });
        lives.chain(self.needs_one().then_some(self.due)).min()
    }

    fn needs_one(&self) -> bool {
        let serves = |one: &One| {
            !one.outdated && matches!(one.life, Life::Booting(_) | Life::Answering { .. })
        };
        self.wanted && !self.all.iter().any(serves)
    }

    fn wait(&mut self, served: Option<Duration>, now: Instant) -> Duration {
        let delay = self.backoff.after_failure(served, self.jitter.next());
        self.due = now + delay;
        delay
    }

    fn kill_the_late(&mut self, timeout: Option<Duration>, now: Instant, deeds: &mut Vec<Deed>) {
        for index in 0..self.all.len() {
            let One { pid, life, outdated } = self.all[index];
            let (reason, served) = match life {
                Life::Booting(since) if since + BOOT_TIMEOUT <= now => ("does not get ready", None),
                Life::Answering { since, seen } if timeout.is_some_and(|it| seen + it <= now) => {
                    ("hung", Some(now.saturating_duration_since(since)))
                }
                Life::Leaving(kill_at) if kill_at <= now => {
                    self.all[index].life = Life::Killed;
                    deeds.push(Deed::Kill(pid, None));
                    continue;
                }
                _ => continue,
            };
            self.all[index].life = Life::Killed;
            deeds.push(Deed::Kill(pid, Some(reason)));
            if !outdated {
                self.wait(served, now);
            }
        }
    }

    fn forgive_own_silence(&mut self, timeout: Option<Duration>, now: Instant) {
        let silence = now.saturating_duration_since(self.looked);
        self.looked = now;
        let half = timeout.map_or(OWN_SILENCE, |limit| limit / 2);
        if silence <= OWN_SILENCE.min(half) {
            return;
        }
        for one in &mut self.all {
            match &mut one.life {
                Life::Booting(seen) | Life::Answering { seen, .. } => *seen = now,
                Life::Leaving(_) | Life::Killed => {}
            }
        }
    }
}
