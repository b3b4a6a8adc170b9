//! Deadlines of the supervisor: no action one millisecond early, the action on time.
//!
//! The tables state the times in milliseconds instead of naming the constants, so a changed
//! constant fails a row. They use only the events, actions, and next deadline of the supervisor.

use super::generations_tests::after_reload;
use super::tests::{World, pid};
use super::*;
use crate::daemon::ids::SlotId;
use crate::sys::wait::ExitStatus;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// Longest time between two ticks, well below a pause that is excused.
const STEP: Duration = Duration::from_millis(200);

/// A situation and the action that follows it.
struct Row<'a> {
    name: &'static str,
    /// Returns the situation at the moment from which the time counts.
    scene: &'a dyn Fn() -> World,
    /// Workers without heartbeat.
    silent: &'static [i32],
    after_ms: u64,
    action: Action,
}

impl World {
    /// Lets time pass in small steps, with a heartbeat of each worker that is not `silent`.
    fn pass_until(&mut self, until: Instant, silent: &[i32]) {
        while self.now < until {
            self.now = until.min(self.now + STEP);
            for worker in self.supervisor.pids() {
                if !silent.contains(&worker.as_raw()) {
                    self.on(Event::Beat(worker, self.now));
                }
            }
            self.on(Event::Tick);
        }
    }

    /// Returns a fleet with all workers ready, under a changed plan.
    fn serving_under(slots: u32, change: impl FnOnce(&mut Plan)) -> Self {
        let mut plan = Self::new(slots).supervisor.plan;
        change(&mut plan);
        let mut world = Self::with(plan);
        (0..slots).for_each(|slot| world.on(Event::Ready(pid(100 + slot as i32))));
        world
    }

    fn then(mut self, event: Event) -> Self {
        self.on(event);
        self
    }

    fn after_ms(mut self, milliseconds: u64, silent: &[i32]) -> Self {
        self.pass_until(self.now + MS * milliseconds as u32, silent);
        self
    }

    fn has(&mut self, action: &Action) -> bool {
        self.take().contains(action)
    }
}

fn assert_on_time(rows: &[Row<'_>]) {
    for Row { name, scene, silent, after_ms, action } in rows {
        let mut world = scene();
        world.take();
        let due = world.now + MS * *after_ms as u32;
        world.pass_until(due - MS, silent);
        let early = world.take();
        assert!(!early.contains(action), "{name}: {action:?} before {after_ms} ms");
        let wakes = world.supervisor.deadline();
        assert!(wakes.is_some_and(|at| at <= due), "{name}: no deadline at {after_ms} ms");
        world.pass_until(due, silent);
        let actions = world.take();
        assert!(actions.contains(action), "{name}: {actions:?} after {after_ms} ms");
    }
}

fn row<'a>(
    name: &'static str,
    scene: &'a dyn Fn() -> World,
    silent: &'static [i32],
    after_ms: u64,
    action: Action,
) -> Row<'a> {
    Row { name, scene, silent, after_ms, action }
}

fn killed(number: i32) -> Action {
    Action::Signal(pid(number), Signal::SIGKILL)
}

/// Slot 1 lost a worker that had served for five seconds; the next one, 102, starts.
fn starting_up() -> World {
    let world = World::serving(2).after_ms(5000, &[]);
    world.then(Event::Exited(pid(100), ExitStatus::Signal(9)))
}

/// The first worker of the new generation, 200, starts beside 100.
fn replacing() -> World {
    after_reload(2).then(Event::Tick)
}

#[test]
fn a_worker_must_become_ready_within_ten_seconds() {
    assert_on_time(&[
        row(
            "replacement",
            &starting_up,
            &[],
            10_000,
            Action::Log(LogEvent::NotReady(SlotId(1), pid(102))),
        ),
        row("replacement", &starting_up, &[], 10_000, Action::Signal(pid(102), Signal::SIGABRT)),
        row(
            "successor",
            &replacing,
            &[],
            10_000,
            Action::Log(LogEvent::NotReady(SlotId(1), pid(200))),
        ),
        row("successor", &replacing, &[], 10_000, Action::Signal(pid(200), Signal::SIGABRT)),
        row("successor", &replacing, &[], 10_000, Action::Log(LogEvent::ReloadAborted(SlotId(1)))),
    ]);
}

#[test]
fn the_daemon_starts_for_ten_seconds_at_most() {
    let some = || World::new(2).then(Event::Ready(pid(100)));
    assert_on_time(&[
        row("none ready", &|| World::new(2), &[], 10_000, Action::Log(LogEvent::NoneReady)),
        row("one of two ready", &some, &[], 10_000, Action::Log(LogEvent::Serving(1))),
    ]);
}

