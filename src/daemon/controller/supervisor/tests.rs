//! Supervisor: start, replacement, restart delays, and stopping.

use super::*;
use crate::daemon::ids::SlotId;
use crate::sys::wait::ExitStatus;

const SECOND: Duration = Duration::from_secs(1);

/// Supervisor with a clock and a source of pids.
pub(super) struct World {
    pub(super) supervisor: Supervisor,
    pub(super) now: Instant,
    pub(super) next_pid: i32,
    /// Decided actions that were not taken yet.
    actions: Vec<Action>,
}

impl World {
    pub(super) fn new(slots: u32) -> Self {
        let plan = Plan {
            slots,
            worker_timeout: Some(30 * SECOND),
            graceful_timeout: 8 * SECOND,
            shutdown_delay: Duration::ZERO,
            drain_timeout: 60 * SECOND,
            admin: false,
        };
        Self::with(plan)
    }

    pub(super) fn with(plan: Plan) -> Self {
        let now = Instant::now();
        let supervisor = Supervisor::new(plan, 1, now);
        let mut world = Self { supervisor, now, next_pid: 100, actions: Vec::new() };
        world.on(Event::Tick);
        world
    }

    /// Returns a fleet with all workers ready; their pids are 100, 101, …
    pub(super) fn serving(slots: u32) -> Self {
        let mut world = Self::new(slots);
        for slot in 0..slots {
            world.on(Event::Ready(pid(100 + slot as i32)));
        }
        assert!(world.take().contains(&Action::Log(LogEvent::Serving(slots))));
        world
    }

    /// Applies an event; every fork that follows succeeds.
    pub(super) fn on(&mut self, event: Event) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            let mut decided = Vec::new();
            self.supervisor.apply(event, self.now, &mut decided);
            for action in &decided {
                if let Action::Spawn(slot) = action {
                    events.push(Event::Spawned(*slot, pid(self.next_pid)));
                    self.next_pid += 1;
                }
            }
            self.actions.extend(decided);
        }
    }

    /// Lets time pass in steps of a second, with heartbeats of all workers that are not `silent`.
    pub(super) fn pass(&mut self, seconds: u32, silent: &[Pid]) {
        for _ in 0..seconds {
            self.now += SECOND;
            for pid in self.supervisor.pids() {
                if !silent.contains(&pid) {
                    self.on(Event::Beat(pid, self.now));
                }
            }
            self.on(Event::Tick);
        }
    }

    /// Lets time pass until the deadline, at most a second.
    pub(super) fn pass_to_deadline(&mut self) {
        let due = self.supervisor.deadline().expect("something to wait for");
        assert!(due > self.now, "a deadline that has passed would spin");
        self.now = due.min(self.now + SECOND);
        self.on(Event::Tick);
    }

    pub(super) fn take(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    pub(super) fn kill(&mut self, number: i32) {
        self.on(Event::Exited(pid(number), ExitStatus::Signal(9)));
    }

    pub(super) fn spawned(&mut self) -> usize {
        self.take().iter().filter(|action| matches!(action, Action::Spawn(_))).count()
    }
}

pub(super) fn pid(number: i32) -> Pid {
    Pid::from_raw(number)
}

#[test]
fn every_slot_gets_a_worker_and_serving_is_logged_once() {
    let mut world = World::new(3);
    assert_eq!(world.spawned(), 3);
    world.on(Event::Ready(pid(100)));
    world.on(Event::Ready(pid(102)));
    assert!(!world.take().contains(&Action::Log(LogEvent::Serving(2))));
    world.on(Event::Ready(pid(101)));
    assert!(world.take().contains(&Action::Log(LogEvent::Serving(3))));
    world.pass(60, &[]);
    assert_eq!(world.take(), []);
}

#[test]
fn a_killed_worker_is_replaced_at_once_in_its_slot() {
    let mut world = World::serving(3);
    world.pass(5, &[]);
    world.kill(101);
    let actions = world.take();
    assert!(actions.contains(&Action::Spawn(SlotId(2))));
    assert!(
        !actions.iter().any(|action| matches!(action, Action::Log(LogEvent::RestartDelayed(..))))
    );
}

#[test]
fn merged_signals_lose_no_exit() {
    let mut world = World::serving(3);
    world.pass(5, &[]);
    (100..103).for_each(|number| world.kill(number));
    assert_eq!(world.spawned(), 3);
}

