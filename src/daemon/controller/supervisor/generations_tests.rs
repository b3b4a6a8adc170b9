//! Supervisor: reload, scaling, and draining generations.

use super::tests::{World, pid};
use super::*;
use crate::daemon::ids::SlotId;
use crate::sys::wait::ExitStatus;

/// Returns a fleet of `slots` workers (pids 100, 101, …) after a reload.
pub(super) fn after_reload(slots: u32) -> World {
    let mut world = World::serving(slots);
    let inherited = world.supervisor.serialize(world.now);
    let plan = world.supervisor.plan;
    world.supervisor = Supervisor::restore(plan, 1, world.now, &inherited, SlotId(slots), true);
    world.next_pid = 200;
    world
}

#[test]
fn a_reload_replaces_slot_by_slot_without_interruption() {
    let mut world = after_reload(2);
    assert!(!world.supervisor.is_steady());
    world.on(Event::Tick);
    assert_eq!(world.take(), [Action::Spawn(SlotId(1))], "one at a time");
    world.on(Event::Ready(pid(200)));
    let actions = world.take();
    assert!(actions.contains(&Action::Retire(pid(100))));
    assert!(actions.contains(&Action::Spawn(SlotId(2))));
    assert_eq!(world.supervisor.healthy(), [SlotId(1), SlotId(2)]);
    world.on(Event::Ready(pid(201)));
    let actions = world.take();
    assert!(actions.contains(&Action::Retire(pid(101))));
    assert!(actions.contains(&Action::Log(LogEvent::ReloadDone)));
    assert!(world.supervisor.is_steady());
    world.on(Event::Exited(pid(100), ExitStatus::Code(0)));
    world.on(Event::Exited(pid(101), ExitStatus::Code(0)));
    assert_eq!(world.spawned(), 0);
}

#[test]
fn a_new_worker_that_fails_aborts_the_reload_only() {
    for status in [Some(ExitStatus::Signal(6)), Some(ExitStatus::Code(3)), None] {
        let mut world = after_reload(2);
        world.on(Event::Tick);
        world.take();
        match status {
            Some(status) => world.on(Event::Exited(pid(200), status)),
            None => world.pass(11, &[]),
        }
        let actions = world.take();
        assert!(actions.contains(&Action::Log(LogEvent::ReloadAborted(SlotId(1)))), "{actions:?}");
        assert!(
            !actions.iter().any(|action| matches!(action, Action::Retire(_) | Action::Exit(_)))
        );
        assert_eq!(world.supervisor.healthy(), [SlotId(1), SlotId(2)]);
        assert!(world.supervisor.is_steady());
        world.pass(60, &[]);
        assert_eq!(world.spawned(), 0);
    }
}

#[test]
fn an_old_worker_that_dies_before_its_successor_is_ready_leaves_it_the_slot() {
    let mut world = after_reload(1);
    world.on(Event::Tick);
    world.kill(100);
    assert_eq!(world.spawned(), 1, "the successor is on its way already");
    world.on(Event::Ready(pid(200)));
    assert!(world.take().contains(&Action::Log(LogEvent::ReloadDone)));
}

#[test]
fn workers_that_were_leaving_before_still_have_their_deadline() {
    let mut world = World::serving(1);
    world.on(Event::Retiring(pid(100)));
    world.on(Event::Ready(pid(101)));
    let inherited = world.supervisor.serialize(world.now);
    world.supervisor =
        Supervisor::restore(world.supervisor.plan, 1, world.now, &inherited, SlotId(1), false);
    world.take();
    world.pass(61, &[]);
    assert!(world.take().contains(&Action::Signal(pid(100), Signal::SIGKILL)));
}

#[test]
fn stopping_in_the_middle_of_a_reload_stops_all() {
    let mut world = after_reload(2);
    world.on(Event::Tick);
    world.take();
    world.on(Event::Stop);
    let actions = world.take();
    for number in [100, 101, 200] {
        assert!(actions.contains(&Action::Signal(pid(number), Signal::SIGTERM)));
    }
}

#[test]
fn a_worker_of_a_surplus_slot_drains_queues_of_a_daemon_that_stops() {
    let mut world = World::serving(2);
    let inherited = world.supervisor.serialize(world.now);
    let plan = Plan { slots: 1, ..world.supervisor.plan };
    world.supervisor = Supervisor::restore(plan, 1, world.now, &inherited, SlotId(2), true);
    // The stop precedes the removal of the slot.
    world.on(Event::Stop);
    let view = world.supervisor.view(world.now);
    assert_eq!((view.slots.len(), view.draining, view.alive), (1, vec![pid(101)], 2));
    world.kill(101);
    let view = world.supervisor.view(world.now);
    assert_eq!((view.draining, view.alive), (vec![], 1));
}

#[test]
fn scaling_stays_within_bounds() {
    let mut world = World::serving(1);
    world.on(Event::RemoveWorker);
    assert_eq!(world.take(), [Action::Log(LogEvent::CannotScale(1))]);
    world.on(Event::AddWorker);
    let actions = world.take();
    assert_eq!(actions, [Action::Log(LogEvent::Scaled(2)), Action::Spawn(SlotId(2))]);
    world.on(Event::Ready(pid(101)));
    assert_eq!(world.supervisor.healthy(), [SlotId(1), SlotId(2)]);
    world.take();
    world.on(Event::RemoveWorker);
    let actions = world.take();
    assert_eq!(actions, [Action::Log(LogEvent::Scaled(1)), Action::Retire(pid(101))]);
    assert_eq!(world.supervisor.healthy(), [SlotId(1)]);
    world.on(Event::Exited(pid(101), ExitStatus::Code(0)));
    assert_eq!(world.spawned(), 0);
}

#[test]
fn an_unresponsive_worker_becomes_responsive_again() {
    let mut world = World::serving(2);
    world.pass(2, &[pid(100)]);
    assert_eq!(world.supervisor.healthy(), [SlotId(2)]);
    world.take();
    world.pass(1, &[]);
    let actions = world.take();
    assert_eq!(actions[0], Action::Log(LogEvent::Responsive(SlotId(1), pid(100))));
    assert_eq!(world.supervisor.healthy(), [SlotId(1), SlotId(2)]);
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
        world.on(Event::AddWorker);
        world.on(Event::RemoveWorker);
        for _ in 0..20 {
            world.pass_to_deadline();
        }
    }
}