#[test]
fn a_silent_worker_is_unresponsive_first_and_hung_at_the_worker_timeout() {
    let two = || World::serving(2);
    let short = || World::serving_under(2, |plan| plan.worker_timeout = Some(SECOND));
    let never = || World::serving_under(2, |plan| plan.worker_timeout = None);
    let unresponsive = Action::Log(LogEvent::Unresponsive(SlotId(1), pid(100)));
    let hung = Action::Log(LogEvent::Hung(SlotId(1), pid(100)));
    let aborted = Action::Signal(pid(100), Signal::SIGABRT);
    assert_on_time(&[
        row("unresponsive", &two, &[100], 1500, unresponsive),
        row("hung", &two, &[100], 30_000, hung),
        row("aborted", &two, &[100], 30_000, aborted),
        row("short timeout", &short, &[100], 1000, hung),
        row("no timeout", &never, &[100], 1500, unresponsive),
    ]);
    let mut forever = never();
    forever.pass_until(forever.now + 600 * SECOND, &[100]);
    assert!(!forever.has(&aborted), "without a worker timeout no worker is hung");
}

#[test]
fn sigkill_follows_sigabrt_and_sigkill_after_five_seconds_each() {
    let hung = || World::serving(2).after_ms(30_000, &[100]);
    let not_ready = || starting_up().after_ms(10_000, &[]);
    assert_on_time(&[
        row("hung", &hung, &[100], 5000, killed(100)),
        row("not ready", &not_ready, &[], 5000, killed(102)),
        row("still there", &|| hung().after_ms(5000, &[100]), &[100], 5000, killed(100)),
    ]);
    let stuck = || World::serving(1).then(Event::Stop).after_ms(8500, &[]);
    assert_on_time(&[row("stopping", &stuck, &[], 5000, killed(100))]);
}

#[test]
fn a_retired_worker_has_the_drain_timeout_and_half_a_second() {
    let retiring = || World::serving(1).then(Event::Retiring(pid(100)));
    let draining = || World::serving(1).then(Event::Draining(pid(100)));
    let graceful = || {
        let world = World::serving_under(1, |plan| plan.graceful_timeout = 90 * SECOND);
        world.then(Event::Retiring(pid(100)))
    };
    let replaced = || after_reload(1).then(Event::Tick).then(Event::Ready(pid(200)));
    let closed = || World::serving(2).then(Event::RemoveWorker);
    let handed_over = || {
        let mut world = World::serving(1).then(Event::Retiring(pid(100))).after_ms(20_000, &[]);
        let (plan, inherited) = (world.supervisor.plan, world.supervisor.serialize(world.now));
        world.supervisor = Supervisor::restore(plan, 1, world.now, &inherited, SlotId(1), false);
        world
    };
    assert_on_time(&[
        row("retiring", &retiring, &[], 60_500, killed(100)),
        row("told to drain", &draining, &[], 60_500, killed(100)),
        row("longer graceful timeout", &graceful, &[], 90_500, killed(100)),
        row("replaced in a reload", &replaced, &[], 60_500, killed(100)),
        row("slot closed", &closed, &[], 60_500, killed(101)),
        row("handed over after 20 s", &handed_over, &[], 40_500, killed(100)),
    ]);
}

#[test]
fn a_surplus_old_generation_has_the_graceful_timeout_and_half_a_second() {
    // Of one slot, 6 generations and 64 more may drain at a time.
    let crowded = || {
        (0..71).fold(World::serving(1), |world, generation| {
            let world = world.then(Event::Retiring(pid(100 + generation)));
            world.then(Event::Ready(pid(101 + generation)))
        })
    };
    assert_on_time(&[row("eldest", &crowded, &[], 8500, killed(100))]);
    let last = || crowded().after_ms(8500, &[]);
    assert_on_time(&[row("second eldest", &last, &[], 52_000, killed(101))]);
}

#[test]
fn stopping_has_the_graceful_timeout_and_half_a_second() {
    let stopping = || World::serving(1).then(Event::Stop);
    let delayed = || {
        let world = World::serving_under(1, |plan| plan.shutdown_delay = 5 * SECOND);
        world.then(Event::Stop)
    };
    let code = i32::from(Exit::DoNotRespawn.code());
    assert_eq!(code, 3);
    let cannot_listen = || World::new(2).then(Event::Exited(pid(100), ExitStatus::Code(3)));
    assert_on_time(&[
        row("stopped", &stopping, &[], 8500, Action::Log(LogEvent::Killing(1))),
        row("delayed", &delayed, &[], 5000, Action::Log(LogEvent::Draining)),
        row("delayed", &delayed, &[], 5000, Action::CloseAddresses),
        row("delayed", &delayed, &[], 13_500, Action::Log(LogEvent::Killing(1))),
        row("cannot listen", &cannot_listen, &[], 500, Action::Log(LogEvent::Killing(1))),
    ]);
}