#[test]
fn a_crash_loop_backs_off() {
    let mut world = World::serving(1);
    let mut worker = 100;
    let mut waits = Vec::new();
    for _ in 0..12 {
        world.kill(worker);
        if let Some(Action::Log(LogEvent::RestartDelayed(SlotId(1), wait))) = world
            .take()
            .iter()
            .find(|action| matches!(action, Action::Log(LogEvent::RestartDelayed(..))))
        {
            waits.push(*wait);
            world.on(Event::Tick);
            assert_eq!(world.spawned(), 0, "not before its time");
            let due = world.now + *wait;
            while world.now < due {
                world.pass_to_deadline();
            }
            assert_eq!(world.spawned(), 1);
        }
        worker = world.next_pid - 1;
        world.on(Event::Ready(pid(worker)));
    }
    assert_eq!(waits.len(), 11, "the first one is immediate");
    assert!(waits.windows(2).all(|pair| pair[0] < pair[1] || pair[1] > 20 * SECOND), "{waits:?}");
    assert!(waits.iter().all(|wait| *wait <= 30 * SECOND));
}

#[test]
fn a_failed_fork_is_retried_later_without_spinning() {
    let mut world = World::serving(1);
    world.pass(5, &[]);
    let until = world.now + 10 * SECOND;
    let (mut forks, mut actions) = (0, Vec::new());
    let supervisor = &mut world.supervisor;
    let killed = Event::Exited(pid(100), ExitStatus::Signal(9));
    supervisor.apply(killed, world.now, &mut actions);
    while world.now < until {
        if std::mem::take(&mut actions).contains(&Action::Spawn(SlotId(1))) {
            forks += 1;
            supervisor.apply(Event::NotSpawned(SlotId(1)), world.now, &mut actions);
        } else {
            let due = supervisor.deadline().expect("another try");
            assert!(due > world.now, "a deadline that has passed would spin");
            world.now = due.min(world.now + SECOND);
            supervisor.apply(Event::Tick, world.now, &mut actions);
        }
    }
    assert!((5..12).contains(&forks), "{forks} forks in 10 s");
}

#[test]
fn a_hung_worker_is_replaced_then_killed() {
    let mut world = World::serving(2);
    world.pass(1, &[pid(100)]);
    assert_eq!(world.take(), []);
    world.pass(28, &[pid(100)]);
    let actions = world.take();
    assert_eq!(actions[0], Action::Log(LogEvent::Unresponsive(SlotId(1), pid(100))));
    assert_eq!(actions.len(), 1);
    assert_eq!(world.supervisor.healthy(), [SlotId(2)]);
    world.pass(1, &[pid(100)]);
    let actions = world.take();
    assert!(actions.contains(&Action::Log(LogEvent::Hung(SlotId(1), pid(100)))));
    assert!(actions.contains(&Action::Signal(pid(100), Signal::SIGABRT)));
    assert!(actions.contains(&Action::Spawn(SlotId(1))), "the queue does not wait for its end");
    world.pass(5, &[pid(100)]);
    assert!(world.take().contains(&Action::Signal(pid(100), Signal::SIGKILL)));
    world.kill(100);
    assert_eq!(world.spawned(), 0, "it had left its slot");
}

#[test]
fn a_pause_of_the_controller_is_excused() {
    let mut world = World::serving(2);
    world.now += 3600 * SECOND;
    world.on(Event::Tick);
    assert_eq!(world.take(), []);
}

#[test]
fn a_worker_that_does_not_become_ready_is_replaced() {
    let mut world = World::serving(2);
    world.pass(5, &[]);
    world.kill(100);
    world.take();
    world.pass(11, &[]);
    let actions = world.take();
    assert!(actions.contains(&Action::Log(LogEvent::NotReady(SlotId(1), pid(102)))));
    assert!(actions.contains(&Action::Spawn(SlotId(1))));
}

#[test]
fn a_first_generation_that_cannot_start_ends_the_controller() {
    let mut world = World::new(2);
    world.take();
    world.on(Event::Exited(pid(100), ExitStatus::Code(i32::from(Exit::DoNotRespawn.code()))));
    let actions = world.take();
    assert!(actions.contains(&Action::Signal(pid(101), Signal::SIGTERM)));
    assert!(!actions.contains(&Action::Spawn(SlotId(1))));
    world.on(Event::Exited(pid(101), ExitStatus::Code(0)));
    assert!(world.take().contains(&Action::Exit(Exit::Failure)));
}

#[test]
fn a_first_generation_that_only_crashes_ends_the_controller_in_time() {
    let mut world = World::new(1);
    let start = world.now;
    while !world.actions.contains(&Action::Exit(Exit::Failure)) {
        if let Some(&worker) = world.supervisor.pids().first() {
            world.kill(worker.as_raw());
        } else {
            world.pass_to_deadline();
        }
        assert!(world.now - start <= STARTUP_TIMEOUT);
    }
    assert!(world.next_pid < 120, "{} forks", world.next_pid - 100);
}

