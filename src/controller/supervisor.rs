//! The controller's brain: decides, and does nothing. No system call, no clock, no log.
//!
//! Whatever happens comes in as an [`Event`], with the time; whatever is to be done goes out as an
//! [`Action`]. Every event ends in [`Supervisor::settle`], which compares what is wanted with what
//! is, so that merged signals, failed forks and late news all take the same path.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::backoff::{Backoff, Jitter};
use crate::exit::Exit;
use crate::process::wait::Ending;

/// How long a worker may take from fork to READY.
pub const BOOT_TIMEOUT: Duration = Duration::from_secs(10);
/// From SIGABRT, with which a hung worker leaves a core, to SIGKILL.
const ABORT_GRACE: Duration = Duration::from_secs(5);
/// What a worker may overrun its own deadline by before it is killed.
const OVERRUN: Duration = Duration::from_millis(500);
/// A silence of our own that long says that we, not the workers, were stopped or suspended.
const OWN_SILENCE: Duration = Duration::from_secs(3);

/// What is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How many slots.
    pub slots: u32,
    /// A worker whose loop stands still for so long is hung; `None`: never.
    pub worker_timeout: Option<Duration>,
    /// How long draining may take.
    pub graceful_timeout: Duration,
    /// How long to go on accepting after being told to stop.
    pub shutdown_delay: Duration,
    /// How long a retired worker may keep its connections.
    pub drain_timeout: Duration,
}

/// What has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Time has passed. Comes at least once a second.
    Tick,
    /// A worker was forked for this slot.
    Spawned(u32, Pid),
    /// No worker could be forked for this slot.
    NotSpawned(u32),
    /// This worker accepts connections.
    Ready(Pid),
    /// This worker's loop has turned.
    Beat(Pid),
    /// This worker accepts no more and will end.
    Retiring(Pid),
    /// This process has ended; it need not be one of ours.
    Exited(Pid, Ending),
    /// Somebody wants us to stop; the second time: now.
    Stop,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Fork a worker for this slot and say [`Event::Spawned`] or [`Event::NotSpawned`].
    Spawn(u32),
    /// Send a signal.
    Signal(Pid, Signal),
    /// Close the slots' listeners: nothing new is to be accepted once the workers have closed theirs.
    CloseListeners,
    /// End the controller.
    Exit(Exit),
    /// Tell the operator.
    Report(Report),
}

/// What an operator should know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// So many workers are ready: the daemon is up.
    Serving(u32),
    /// No worker has got ready in time.
    NoneReady,
    /// A slot has its worker.
    Ready(u32, Pid),
    /// A worker has gone.
    Exited(u32, Pid, Ending),
    /// A slot waits before its next worker.
    Waiting(u32, Duration),
    /// A worker's loop stands still.
    Hung(u32, Pid),
    /// A worker does not get ready.
    NotReady(u32, Pid),
    /// A worker says that trying again is of no use.
    Abandoned(u32),
    /// Stopping, but still accepting for so long.
    Delaying(Duration),
    /// Draining has begun.
    Draining,
    /// So many workers are killed, because time is up or because of the second signal.
    Killing(u32),
    /// A process has ended that was none of ours.
    Stranger(Pid, Ending),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Wants a worker at this time.
    Empty(Instant),
    /// The shell is forking.
    Forking,
    /// Forked at this time, not ready.
    Booting(Pid, Instant),
    /// Ready since the first time; its loop was last seen to turn at the second.
    Serving(Pid, Instant, Instant),
    /// Wants no worker any more.
    Abandoned,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    state: State,
    backoff: Backoff,
}

/// A worker that has left its slot and has not ended yet.
#[derive(Clone, Copy, Debug)]
struct Leaving {
    pid: Pid,
    slot: u32,
    kill_at: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The first generation gets ready, until then.
    Starting(Instant),
    /// As it should be.
    Running,
    /// Told to stop; still accepting, until then.
    Delaying(Instant),
    /// Waiting for all workers to end; then they are killed.
    Ending(Exit, Instant),
}

/// The brain.
#[derive(Debug)]
pub struct Supervisor {
    plan: Plan,
    phase: Phase,
    slots: Vec<Slot>,
    leaving: Vec<Leaving>,
    jitter: Jitter,
    last_event: Instant,
}

impl Supervisor {
    /// A brain that wants every slot filled. `seed` makes its random waits its own.
    pub fn new(plan: Plan, seed: u64, now: Instant) -> Self {
        let slot = Slot { state: State::Empty(now), backoff: Backoff::default() };
        Self {
            plan,
            phase: Phase::Starting(now + BOOT_TIMEOUT),
            slots: vec![slot; plan.slots as usize],
            leaving: Vec::new(),
            jitter: Jitter::new(seed),
            last_event: now,
        }
    }

