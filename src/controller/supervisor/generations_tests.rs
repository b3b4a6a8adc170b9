//! Reload and scaling.

use super::tests::{World, pid};
use super::*;
use crate::process::wait::Ending;

/// A fleet of `slots` workers (pids 100, 101, …) that a new image has taken over.
pub(super) fn taken_over(slots: u32) -> World {
    let mut world = World::serving(slots);
    let inherited = world.supervisor.inheritance(world.now);
    let plan = world.supervisor.plan;
    world.supervisor = Supervisor::resume(plan, 1, world.now, &inherited, slots, true);
    world.next_pid = 200;
    world
}

#[test]
fn a_new_image_replaces_slot_by_slot_and_never_stops_serving() {
    let mut world = taken_over(2);
    assert!(!world.supervisor.is_steady());
    world.on(Event::Tick);
    assert_eq!(world.take(), [Action::Spawn(1)], "one at a time");
    world.on(Event::Ready(pid(200)));
    let actions = world.take();
    assert!(actions.contains(&Action::Retire(pid(100))));
    assert!(actions.contains(&Action::Spawn(2)));
    assert_eq!(world.supervisor.healthy(), [1, 2]);
    world.on(Event::Ready(pid(201)));
    let actions = world.take();
    assert!(actions.contains(&Action::Retire(pid(101))));
    assert!(actions.contains(&Action::Report(Report::Renewed)));
    assert!(world.supervisor.is_steady());
    world.on(Event::Exited(pid(100), Ending::Code(0)));
    world.on(Event::Exited(pid(101), Ending::Code(0)));
    assert_eq!(world.spawned(), 0);
}

#[test]
fn a_new_worker_that_does_not_get_ready_ends_the_reload_and_nothing_else() {
    for ending in [Some(Ending::Signal(6)), Some(Ending::Code(3)), None] {
        let mut world = taken_over(2);
        world.on(Event::Tick);
        world.take();
        match ending {
            Some(ending) => world.on(Event::Exited(pid(200), ending)),
            None => world.pass(11, &[]),
        }
        let actions = world.take();
        assert!(actions.contains(&Action::Report(Report::NotRenewed(1))), "{actions:?}");
        assert!(
            !actions.iter().any(|action| matches!(action, Action::Retire(_) | Action::Exit(_)))
        );
        assert_eq!(world.supervisor.healthy(), [1, 2]);
        assert!(world.supervisor.is_steady());
        world.pass(60, &[]);
        assert_eq!(world.spawned(), 0);
    }
}

#[test]
fn an_old_worker_that_dies_before_its_successor_is_ready_leaves_it_the_slot() {
    let mut world = taken_over(1);
    world.on(Event::Tick);
    world.kill(100);
    assert_eq!(world.spawned(), 1, "the successor is on its way already");
    world.on(Event::Ready(pid(200)));
    assert!(world.take().contains(&Action::Report(Report::Renewed)));
}

#[test]
fn workers_that_were_leaving_before_still_have_their_deadline() {
    let mut world = World::serving(1);
    world.on(Event::Retiring(pid(100)));
    world.on(Event::Ready(pid(101)));
    let inherited = world.supervisor.inheritance(world.now);
    world.supervisor =
        Supervisor::resume(world.supervisor.plan, 1, world.now, &inherited, 1, false);
    world.take();
    world.pass(61, &[]);
    assert!(world.take().contains(&Action::Signal(pid(100), Signal::SIGKILL)));
}

#[test]
fn stopping_in_the_middle_of_a_reload_stops_all() {
    let mut world = taken_over(2);
    world.on(Event::Tick);
    world.take();
    world.on(Event::Stop);
    let actions = world.take();
    for number in [100, 101, 200] {
        assert!(actions.contains(&Action::Signal(pid(number), Signal::SIGTERM)));
    }
}

#[test]
fn more_and_fewer_within_bounds() {
    let mut world = World::serving(1);
    world.on(Event::Fewer);
    assert_eq!(world.take(), [Action::Report(Report::CannotScale(1))]);
    world.on(Event::More);
    let actions = world.take();
    assert_eq!(actions, [Action::Report(Report::Scaled(2)), Action::Spawn(2)]);
    world.on(Event::Ready(pid(101)));
    assert_eq!(world.supervisor.healthy(), [1, 2]);
    world.take();
    world.on(Event::Fewer);
    let actions = world.take();
    assert_eq!(actions, [Action::Report(Report::Scaled(1)), Action::Retire(pid(101))]);
    assert_eq!(world.supervisor.healthy(), [1]);
    world.on(Event::Exited(pid(101), Ending::Code(0)));
    assert_eq!(world.spawned(), 0);
}

#[test]
fn a_silent_worker_that_speaks_again_takes_part_again() {
    let mut world = World::serving(2);
    world.pass(2, &[pid(100)]);
    assert_eq!(world.supervisor.healthy(), [2]);
    world.take();
    world.pass(1, &[]);
    let actions = world.take();
    assert_eq!(actions[0], Action::Report(Report::Responsive(1, pid(100))));
    assert_eq!(world.supervisor.healthy(), [1, 2]);
}

#[test]
fn old_generations_are_bounded() {
    let mut world = World::serving(1);
    for generation in 0..100 {
        world.on(Event::Retiring(pid(100 + generation)));
        world.on(Event::Ready(pid(101 + generation)));
    }
    let hurried: Vec<Action> = world.take();
    assert!(hurried.contains(&Action::Signal(pid(100), Signal::SIGTERM)), "the eldest");
    assert!(!hurried.contains(&Action::Signal(pid(180), Signal::SIGTERM)));
}

#[test]
fn no_deadline_lies_in_the_past() {
    let mut world = World::serving(2);
    for _ in 0..5 {
        world.pass(3, &[pid(100)]);
        let worker = world.next_pid - 1;
        world.kill(worker);
        world.on(Event::More);
        world.on(Event::Fewer);
        for _ in 0..20 {
            world.pass_to_deadline();
        }
    }
}
