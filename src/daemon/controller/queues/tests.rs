//! Queues: attendance, takeover, closing, and steering. The simulation has larger scenarios.

use std::net::SocketAddr;

use super::view::SlotView;
use super::*;
use crate::daemon::ids::{QueueId, SlotId};

const MS: Duration = Duration::from_millis(1);

fn pid(number: i32) -> Pid {
    Pid::from_raw(number)
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Queues, a clock, and the processes: slot N has worker N.
struct Scene {
    queues: Queues,
    view: View,
    now: Instant,
}

impl Scene {
    /// Returns slots that each have an attended queue on each of these ports; queue 0 is slot 1's
    /// first.
    fn new(slots: u32, ports: &[u16]) -> Self {
        let mut queues = Queues::new(false);
        queues.want(ports.iter().map(|port| address(*port)).collect(), false);
        for slot in SlotId::workers(slots) {
            for &port in ports {
                let id = queues.reserve();
                queues.add(id, Kind::Accept(address(port)), slot, Some(pid(slot.0 as i32)));
            }
        }
        let healthy =
            |slot| SlotView { worker: Some(pid(slot)), healthy: true, ..SlotView::default() };
        let slots = (1..=slots as i32).map(healthy).collect();
        let view = View { slots, takeover: true, ..View::default() };
        let mut scene = Self { queues, view, now: Instant::now() };
        assert_eq!(scene.actions(), [], "all queues are attended");
        scene
    }

    fn actions(&mut self) -> Vec<Action> {
        let mut actions = Vec::new();
        self.queues.reconcile(self.view.clone(), self.now, &mut actions);
        actions
    }

    fn after_ms(&mut self, milliseconds: u64) -> Vec<Action> {
        self.now += MS * milliseconds as u32;
        self.actions()
    }

    /// Asserts that nothing happens one millisecond early, and exactly these actions on time.
    #[track_caller]
    fn assert_due(&mut self, after_ms: u64, actions: &[Action]) {
        let due = self.now + MS * after_ms as u32;
        assert_eq!(self.after_ms(after_ms - 1), [], "before {after_ms} ms");
        assert!(self.queues.deadline().is_some_and(|at| at <= due), "a deadline at {after_ms} ms");
        assert_eq!(self.after_ms(1), actions, "after {after_ms} ms");
    }

    /// Makes the worker of a slot unresponsive or responsive.
    fn set_healthy(&mut self, slot: usize, healthy: bool) {
        let view = &mut self.view.slots[slot - 1];
        (view.healthy, view.takeover_now) = (healthy, !healthy);
    }

    fn positions(&self, port: u16) -> Option<Vec<u16>> {
        let mut steering = self.queues.steering();
        steering.find(|(at, ..)| *at == address(port)).and_then(|(.., to)| to)
    }
}

fn q(number: u32) -> QueueId {
    QueueId(number)
}

fn grant(to: i32, queue: u32) -> Action {
    Action::Grant(pid(to), vec![q(queue)])
}

fn release(to: i32, queue: u32) -> Action {
    Action::Release(pid(to), vec![q(queue)])
}

fn close(queue: u32) -> Action {
    Action::Close { queue: q(queue), force: false }
}

#[test]
fn the_only_queues_of_a_wanted_address_are_taken_over_until_a_slot_has_one() {
    let mut scene = Scene::new(2, &[1]);
    // The worker of slot 1 is of the previous configuration, slot 2 is removed.
    scene.queues.want(vec![address(1), address(2)], false);
    scene.queues.add(q(2), Kind::Accept(address(2)), SlotId(2), Some(pid(2)));
    scene.view.slots.truncate(1);
    scene.queues.released(pid(2), &[q(1), q(2)]);
    let both = Action::Grant(pid(1), vec![q(1), q(2)]);
    assert_eq!(scene.actions(), [both], "queue 1 may receive a handshake");
    scene.queues.attending(pid(1), &[q(1), q(2)]);
    assert_eq!(scene.actions(), []);
    assert_eq!(scene.after_ms(1000), [release(1, 1)], "slot 1 has a queue of address 1");
    assert_eq!(scene.after_ms(60_000), [], "no other queue has address 2");
    scene.queues.add(q(3), Kind::Accept(address(2)), SlotId(1), Some(pid(1)));
    scene.actions();
    assert_eq!(scene.after_ms(1000), [release(1, 2)]);
}

#[test]
fn a_queue_without_worker_is_taken_over_after_300_ms_and_given_back() {
    let mut scene = Scene::new(2, &[1]);
    scene.queues.reaped(pid(1));
    scene.view.slots[0] = SlotView::default();
    assert_eq!(scene.actions(), []);
    scene.assert_due(300, &[grant(2, 0)]);
    scene.queues.attending(pid(2), &[q(0)]);
    assert_eq!(scene.after_ms(5000), []);
    scene.queues.forked(pid(7), &[q(0)]);
    assert_eq!(scene.actions(), []);
    scene.queues.ready(pid(7));
    scene.view.slots[0] = SlotView { worker: Some(pid(7)), healthy: true, ..SlotView::default() };
    assert_eq!(scene.actions(), [release(2, 0)]);
    scene.queues.released(pid(2), &[q(0)]);
    assert_eq!(scene.after_ms(5000), []);
}

#[test]
fn the_queue_of_a_hung_worker_is_taken_over_at_once() {
    let mut scene = Scene::new(2, &[1]);
    scene.set_healthy(1, false);
    assert_eq!(scene.actions(), [grant(2, 0)]);
    assert_eq!(scene.positions(1), Some(vec![1]), "new connections avoid it");
    scene.queues.attending(pid(2), &[q(0)]);
    scene.set_healthy(1, true);
    assert_eq!(scene.actions(), [release(2, 0)]);
    assert_eq!(scene.positions(1), None);
}

#[test]
fn an_unacknowledged_grant_goes_to_another_worker() {
    let mut scene = Scene::new(3, &[1]);
    scene.set_healthy(1, false);
    assert_eq!(scene.actions(), [grant(2, 0)]);
    scene.assert_due(1000, &[release(2, 0), grant(3, 0)]);
    // A late acknowledgment changes nothing, and the worker closes the queue.
    scene.queues.attending(pid(2), &[q(0)]);
    scene.queues.attending(pid(3), &[q(0)]);
    assert_eq!(scene.actions(), []);
    scene.queues.released(pid(2), &[q(0)]);
    assert_eq!(scene.after_ms(5000), []);
}

#[test]
fn a_refused_grant_is_repeated_after_half_a_second() {
    let mut scene = Scene::new(2, &[1]);
    scene.set_healthy(1, false);
    scene.actions();
    scene.queues.refused(pid(2), &[q(0)], scene.now);
    assert_eq!(scene.actions(), []);
    scene.assert_due(500, &[grant(2, 0)]);
    scene.queues.unsent(pid(2), &[q(0)], scene.now);
    assert_eq!(scene.actions(), []);
    scene.assert_due(500, &[grant(2, 0)]);
}

#[test]
fn an_unwanted_queue_is_closed_after_its_last_release() {
    let mut scene = Scene::new(2, &[1]);
    scene.view.slots.pop();
    scene.view.draining.push(pid(2));
    assert_eq!(scene.actions(), []);
    assert_eq!(scene.positions(1), Some(vec![0]));
    scene.assert_due(1000, &[release(2, 1)]);
    assert_eq!(scene.after_ms(10), []);
    scene.queues.released(pid(2), &[q(1)]);
    assert_eq!(scene.actions(), [close(1)]);
    assert_eq!(scene.actions(), [], "once");
    scene.queues.not_empty(q(1), scene.now);
    assert_eq!(scene.actions(), [grant(1, 1)]);
    scene.queues.attending(pid(1), &[q(1)]);
    assert_eq!(scene.actions(), []);
    scene.assert_due(50, &[release(1, 1)]);
    scene.queues.released(pid(1), &[q(1)]);
    assert_eq!(scene.actions(), [close(1)]);
    scene.queues.closed(q(1));
    assert_eq!(scene.positions(1), None);
}

#[test]
fn a_queue_stays_open_while_a_hung_process_may_hold_it() {
    let mut scene = Scene::new(2, &[1]);
    scene.view.slots.pop();
    // A hung worker is not among the draining ones.
    assert_eq!(scene.actions(), [grant(1, 1)]);
    scene.queues.attending(pid(1), &[q(1)]);
    assert_eq!(scene.after_ms(4000), [release(2, 1)], "for the case that it continues");
    assert_eq!(scene.after_ms(4000), []);
    scene.queues.reaped(pid(2));
    assert_eq!(scene.actions(), [release(1, 1)]);
    scene.queues.released(pid(1), &[q(1)]);
    assert_eq!(scene.actions(), [close(1)]);
}

#[test]
fn a_queue_waits_for_a_healthy_worker() {
    let mut scene = Scene::new(2, &[1]);
    scene.view.slots.pop();
    scene.set_healthy(1, false);
    scene.queues.reaped(pid(2));
    assert_eq!(scene.actions(), []);
    assert_eq!(scene.after_ms(1000), [close(1)]);
    scene.queues.not_empty(q(1), scene.now);
    assert_eq!(scene.after_ms(60_000), []);
    scene.set_healthy(1, true);
    assert_eq!(scene.actions(), [grant(1, 1)]);
}

#[test]
fn removing_an_address_releases_only_its_queues() {
    let mut scene = Scene::new(1, &[1, 2]);
    scene.queues.want(vec![address(2)], false);
    assert_eq!(scene.actions(), []);
    scene.assert_due(1000, &[release(1, 0)]);
    scene.queues.released(pid(1), &[q(0)]);
    assert_eq!(scene.actions(), [close(0)]);
}

#[test]
fn a_starting_process_may_hold_every_queue_of_its_fork() {
    let mut scene = Scene::new(2, &[1]);
    scene.queues.forked(pid(9), &[q(0)]);
    scene.view.slots.pop();
    scene.queues.reaped(pid(2));
    assert_eq!(scene.actions(), [grant(1, 1)]);
    scene.queues.attending(pid(1), &[q(1)]);
    assert_eq!(scene.after_ms(5000), [], "it could be the last that holds it");
    scene.queues.ready(pid(9));
    assert!(scene.actions().contains(&release(1, 1)));
}

#[test]
fn the_last_member_moves_to_the_position_of_a_closed_one() {
    let mut scene = Scene::new(4, &[1]);
    scene.queues.closed(q(1));
    scene.set_healthy(4, false);
    scene.actions();
    assert_eq!(scene.positions(1), Some(vec![0, 2]), "slots 1 and 3; 4 is at 1 now");
}

#[test]
fn external_queues_are_shared_among_slots() {
    let external = |count: u32, slots: u32| {
        let mut queues = Queues::new(false);
        for _ in 0..count {
            let id = queues.reserve();
            queues.add(id, Kind::External(address(1)), NO_SLOT, None);
        }
        let of_slot = |slot| queues.queues_for_slot(slot, slots).iter().map(|id| id.0).collect();
        SlotId::workers(slots).map(of_slot).collect::<Vec<Vec<u32>>>()
    };
    assert_eq!(external(1, 3), [vec![0], vec![0], vec![0]]);
    assert_eq!(external(2, 2), [vec![0], vec![1]]);
    assert_eq!(external(2, 3), [vec![0], vec![1], vec![0]]);
    assert_eq!(external(3, 2), [vec![0, 2], vec![1]]);
}

#[test]
fn a_stored_queue_is_closed_after_its_duplicate() {
    let mut scene = Scene::new(2, &[1]);
    scene.queues.stored(q(1), 0);
    scene.view.slots.pop();
    scene.view.draining.push(pid(2));
    assert_eq!(scene.actions(), [Action::Unstore(q(1))]);
    assert_eq!(scene.queues.removed_number(q(1)), Some((SlotId(2), 0)));
    assert_eq!(scene.after_ms(3000), [], "the last attendant stays until then");
    scene.assert_due(2000, &[Action::Unstore(q(1))]);
    scene.queues.unstored(q(1), 7);
    assert_eq!(scene.actions(), [], "that was another one");
    scene.queues.unstored(q(1), 0);
    assert_eq!(scene.queues.removed_number(q(1)), None, "a repeated removal comes too late");
    assert_eq!(scene.actions(), [release(2, 1)]);
}

#[test]
fn the_next_image_restores_the_queues() {
    let mut scene = Scene::new(3, &[1]);
    scene.queues.stored(q(2), 0);
    scene.set_healthy(1, false);
    scene.actions();
    scene.queues.closed(q(1));
    let text = serde_json::to_string(&scene.queues.serialize()).expect("JSON");
    let handover: HandoverQueues = serde_json::from_str(&text).expect("what was written");
    let mut restored = Queues::restore(handover, false, scene.now);
    assert_eq!(restored.serialize(), scene.queues.serialize());
    restored.want(vec![address(1)], false);
    scene.queues = restored;
    assert!(scene.actions().contains(&release(2, 0)), "the grant may have been lost: taken back");
    assert_eq!(scene.queues.reserve(), q(3));
}

#[test]
fn handover_version_1_is_restored() {
    let (one, two) = (SlotId(1), SlotId(2));
    let sockets = vec![(one, address(1)), (one, address(2)), (two, address(2)), (two, address(1))];
    let version1 = Version1 {
        sockets,
        // A slot went and came back: the order is not that of the slots.
        members: vec![(address(1), two), (address(1), one), (address(2), one), (address(2), two)],
        external: Vec::new(),
        handoff: vec![one],
        stored: vec![(two, 1)],
        workers: vec![(11, one), (12, two)],
    };
    let queues = version1.queues();
    let places: Vec<usize> = queues.iter().map(|(_, place)| *place).collect();
    assert_eq!(places, [3, 0, 1, 2, 4]);
    assert_eq!(queues[0].0.attendants, [12]);
    assert_eq!(queues[0].0.stored, Some(1));
    assert_eq!(queues[4].0.kind, Kind::Handoff);
    let queues = queues.into_iter().map(|(queue, _)| queue).collect();
    let now = Instant::now();
    let mut restored = Queues::restore(HandoverQueues { next: 0, queues }, true, now);
    restored.attended_by_legacy(pid(11), SlotId(1), now);
    restored.want(vec![address(1), address(2)], true);
    let slots = [11, 12].map(|worker| SlotView {
        worker: Some(pid(worker)),
        healthy: worker == 12,
        ..SlotView::default()
    });
    let view = View { slots: slots.to_vec(), takeover: true, ..View::default() };
    restored.reconcile(view, now, &mut Vec::new());
    let to = |port| restored.steering().find(|(at, ..)| *at == address(port));
    assert_eq!(to(1).and_then(|(.., to)| to), Some(vec![0]));
    assert_eq!(to(2).and_then(|(.., to)| to), Some(vec![1]));
}
#[test]
fn draining_workers_drain_queues_until_they_end() {
    let mut scene = Scene::new(2, &[1]);
    scene.view.stopping = true;
    scene.view.slots = vec![SlotView::default(); 2];
    scene.view.draining = vec![pid(1), pid(2)];
    for worker in [1, 2] {
        scene.queues.released(pid(worker), &[q(0), q(1)]);
    }
    assert_eq!(scene.actions(), [close(0), close(1)]);
    scene.queues.closed(q(1));
    for _ in 0..100 {
        scene.queues.not_empty(q(0), scene.now);
        assert_eq!(scene.actions(), []);
        scene.assert_due(50, &[grant(1, 0)]);
        scene.queues.attending(pid(1), &[q(0)]);
        scene.queues.released(pid(1), &[q(0)]);
        assert_eq!(scene.actions(), [close(0)]);
    }
    scene.queues.not_empty(q(0), scene.now);
    scene.view.draining.clear();
    scene.view.alive = 1;
    assert_eq!(scene.after_ms(50), [], "the last worker is silent and may respond again");
    scene.view.alive = 0;
    let whatever_waits = Action::Close { queue: q(0), force: true };
    assert_eq!(scene.after_ms(50), [whatever_waits]);
}