    /// Takes note of an event and appends what is to be done.
    pub fn on(&mut self, event: Event, now: Instant, actions: &mut Vec<Action>) {
        self.forgive_own_silence(now);
        match event {
            Event::Tick => {}
            Event::Spawned(slot, pid) => self.set(slot, State::Booting(pid, now)),
            Event::NotSpawned(slot) => self.failed(slot, None, now, actions),
            Event::Ready(pid) => self.ready(pid, now, actions),
            Event::Beat(pid) => self.beat(pid, now),
            Event::Retiring(pid) => self.retiring(pid, now),
            Event::Exited(pid, ending) => self.exited(pid, ending, now, actions),
            Event::Stop => self.stop(now, actions),
        }
        self.settle(now, actions);
    }

    /// When the next [`Event::Tick`] is due at the latest, besides the one a second.
    pub fn deadline(&self) -> Option<Instant> {
        let phase = match self.phase {
            Phase::Running => None,
            Phase::Starting(at) | Phase::Delaying(at) | Phase::Ending(_, at) => Some(at),
        };
        let slots = self.slots.iter().filter_map(|slot| match slot.state {
            State::Empty(due) => self.wants_workers().then_some(due),
            State::Booting(_, since) => Some(since + BOOT_TIMEOUT),
            State::Serving(_, _, beat) => self.plan.worker_timeout.map(|limit| beat + limit),
            State::Forking | State::Abandoned => None,
        });
        slots.chain(self.leaving.iter().map(|leaving| leaving.kill_at)).chain(phase).min()
    }

    /// All workers that have not ended.
    pub fn pids(&self) -> Vec<Pid> {
        let current = self.slots.iter().filter_map(|slot| slot.state.pid());
        current.chain(self.leaving.iter().map(|leaving| leaving.pid)).collect()
    }

    fn wants_workers(&self) -> bool {
        !matches!(self.phase, Phase::Ending(..))
    }

    fn set(&mut self, slot: u32, state: State) {
        self.slots[slot as usize - 1].state = state;
    }

    fn slot_of(&self, pid: Pid) -> Option<u32> {
        let index = self.slots.iter().position(|slot| slot.state.pid() == Some(pid))?;
        Some(index as u32 + 1)
    }

    fn ready(&mut self, pid: Pid, now: Instant, actions: &mut Vec<Action>) {
        let Some(slot) = self.slot_of(pid) else { return };
        self.set(slot, State::Serving(pid, now, now));
        actions.push(Action::Report(Report::Ready(slot, pid)));
    }

    fn beat(&mut self, pid: Pid, now: Instant) {
        for slot in &mut self.slots {
            if let State::Serving(serving, _, beat) = &mut slot.state {
                if *serving == pid {
                    *beat = now;
                }
            }
        }
    }

    /// The worker goes on with what it has; its slot gets a new one at once.
    fn retiring(&mut self, pid: Pid, now: Instant) {
        let Some(slot) = self.slot_of(pid) else { return };
        let kill_at = now + self.plan.drain_timeout.max(self.plan.graceful_timeout) + OVERRUN;
        self.leaving.push(Leaving { pid, slot, kill_at });
        self.set(slot, State::Empty(now));
    }

    fn exited(&mut self, pid: Pid, ending: Ending, now: Instant, actions: &mut Vec<Action>) {
        if let Some(index) = self.leaving.iter().position(|leaving| leaving.pid == pid) {
            let slot = self.leaving.swap_remove(index).slot;
            actions.push(Action::Report(Report::Exited(slot, pid, ending)));
            return;
        }
        let Some(slot) = self.slot_of(pid) else {
            actions.push(Action::Report(Report::Stranger(pid, ending)));
            return;
        };
        actions.push(Action::Report(Report::Exited(slot, pid, ending)));
        let state = self.slots[slot as usize - 1].state;
        self.set(slot, State::Empty(now));
        if !self.wants_workers() {
            return;
        }
        match (state, ending.code()) {
            (_, Some(code)) if code == i32::from(Exit::DoNotRespawn.code()) => {
                self.abandon(slot, now, actions);
            }
            // It ended as it should, only without saying so before.
            (State::Serving(..), Some(0)) => {}
            (State::Serving(_, since, _), _) => {
                self.failed(slot, Some(now.saturating_duration_since(since)), now, actions);
            }
            _ => self.failed(slot, None, now, actions),
        }
    }

    fn failed(
        &mut self,
        slot: u32,
        served: Option<Duration>,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        let jitter = self.jitter.next();
        let wait = self.slots[slot as usize - 1].backoff.after_failure(served, jitter);
        self.set(slot, State::Empty(now + wait));
        if !wait.is_zero() {
            actions.push(Action::Report(Report::Waiting(slot, wait)));
        }
    }

    fn abandon(&mut self, slot: u32, now: Instant, actions: &mut Vec<Action>) {
        self.set(slot, State::Abandoned);
        let abandoned = |slot: &Slot| slot.state == State::Abandoned;
        if matches!(self.phase, Phase::Starting(_)) || self.slots.iter().all(abandoned) {
            self.end(Exit::Failure, now + OVERRUN, actions);
        } else {
            actions.push(Action::Report(Report::Abandoned(slot)));
        }
    }

