//! There is always one that answers, and never a flood of them.

use std::time::{Duration, Instant};

use nix::unistd::Pid;

use super::keeper::{Deed, Keeper};

const LIMIT: Option<Duration> = Some(Duration::from_secs(30));

struct Scene {
    keeper: Keeper,
    now: Instant,
    next_pid: i32,
}

impl Scene {
    fn new() -> Self {
        let now = Instant::now();
        let mut keeper = Keeper::new(1, now);
        keeper.want(true);
        Self { keeper, now, next_pid: 100 }
    }

    fn after(&mut self, seconds: f64) -> Vec<Deed> {
        self.now += Duration::from_secs_f64(seconds);
        self.keeper.settle(LIMIT, self.now)
    }

    /// Time passes, with beats.
    fn live(&mut self, seconds: u32, pid: Pid) {
        for _ in 0..seconds {
            self.now += Duration::from_secs(1);
            self.keeper.beat(pid, self.now);
            assert_eq!(self.keeper.settle(LIMIT, self.now), []);
        }
    }

    fn spawn(&mut self) -> Pid {
        assert_eq!(self.after(0.0), [Deed::Spawn]);
        self.next_pid += 1;
        let pid = Pid::from_raw(self.next_pid);
        self.keeper.spawned(pid, self.now);
        pid
    }

    fn serve(&mut self) -> Pid {
        let pid = self.spawn();
        self.keeper.ready(pid, self.now);
        assert_eq!(self.after(0.0), []);
        pid
    }
}

#[test]
fn one_that_had_served_is_replaced_at_once() {
    let mut scene = Scene::new();
    let pid = scene.serve();
    scene.live(5, pid);
    assert_eq!(scene.keeper.ended(pid, false, scene.now), Some(Duration::ZERO));
    scene.spawn();
}

#[test]
fn a_crash_loop_slows_down() {
    let mut scene = Scene::new();
    let mut waited = Duration::ZERO;
    for _ in 0..8 {
        let pid = scene.spawn();
        let delay = scene.keeper.ended(pid, false, scene.now).expect("it was not meant to");
        assert!(delay >= waited / 2, "{delay:?}");
        waited = delay;
        if !delay.is_zero() {
            assert_eq!(scene.after(0.0), []);
            assert_eq!(scene.keeper.deadline(LIMIT), Some(scene.now + delay));
        }
        scene.now += delay;
    }
    assert!(waited > Duration::from_secs(3));
}

#[test]
fn one_that_cannot_be_forked_is_tried_again_later() {
    let mut scene = Scene::new();
    for _ in 0..3 {
        assert_eq!(scene.after(1.0), [Deed::Spawn]);
        scene.keeper.not_spawned(scene.now);
    }
    assert_eq!(scene.after(0.0), []);
}

#[test]
fn one_that_hangs_or_does_not_get_ready_is_killed_once() {
    let mut scene = Scene::new();
    let pid = scene.serve();
    scene.live(3, pid);
    for _ in 0..29 {
        assert_eq!(scene.after(1.0), []);
    }
    assert_eq!(scene.after(1.0), [Deed::Kill(pid, Some("hung")), Deed::Spawn]);
    let next = Pid::from_raw(7);
    scene.keeper.spawned(next, scene.now);
    assert_eq!(scene.keeper.ended(pid, false, scene.now), None, "that was counted");
    for _ in 0..9 {
        assert_eq!(scene.after(1.0), []);
    }
    let killed = scene.after(1.0);
    assert_eq!(killed[0], Deed::Kill(next, Some("does not get ready")));
}

#[test]
fn our_own_silence_is_nobody_elses() {
    let mut scene = Scene::new();
    scene.serve();
    assert_eq!(scene.after(3600.0), []);
}

#[test]
fn in_a_reload_the_old_one_answers_until_the_new_one_does() {
    let mut scene = Scene::new();
    let old = Pid::from_raw(1);
    scene.keeper.inherit(old, scene.now);
    scene.keeper.renew();
    let new = scene.spawn();
    assert_eq!(scene.after(1.0), [], "the new one is not ready");
    // It fails, and so does the next: the old one stays.
    scene.keeper.ended(new, false, scene.now);
    let next = scene.spawn();
    scene.keeper.ready(next, scene.now);
    assert_eq!(scene.after(0.0), [Deed::Retire(old)]);
    assert_eq!(scene.keeper.current(), Some(next));
    assert_eq!(scene.after(2.0), []);
    assert_eq!(scene.after(0.6), [Deed::Kill(old, None)], "it takes too long");
    assert_eq!(scene.keeper.ended(old, false, scene.now), None);
    assert_eq!(scene.after(0.1), []);
}

#[test]
fn one_that_is_not_wanted_goes() {
    let mut scene = Scene::new();
    let pid = scene.serve();
    scene.keeper.want(false);
    assert_eq!(scene.after(0.0), [Deed::Retire(pid)]);
    assert_eq!(scene.keeper.ended(pid, true, scene.now), None);
    assert!(scene.keeper.is_empty());
    assert_eq!(scene.after(1.0), []);
    assert_eq!(scene.keeper.deadline(LIMIT), None);
}