#[test]
fn a_worker_that_was_told_to_drain_is_replaced_after_50_ms() {
    let draining = || World::serving(1).then(Event::Draining(pid(100)));
    assert_on_time(&[row("drained from outside", &draining, &[], 50, Action::Spawn(SlotId(1)))]);
}

#[test]
fn two_stops_within_100_ms_are_one() {
    for (gap_ms, second) in [(1, false), (99, false), (100, true)] {
        let mut world = World::serving(1).then(Event::Stop).after_ms(gap_ms, &[]);
        assert!(!world.has(&killed(100)), "nothing yet after {gap_ms} ms");
        world.on(Event::Stop);
        assert_eq!(world.has(&killed(100)), second, "the second stop after {gap_ms} ms");
    }
}

#[test]
fn a_failed_slot_restarts_exactly_after_the_logged_delay() {
    let mut world = World::serving(1);
    let mut waits = 0;
    for _ in 0..12 {
        world.take();
        world.kill(world.next_pid - 1);
        let actions = world.take();
        let wait = actions.iter().find_map(|action| match action {
            Action::Log(LogEvent::RestartDelayed(SlotId(1), wait)) => Some(*wait),
            _ => None,
        });
        if let Some(wait) = wait {
            waits += 1;
            let due = world.now + wait;
            world.pass_until(due - MS, &[]);
            assert_eq!(world.spawned(), 0, "before {wait:?}");
            assert_eq!(world.supervisor.deadline(), Some(due));
            world.pass_until(due, &[]);
            assert_eq!(world.spawned(), 1, "after {wait:?}");
        }
    }
    assert_eq!(waits, 11, "the first replacement is immediate");
}

#[test]
fn a_worker_that_served_for_half_a_second_is_replaced_at_once() {
    for (served_ms, at_once) in [(499, false), (500, true)] {
        let mut world = World::serving(1);
        for _ in 0..2 {
            world.take();
            let worker = world.next_pid - 1;
            world.on(Event::Ready(pid(worker)));
            world.pass_until(world.now + MS * served_ms, &[]);
            world.kill(worker);
        }
        assert_eq!(
            world.has(&Action::Spawn(SlotId(1))),
            at_once,
            "after {served_ms} ms of service"
        );
    }
}

/// Asserts that a worker without heartbeat is excused after a pause longer than `most`, but not
/// earlier.
fn assert_excused_after(most: Duration, timeout: Option<Duration>) {
    for (gap, excused) in [(most, false), (most + MS, true)] {
        let mut world = World::serving_under(2, |plan| plan.worker_timeout = timeout);
        world.pass_until(world.now + SECOND, &[100, 101]);
        world.take();
        world.now += gap;
        world.on(Event::Tick);
        let is_verdict = |action: &Action| {
            matches!(action, Action::Log(LogEvent::Unresponsive(..) | LogEvent::Hung(..)))
        };
        let judged = world.take().iter().any(is_verdict);
        assert_eq!(judged, !excused, "silence of {gap:?}, worker timeout {timeout:?}");
    }
}

#[test]
fn a_pause_of_three_seconds_or_half_the_worker_timeout_is_excused() {
    assert_excused_after(3 * SECOND, None);
    assert_excused_after(3 * SECOND, Some(30 * SECOND));
    assert_excused_after(SECOND, Some(2 * SECOND));
}

#[test]
fn a_pause_extends_the_startup_timeouts() {
    let mut starting = World::new(1);
    let begin = starting.now;
    starting.now += 4 * SECOND;
    starting.on(Event::Tick);
    starting.pass_until(begin + 14 * SECOND - MS, &[]);
    let none_ready = Action::Log(LogEvent::NoneReady);
    assert!(!starting.has(&none_ready), "the silence does not count");
    starting.pass_until(begin + 14 * SECOND, &[]);
    assert!(starting.has(&none_ready));

    for (mut world, newcomer) in [(starting_up(), 102), (replacing(), 200)] {
        world.now += 4 * SECOND;
        world.on(Event::Tick);
        let not_ready = Action::Log(LogEvent::NotReady(SlotId(1), pid(newcomer)));
        let due = world.now + 10 * SECOND;
        world.pass_until(due - MS, &[]);
        assert!(!world.has(&not_ready), "its time begins anew");
        world.pass_until(due, &[]);
        assert!(world.has(&not_ready));
    }
}