    fn stop(&mut self, now: Instant, actions: &mut Vec<Action>) {
        match self.phase {
            Phase::Starting(_) | Phase::Running if !self.plan.shutdown_delay.is_zero() => {
                self.phase = Phase::Delaying(now + self.plan.shutdown_delay);
                actions.push(Action::Report(Report::Delaying(self.plan.shutdown_delay)));
            }
            Phase::Starting(_) | Phase::Running => self.drain(now, actions),
            // The second time: now.
            Phase::Delaying(_) => self.end(Exit::Ok, now, actions),
            Phase::Ending(exit, _) => self.phase = Phase::Ending(exit, now),
        }
    }

    fn drain(&mut self, now: Instant, actions: &mut Vec<Action>) {
        actions.push(Action::Report(Report::Draining));
        self.end(Exit::Ok, now + self.plan.graceful_timeout + OVERRUN, actions);
    }

    fn end(&mut self, exit: Exit, kill_at: Instant, actions: &mut Vec<Action>) {
        self.phase = Phase::Ending(exit, kill_at);
        actions.push(Action::CloseListeners);
        actions.extend(self.pids().into_iter().map(|pid| Action::Signal(pid, Signal::SIGTERM)));
    }

    /// Compares what is wanted with what is.
    fn settle(&mut self, now: Instant, actions: &mut Vec<Action>) {
        self.look_for_hung(now, actions);
        for leaving in &mut self.leaving {
            if leaving.kill_at <= now {
                leaving.kill_at = now + ABORT_GRACE;
                actions.push(Action::Signal(leaving.pid, Signal::SIGKILL));
            }
        }
        self.advance_phase(now, actions);
        if !self.wants_workers() {
            return;
        }
        for (slot, number) in self.slots.iter_mut().zip(1..) {
            if matches!(slot.state, State::Empty(due) if due <= now) {
                slot.state = State::Forking;
                actions.push(Action::Spawn(number));
            }
        }
    }

    fn advance_phase(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let serving = |slot: &&Slot| matches!(slot.state, State::Serving(..));
        let ready = self.slots.iter().filter(serving).count() as u32;
        match self.phase {
            Phase::Starting(until) if ready == self.plan.slots || (ready > 0 && until <= now) => {
                self.phase = Phase::Running;
                actions.push(Action::Report(Report::Serving(ready)));
            }
            Phase::Starting(until) if until <= now => {
                actions.push(Action::Report(Report::NoneReady));
                self.end(Exit::Failure, now, actions);
                self.kill_rest(now, actions);
            }
            Phase::Delaying(until) if until <= now => self.drain(now, actions),
            Phase::Ending(..) => self.kill_rest(now, actions),
            _ => {}
        }
    }

    fn kill_rest(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let Phase::Ending(exit, kill_at) = self.phase else { return };
        let pids = self.pids();
        if pids.is_empty() {
            actions.push(Action::Exit(exit));
        } else if kill_at <= now {
            actions.push(Action::Report(Report::Killing(pids.len() as u32)));
            actions.extend(pids.into_iter().map(|pid| Action::Signal(pid, Signal::SIGKILL)));
            self.phase = Phase::Ending(exit, now + ABORT_GRACE);
        }
    }

    /// A hung worker leaves its slot: its successor takes over the queue without waiting for its end.
    fn look_for_hung(&mut self, now: Instant, actions: &mut Vec<Action>) {
        for slot in 1..=self.plan.slots {
            let (pid, served, report) = match self.slots[slot as usize - 1].state {
                State::Booting(pid, since) if since + BOOT_TIMEOUT <= now => {
                    (pid, None, Report::NotReady(slot, pid))
                }
                State::Serving(pid, since, beat)
                    if self.plan.worker_timeout.is_some_and(|limit| beat + limit <= now) =>
                {
                    (pid, Some(beat.saturating_duration_since(since)), Report::Hung(slot, pid))
                }
                _ => continue,
            };
            actions.push(Action::Report(report));
            actions.push(Action::Signal(pid, Signal::SIGABRT));
            self.leaving.push(Leaving { pid, slot, kill_at: now + ABORT_GRACE });
            self.set(slot, State::Empty(now));
            if self.wants_workers() {
                self.failed(slot, served, now, actions);
            }
        }
    }

    fn forgive_own_silence(&mut self, now: Instant) {
        if now.saturating_duration_since(self.last_event) > OWN_SILENCE {
            for slot in &mut self.slots {
                match &mut slot.state {
                    State::Serving(_, _, seen) | State::Booting(_, seen) => *seen = now,
                    _ => {}
                }
            }
        }
        self.last_event = now;
    }
}

impl State {
    fn pid(self) -> Option<Pid> {
        match self {
            Self::Booting(pid, _) | Self::Serving(pid, ..) => Some(pid),
            Self::Empty(_) | Self::Forking | Self::Abandoned => None,
        }
    }
}

#[cfg(test)]
#[path = "supervisor_tests.rs"]
mod tests;