#[test]
fn the_end_is_quick_and_final() {
    let mut scene = Scene::new();
    let (old, pid) = (Pid::from_raw(1), Pid::from_raw(2));
    scene.keeper.inherit(old, scene.now);
    scene.keeper.renew();
    scene.keeper.spawned(pid, scene.now);
    assert_eq!(scene.keeper.end(scene.now), [Deed::Terminate(old), Deed::Terminate(pid)]);
    assert_eq!(scene.keeper.ended(old, true, scene.now), None);
    assert!(!scene.keeper.is_empty());
    assert_eq!(scene.after(0.5), [Deed::Kill(pid, None)]);
    assert_eq!(scene.keeper.ended(pid, false, scene.now), None);
    assert!(scene.keeper.is_empty());
    assert_eq!(scene.after(1.0), []);
}

/// Lets time pass in small steps and returns what was decided; only `beating` has a heartbeat.
fn pass(scene: &mut Scene, limit: Option<Duration>, span: Duration, beating: &[Pid]) -> Vec<Deed> {
    let (until, mut deeds) = (scene.now + span, Vec::new());
    while scene.now < until {
        scene.now = until.min(scene.now + Duration::from_millis(200));
        beating.iter().for_each(|pid| scene.keeper.beat(*pid, scene.now));
        deeds.extend(scene.keeper.settle(limit, scene.now));
    }
    deeds
}

/// Nothing one millisecond early, exactly this on time. The times are stated here, not taken from the
/// constants, so a changed constant fails.
#[track_caller]
fn assert_due(scene: &mut Scene, after_ms: u64, beating: &[Pid], deeds: &[Deed]) {
    let (ms, span) = (Duration::from_millis(1), Duration::from_millis(after_ms));
    let due = scene.now + span;
    assert_eq!(pass(scene, LIMIT, span - ms, beating), [], "before {after_ms} ms");
    let wakes = scene.keeper.deadline(LIMIT);
    assert!(wakes.is_some_and(|at| at <= due), "no deadline at {after_ms} ms: {wakes:?}");
    assert_eq!(pass(scene, LIMIT, ms, beating), deeds, "after {after_ms} ms");
}

#[test]
fn each_deadline_of_the_keeper_is_kept_from_both_sides() {
    let mut scene = Scene::new();
    let pid = scene.spawn();
    let not_ready = Deed::Kill(pid, Some("does not get ready"));
    assert_due(&mut scene, 10_000, &[], &[not_ready, Deed::Spawn]);

    let mut scene = Scene::new();
    let pid = scene.serve();
    assert_due(&mut scene, 30_000, &[], &[Deed::Kill(pid, Some("hung")), Deed::Spawn]);

    // Without a successor to wait for, it ends its answers.
    let mut scene = Scene::new();
    let pid = scene.serve();
    scene.keeper.want(false);
    assert_eq!(scene.after(0.0), [Deed::Retire(pid)]);
    assert_due(&mut scene, 2500, &[pid], &[Deed::Kill(pid, None)]);

    let mut scene = Scene::new();
    let pid = scene.serve();
    assert_eq!(scene.keeper.end(scene.now), [Deed::Terminate(pid)]);
    assert_due(&mut scene, 500, &[pid], &[Deed::Kill(pid, None)]);

    // It may have ended because its whole group was told to, the controller included.
    let mut scene = Scene::new();
    let pid = scene.serve();
    scene.live(1, pid);
    assert_eq!(scene.keeper.ended(pid, true, scene.now), Some(Duration::ZERO));
    assert_due(&mut scene, 50, &[], &[Deed::Spawn]);
}

#[test]
fn the_end_of_the_daemon_shortens_the_time_to_retire_and_never_prolongs_it() {
    for (passed_ms, left_ms) in [(500, 500), (2200, 300)] {
        let mut scene = Scene::new();
        let pid = scene.serve();
        scene.keeper.want(false);
        assert_eq!(scene.after(0.0), [Deed::Retire(pid)]);
        assert_eq!(pass(&mut scene, LIMIT, Duration::from_millis(passed_ms), &[pid]), []);
        assert_eq!(scene.keeper.end(scene.now), []);
        assert_due(&mut scene, left_ms, &[pid], &[Deed::Kill(pid, None)]);
    }
}

#[test]
fn own_silence_of_three_seconds_or_half_the_timeout_is_forgiven() {
    let short = Some(Duration::from_secs(2));
    for (limit, before_ms, most_ms) in [(LIMIT, 27_000, 3000), (short, 1000, 1000)] {
        for (gap_ms, forgiven) in [(most_ms, false), (most_ms + 1, true)] {
            let mut scene = Scene::new();
            let pid = scene.serve();
            assert_eq!(pass(&mut scene, limit, Duration::from_millis(before_ms), &[]), []);
            scene.now += Duration::from_millis(gap_ms);
            let hung =
                scene.keeper.settle(limit, scene.now).contains(&Deed::Kill(pid, Some("hung")));
            assert_eq!(hung, !forgiven, "silence of {gap_ms} ms, timeout {limit:?}");
        }
    }
}

#[test]
fn a_failed_process_is_replaced_exactly_when_it_was_said() {
    let mut scene = Scene::new();
    for failure in 0..6 {
        let pid = scene.spawn();
        let delay = scene.keeper.ended(pid, false, scene.now).expect("it was not meant to");
        if failure > 0 {
            let ms = Duration::from_millis(1);
            assert_eq!(pass(&mut scene, LIMIT, delay - ms, &[]), [], "before {delay:?}");
            scene.now += ms;
        }
    }
}
