//! The admin process: slot 0, beside one worker that is always well.

use super::tests::{World, pid};
use super::*;
use crate::process::wait::Ending;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const STEP: Duration = Duration::from_millis(200);

/// A daemon that serves with one worker, 101, and an admin process, 100.
fn serving() -> World {
    let mut plan = World::serving(1).supervisor.plan;
    plan.admin = true;
    let mut world = World::with(plan);
    assert!(world.take().contains(&Action::Spawn(ADMIN)));
    // Both are forked in one go, the last first.
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

    /// Lets time pass in small steps. All processes but `silent` beat.
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

/// Nothing one millisecond early, exactly this on time.
#[track_caller]
fn assert_due(world: &mut World, after_ms: u64, silent: &[Pid], actions: &[Action]) {
    let due = world.now + MS * after_ms as u32;
    assert_eq!(world.pass_ms(after_ms - 1, silent), [], "before {after_ms} ms");
    let wakes = world.supervisor.deadline();
    assert!(wakes.is_some_and(|at| at <= due), "no deadline at {after_ms} ms: {wakes:?}");
    assert_eq!(world.pass_ms(1, silent), actions, "after {after_ms} ms");
}

fn forked(actions: &[Action]) -> bool {
    actions.contains(&Action::Spawn(ADMIN))
}

#[test]
fn one_that_had_served_is_replaced_at_once() {
    let mut world = serving();
    let admin = world.admin();
    world.pass_ms(1000, &[]);
    world.on(Event::Exited(admin, Ending::Signal(9)));
    let gone = Report::AdminExited(admin, Ending::Signal(9), Some(Duration::ZERO));
    assert_eq!(world.take(), [Action::Report(gone), Action::Spawn(ADMIN)]);
}

#[test]
fn a_crash_loop_slows_down_and_says_how_long_it_waits() {
    let mut world = serving();
    let mut waits = Vec::new();
    for _ in 0..6 {
        let admin = world.admin();
        world.take();
        world.on(Event::Exited(admin, Ending::Signal(6)));
        let wait = world.take().iter().find_map(|action| match action {
            Action::Report(Report::AdminExited(_, _, wait)) => *wait,
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
fn each_deadline_is_kept_from_both_sides() {
    let killed = |pid, reason| Action::Kill(pid, reason);
    let mut world = serving();
    let admin = world.admin();
    assert_due(&mut world, 30_000, &[admin], &[killed(admin, "hung"), Action::Spawn(ADMIN)]);

    let mut world = serving();
    world.pass_ms(1000, &[]);
    let admin = world.admin();
    world.on(Event::Exited(admin, Ending::Signal(9)));
    world.take();
    let next = world.admin();
    let not_ready = killed(next, "does not get ready");
    assert_due(&mut world, 10_000, &[], &[not_ready, Action::Spawn(ADMIN)]);

    // It may have ended because its whole group was told to, the controller included.
    let mut world = serving();
    let admin = world.admin();
    world.pass_ms(1000, &[]);
    world.on(Event::Exited(admin, Ending::Code(0)));
    world.take();
    assert_due(&mut world, 50, &[], &[Action::Spawn(ADMIN)]);

    // Without a successor to wait for, it ends its answers.
    let mut world = serving();
    let admin = world.admin();
    world.supervisor.plan.admin = false;
    world.on(Event::Tick);
    assert_eq!(world.take(), [Action::Retire(admin)]);
    assert_due(&mut world, 2500, &[], &[Action::Signal(admin, Signal::SIGKILL)]);
    world.on(Event::Exited(admin, Ending::Signal(9)));
    let gone = Report::AdminExited(admin, Ending::Signal(9), None);
    assert_eq!(world.take(), [Action::Report(gone)], "and is not replaced");
}

#[test]
fn it_answers_until_the_last_worker_has_ended_and_ends_last() {
    let mut world = serving();
    let (admin, worker) = (world.admin(), world.supervisor.pids()[0]);
    world.on(Event::Stop);
    assert!(!world.take().contains(&Action::Signal(admin, Signal::SIGTERM)));
    world.on(Event::Exited(admin, Ending::Code(0)));
    assert!(forked(&world.pass_ms(50, &[])), "it is needed to the end");
    let admin = world.admin();
    world.on(Event::Exited(worker, Ending::Code(0)));
    assert_eq!(world.take()[1..], [Action::Signal(admin, Signal::SIGTERM)]);
    assert_due(&mut world, 500, &[], &[Action::Signal(admin, Signal::SIGKILL)]);
    world.on(Event::Exited(admin, Ending::Signal(9)));
    assert_eq!(world.take().last(), Some(&Action::Exit(Exit::Ok)));
}

#[test]
fn in_a_reload_the_old_one_answers_until_the_new_one_does() {
    let mut world = serving();
    let old = world.admin();
    let (plan, inherited) = (world.supervisor.plan, world.supervisor.inheritance(world.now));
    world.supervisor = Supervisor::resume(plan, 1, world.now, &inherited, 1, true);
    world.next_pid = 200;
    world.on(Event::Tick);
    assert!(forked(&world.take()), "beside the first worker, not after the last");
    let failed = world.admin();
    world.on(Event::Exited(failed, Ending::Signal(6)));
    assert!(
        forked(&world.pass_ms(200, &[])),
        "a failed one is tried again, and the reload goes on"
    );
    assert!(world.supervisor.is_renewing());
    let next = world.admin();
    assert!(![old, failed].contains(&next));
    world.on(Event::Ready(next));
    assert_eq!(world.take(), [Action::Retire(old), Action::Report(Report::Ready(ADMIN, next))]);
    assert_due(&mut world, 2500, &[], &[Action::Signal(old, Signal::SIGKILL)]);
}

#[test]
fn one_that_cannot_be_forked_is_tried_again_and_never_in_a_circle() {
    let mut plan = World::serving(1).supervisor.plan;
    plan.admin = true;
    let (mut supervisor, mut now) = {
        let now = Instant::now();
        (Supervisor::new(plan, 1, now), now)
    };
    let (end, mut forks) = (now + 10 * SECOND, 0);
    let mut actions = Vec::new();
    supervisor.apply(Event::Tick, now, &mut actions);
    supervisor.apply(Event::Spawned(1, pid(100)), now, &mut actions);
    supervisor.apply(Event::Ready(pid(100)), now, &mut actions);
    while now < end {
        let again = std::mem::take(&mut actions);
        if forked(&again) {
            forks += 1;
            supervisor.apply(Event::NotSpawned(ADMIN), now, &mut actions);
            continue;
        }
        now = supervisor.deadline().map_or(now + SECOND, |due| due.min(now + SECOND));
        supervisor.apply(Event::Beat(pid(100), now), now, &mut actions);
        supervisor.apply(Event::Tick, now, &mut actions);
    }
    assert!((5..12).contains(&forks), "{forks} forks in 10 s");
}
