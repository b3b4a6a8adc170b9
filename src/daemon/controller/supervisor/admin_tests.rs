//! The admin process in slot 0, beside one healthy worker.

use super::tests::{World, pid};
use super::*;
use crate::daemon::ids::SlotId;
use crate::daemon::stats::Cause;
use crate::sys::wait::ExitStatus;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const STEP: Duration = Duration::from_millis(200);

/// Returns a daemon that serves with one worker and an admin process.
fn serving() -> World {
    let mut plan = World::serving(1).supervisor.plan;
    plan.admin = true;
    let mut world = World::with(plan);
    assert!(world.take().contains(&Action::Spawn(SlotId::ADMIN)));
    // Both are forked at once, the last first.
    let admin = world.supervisor.admin().expect("an admin process is forked");
    let worker = world.supervisor.pids()[0];
    world.on(Event::Ready(admin));
    world.on(Event::Ready(worker));
    world.take();
    world
}

impl World {
    fn admin(&self) -> Pid {
        self.supervisor.admin().expect("an admin process")
    }

    /// Lets time pass in small steps, with heartbeats of all processes that are not `silent`.
    fn pass_ms(&mut self, milliseconds: u64, silent: &[Pid]) -> Vec<Action> {
        let until = self.now + MS * milliseconds as u32;
        while self.now < until {
            self.now = until.min(self.now + STEP);
            let mut all = self.supervisor.pids();
            all.extend(self.supervisor.admin());
            for pid in all.into_iter().filter(|pid| !silent.contains(pid)) {
                self.on(Event::Beat(pid, self.now));
            }
            self.on(Event::Tick);
        }
        self.take()
    }
}

/// Asserts that nothing happens one millisecond early, and exactly these actions on time.
#[track_caller]
fn assert_due(world: &mut World, after_ms: u64, silent: &[Pid], actions: &[Action]) {
    let due = world.now + MS * after_ms as u32;
    assert_eq!(world.pass_ms(after_ms - 1, silent), [], "before {after_ms} ms");
    let wakes = world.supervisor.deadline();
    assert!(wakes.is_some_and(|at| at <= due), "no deadline at {after_ms} ms: {wakes:?}");
    assert_eq!(world.pass_ms(1, silent), actions, "after {after_ms} ms");
}

fn forked(actions: &[Action]) -> bool {
    actions.contains(&Action::Spawn(SlotId::ADMIN))
}

#[test]
fn a_ready_admin_process_is_replaced_at_once() {
    let mut world = serving();
    let admin = world.admin();
    world.pass_ms(1000, &[]);
    world.on(Event::Exited(admin, ExitStatus::Signal(9)));
    let gone = LogEvent::AdminExited(admin, ExitStatus::Signal(9), Some(Duration::ZERO));
    let counted = Action::CountRestart(SlotId::ADMIN, admin, Cause::Signal);
    assert_eq!(world.take(), [counted, Action::Log(gone), Action::Spawn(SlotId::ADMIN)]);
}

#[test]
fn a_crash_loop_backs_off_and_reports_the_delay() {
    let mut world = serving();
    let mut waits = Vec::new();
    for _ in 0..6 {
        let admin = world.admin();
        world.take();
        world.on(Event::Exited(admin, ExitStatus::Signal(6)));
        let wait = world.take().iter().find_map(|action| match action {
            Action::Log(LogEvent::AdminExited(_, _, wait)) => *wait,
            _ => None,
        });
        let wait = wait.expect("it was not meant to end");
        if !wait.is_zero() {
            let due = world.now + wait;
            assert!(!forked(&world.pass_ms(wait.as_millis() as u64 - 1, &[])), "before {wait:?}");
            world.now = due;
            world.on(Event::Tick);
            assert!(forked(&world.take()), "after {wait:?}");
        }
        waits.push(wait);
    }
    assert_eq!(waits[0], Duration::ZERO);
    assert!(waits[5] > waits[2], "{waits:?}");
}