#[test]
fn do_not_respawn_abandons_the_slot_and_the_last_one_ends_the_daemon() {
    let mut world = World::serving(2);
    let fatal = ExitStatus::Code(i32::from(Exit::DoNotRespawn.code()));
    world.on(Event::Exited(pid(100), fatal));
    assert!(world.take().contains(&Action::Log(LogEvent::Abandoned(SlotId(1)))));
    world.pass(120, &[]);
    assert_eq!(world.spawned(), 0);
    world.on(Event::Exited(pid(101), fatal));
    assert!(world.take().contains(&Action::Exit(Exit::Failure)));
}

#[test]
fn no_other_exit_code_abandons_a_slot() {
    for code in (0..=255).filter(|code| *code != i32::from(Exit::DoNotRespawn.code())) {
        let mut world = World::serving(2);
        world.pass(5, &[]);
        world.on(Event::Exited(pid(100), ExitStatus::Code(code)));
        assert!(world.take().contains(&Action::Spawn(SlotId(1))), "exit code {code} in service");
        // The next two fail before they are ready.
        for _ in 0..2 {
            world.on(Event::Exited(pid(world.next_pid - 1), ExitStatus::Code(code)));
            world.pass(1, &[]);
            assert_eq!(world.spawned(), 1, "exit code {code} at startup");
        }
    }
}

#[test]
fn a_retiring_worker_is_replaced_at_once_and_has_a_deadline() {
    let mut world = World::serving(1);
    world.on(Event::Retiring(pid(100)));
    assert!(world.take().contains(&Action::Spawn(SlotId(1))));
    world.pass(60, &[]);
    assert!(!world.take().contains(&Action::Signal(pid(100), Signal::SIGKILL)));
    world.pass(1, &[]);
    assert!(world.take().contains(&Action::Signal(pid(100), Signal::SIGKILL)));
    world.on(Event::Exited(pid(100), ExitStatus::Code(0)));
    assert_eq!(world.spawned(), 0);
}

#[test]
fn stopping_terminates_all_workers_and_ends_with_the_last() {
    let mut world = World::serving(2);
    world.on(Event::Retiring(pid(100)));
    world.take();
    world.on(Event::Stop);
    let actions = world.take();
    for number in [100, 101, 102] {
        assert!(actions.contains(&Action::Signal(pid(number), Signal::SIGTERM)));
    }
    let close = actions.iter().position(|action| *action == Action::CloseAddresses);
    let first = actions.iter().position(|action| matches!(action, Action::Signal(..)));
    assert!(close < first, "the workers' close is to be the last one");
    world.on(Event::Exited(pid(100), ExitStatus::Code(0)));
    world.kill(101);
    assert_eq!(world.spawned(), 0);
    world.on(Event::Exited(pid(102), ExitStatus::Code(0)));
    assert!(world.take().contains(&Action::Exit(Exit::Ok)));
}

#[test]
fn a_worker_past_its_deadline_is_killed() {
    let mut world = World::serving(1);
    world.on(Event::Stop);
    world.pass(8, &[]);
    assert!(!world.take().contains(&Action::Signal(pid(100), Signal::SIGKILL)));
    world.pass(1, &[]);
    assert!(world.take().contains(&Action::Signal(pid(100), Signal::SIGKILL)));
}

#[test]
fn a_second_stop_kills_at_once() {
    let mut world = World::serving(1);
    world.on(Event::Stop);
    world.on(Event::Stop);
    assert!(world.take().contains(&Action::Signal(pid(100), Signal::SIGKILL)));
    world.kill(100);
    assert!(world.take().contains(&Action::Exit(Exit::Ok)));
}

#[test]
fn the_shutdown_delay_changes_nothing() {
    let mut plan = World::new(1).supervisor.plan;
    plan.shutdown_delay = 5 * SECOND;
    let mut world = World::with(plan);
    world.on(Event::Ready(pid(100)));
    world.on(Event::Stop);
    world.pass(1, &[]);
    world.kill(100);
    let actions = world.take();
    assert!(actions.contains(&Action::Spawn(SlotId(1))), "still serving");
    assert!(!actions.contains(&Action::CloseAddresses));
    world.pass(5, &[]);
    assert!(world.take().contains(&Action::Log(LogEvent::Draining)));
}

#[test]
fn stopping_before_readiness_is_no_failure() {
    let mut world = World::new(1);
    world.on(Event::Stop);
    world.kill(100);
    assert!(world.take().contains(&Action::Exit(Exit::Ok)));
}

#[test]
fn an_unknown_process_is_only_logged() {
    let mut world = World::serving(1);
    world.on(Event::Exited(pid(7), ExitStatus::Code(0)));
    assert_eq!(world.take(), [Action::Log(LogEvent::UnknownExited(pid(7), ExitStatus::Code(0)))]);
}