#[test]
fn each_deadline_is_met() {
    let replaced = |pid, reason, cause| {
        let counted = Action::CountRestart(SlotId::ADMIN, pid, cause);
        [Action::Kill(pid, reason), counted, Action::Spawn(SlotId::ADMIN)]
    };
    let mut world = serving();
    let admin = world.admin();
    assert_due(&mut world, 30_000, &[admin], &replaced(admin, "hung", Cause::Hung));

    let mut world = serving();
    world.pass_ms(1000, &[]);
    let admin = world.admin();
    world.on(Event::Exited(admin, ExitStatus::Signal(9)));
    world.take();
    let next = world.admin();
    assert_due(&mut world, 10_000, &[], &replaced(next, "did not become ready", Cause::Boot));

    // It may have ended because its whole group was told to, the controller included.
    let mut world = serving();
    let admin = world.admin();
    world.pass_ms(1000, &[]);
    world.on(Event::Exited(admin, ExitStatus::Code(0)));
    world.take();
    assert_due(&mut world, 50, &[], &[Action::Spawn(SlotId::ADMIN)]);

    // Without a successor to wait for, it ends its answers.
    let mut world = serving();
    let admin = world.admin();
    world.supervisor.plan.admin = false;
    world.on(Event::Tick);
    assert_eq!(world.take(), [Action::Retire(admin)]);
    assert_due(&mut world, 2500, &[], &[Action::Signal(admin, Signal::SIGKILL)]);
    world.on(Event::Exited(admin, ExitStatus::Signal(9)));
    let gone = LogEvent::AdminExited(admin, ExitStatus::Signal(9), None);
    assert_eq!(world.take(), [Action::Log(gone)], "and is not replaced");
}

#[test]
fn it_ends_after_the_last_worker() {
    let mut world = serving();
    let (admin, worker) = (world.admin(), world.supervisor.pids()[0]);
    world.on(Event::Stop);
    assert!(!world.take().contains(&Action::Signal(admin, Signal::SIGTERM)));
    world.on(Event::Exited(admin, ExitStatus::Code(0)));
    assert!(forked(&world.pass_ms(50, &[])), "it is needed to the end");
    let admin = world.admin();
    world.on(Event::Exited(worker, ExitStatus::Code(0)));
    assert_eq!(world.take()[1..], [Action::Signal(admin, Signal::SIGTERM)]);
    assert_due(&mut world, 500, &[], &[Action::Signal(admin, Signal::SIGKILL)]);
    world.on(Event::Exited(admin, ExitStatus::Signal(9)));
    assert_eq!(world.take().last(), Some(&Action::Exit(Exit::Ok)));
}

#[test]
fn a_reload_replaces_it_once_its_successor_is_ready() {
    let mut world = serving();
    let old = world.admin();
    let (plan, inherited) = (world.supervisor.plan, world.supervisor.serialize(world.now));
    world.supervisor = Supervisor::restore(plan, 1, world.now, &inherited, SlotId(1), true);
    world.next_pid = 200;
    world.on(Event::Tick);
    assert!(forked(&world.take()), "beside the first worker, not after the last");
    let failed = world.admin();
    world.on(Event::Exited(failed, ExitStatus::Signal(6)));
    assert!(
        forked(&world.pass_ms(200, &[])),
        "a failed one is tried again, and the reload goes on"
    );
    assert!(world.supervisor.is_replacing());
    let next = world.admin();
    assert!(![old, failed].contains(&next));
    world.on(Event::Ready(next));
    assert_eq!(
        world.take(),
        [Action::Retire(old), Action::Log(LogEvent::Ready(SlotId::ADMIN, next))]
    );
    assert_due(&mut world, 2500, &[], &[Action::Signal(old, Signal::SIGKILL)]);
}

#[test]
fn a_failed_fork_is_retried_without_spinning() {
    let mut plan = World::serving(1).supervisor.plan;
    plan.admin = true;
    let (mut supervisor, mut now) = {
        let now = Instant::now();
        (Supervisor::new(plan, 1, now), now)
    };
    let (end, mut forks) = (now + 10 * SECOND, 0);
    let mut actions = Vec::new();
    supervisor.apply(Event::Tick, now, &mut actions);
    supervisor.apply(Event::Spawned(SlotId(1), pid(100)), now, &mut actions);
    supervisor.apply(Event::Ready(pid(100)), now, &mut actions);
    while now < end {
        let again = std::mem::take(&mut actions);
        if forked(&again) {
            forks += 1;
            supervisor.apply(Event::NotSpawned(SlotId::ADMIN), now, &mut actions);
            continue;
        }
        now = supervisor.deadline().map_or(now + SECOND, |due| due.min(now + SECOND));
        supervisor.apply(Event::Beat(pid(100), now), now, &mut actions);
        supervisor.apply(Event::Tick, now, &mut actions);
    }
    assert!((5..12).contains(&forks), "{forks} forks in 10 s");
}
