//! The numbers live on, belong together, and harm nobody.

use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use proptest::prelude::*;

use super::events::{Event, Kind};
use super::*;

#[test]
fn the_next_image_finds_the_numbers_and_leaves_taken_seats_alone() {
    let mut before = Statistics::new().expect("memory");
    let seat = before.take_seat().unwrap();
    before.seat(seat).set(Word::Accepted, 7);
    let file = before.file().try_clone().expect("descriptor");
    let mut after = Statistics::resume(file, &[seat]).expect("memory");
    assert_eq!(after.seat(seat).get(Word::Accepted), 7);
    assert_ne!(after.take_seat(), Some(seat));
}

#[test]
fn siblings_see_who_is_listed_and_what_is_on_its_way() {
    let mut statistics = Statistics::new().expect("memory");
    let seat = statistics.take_seat().unwrap();
    statistics.list(3, Some(seat));
    statistics.seat(seat).set(Word::Connections, 5);
    statistics.seat(seat).pass();
    let seen: Vec<_> =
        statistics.siblings().iter().map(|(slot, _, seat)| (slot, seat.load())).collect();
    assert_eq!(seen, [(3, 6)]);
    statistics.list(3, None);
    assert_eq!(statistics.siblings().iter().count(), 0);
}

#[test]
fn foreign_memory_is_refused() {
    let file = std::fs::File::open("/dev/null").expect("open");
    assert!(Statistics::resume(file.into(), &[]).is_err());
}

#[test]
fn a_seat_is_given_out_once_and_comes_back_clean() {
    let mut statistics = Statistics::new().expect("memory");
    let (one, other) = (statistics.take_seat().unwrap(), statistics.take_seat().unwrap());
    assert_ne!(one, other);
    statistics.seat(one).add(Word::Accepted, 3);
    statistics.seat(other).add(Word::Accepted, 4);
    assert_eq!(statistics.seat(one).get(Word::Accepted), 3);
    statistics.free_seat(one);
    assert_eq!(statistics.take_seat(), Some(one));
    assert_eq!(statistics.seat(one).get(Word::Accepted), 0);
    assert_eq!(statistics.seat(other).get(Word::Accepted), 4);
}

/// A seat whose worker of `slot` has accepted `accepted` connections and still owes 30 bytes of 100.
fn busy(statistics: &mut Statistics, slot: u32, accepted: u64) -> usize {
    let seat = statistics.take_seat().unwrap();
    statistics.seat_worker(seat, slot, 1000 + seat as u64, 0);
    let words = statistics.seat(seat);
    words.set(Word::Accepted, accepted);
    words.set(Word::Connections, accepted);
    words.add(Word::Received, 100);
    words.add(Word::Sent, 70);
    words.add(Word::Buffered, 30);
    seat
}

fn taken(statistics: &Statistics) -> Snapshot {
    Snapshot::take(statistics.layout(), 1_000_000)
}

#[test]
fn what_a_killed_worker_could_not_count_is_put_right() {
    let mut statistics = Statistics::new().expect("memory");
    let (killed, other) = (busy(&mut statistics, 1, 5), busy(&mut statistics, 2, 3));
    statistics.seat(killed).closed(Reason::ClientDone, Duration::ZERO, 0);
    let before = taken(&statistics).totals;
    assert_eq!((before.connections_active, before.bytes_buffered, before.bytes_lost), (8, 60, 0));
    statistics.free_seat(killed);
    let snapshot = taken(&statistics);
    let (totals, slot) = (&snapshot.totals, &snapshot.slots[0].figures);
    assert_eq!(
        (totals.connections_accepted, totals.bytes_received, totals.bytes_sent),
        (8, 200, 140)
    );
    assert_eq!((totals.connections_active, totals.bytes_buffered), (3, 30), "gauges are gone");
    assert_eq!((totals.bytes_abandoned, totals.bytes_lost), (30, 0));
    assert_eq!((slot.connections_active, slot.connections_closed.sum()), (0, 5));
    assert_eq!(slot.connections_closed.0.last(), Some(&(Reason::WorkerDied, 4)));
    statistics.free_seat(other);
    assert_eq!(taken(&statistics).totals.connections_closed.sum(), 8);
}

#[test]
fn bytes_that_vanish_in_an_orderly_end_are_seen() {
    let mut statistics = Statistics::new().expect("memory");
    for (reason, lost) in [(Reason::ClientReset, 0), (Reason::WriteTimeout, 0), (Reason::Idle, 30)]
    {
        let seat = busy(&mut statistics, 1, 1);
        statistics.seat(seat).closed(reason, Duration::ZERO, 30);
        let totals = taken(&statistics).totals;
        assert_eq!((totals.bytes_lost, totals.bytes_buffered), (lost, 0), "{reason:?}");
    }
}

#[test]
fn paused_workers_are_counted_whatever_has_stopped_them() {
    let mut statistics = Statistics::new().expect("memory");
    for reason in [0, 1, 2, 2] {
        let seat = busy(&mut statistics, 1, 1);
        statistics.seat(seat).set(Word::Paused, reason);
    }
    assert_eq!(taken(&statistics).totals.accept_paused, 3);
}

#[test]
fn the_last_events_are_remembered_the_latest_first() {
    let statistics = Statistics::new().expect("memory");
    let event = |value| Event { at_ms: 7, kind: Kind::Ready, slot: 2, value };
    (0..200).for_each(|value| events::record(statistics.layout(), event(value)));
    let values: Vec<u64> = taken(&statistics).events.iter().map(|event| event.value).collect();
    assert_eq!(values, (72..200).rev().collect::<Vec<u64>>());
}

#[test]
fn whoever_reads_meanwhile_sees_no_number_shrink() {
    let mut statistics = Statistics::new().expect("memory");
    let file = statistics.file().try_clone().expect("descriptor");
    let over = AtomicBool::new(false);
    let keep = busy(&mut statistics, 1, 0);
    thread::scope(|scope| {
        let over = &over;
        let reader = scope.spawn(move || {
            let (reader, mut before) = (Statistics::resume(file, &[]).expect("memory"), 0);
            let mut readings = 0_u32;
            while !over.load(Ordering::Relaxed) {
                let totals = taken(&reader).totals;
                assert!(totals.connections_accepted >= before, "{totals:?} after {before}");
                // What a worker is about to send is nowhere in that moment; never the other way round.
                assert!((0..=100).contains(&totals.bytes_lost), "{totals:?}");
                before = totals.connections_accepted;
                readings += 1;
            }
            readings
        });
        for _ in 0..3_000 {
            let seat = busy(&mut statistics, 1, 10);
            statistics.free_seat(seat);
            reading::sample(statistics.layout(), 5);
        }
        over.store(true, Ordering::Relaxed);
        assert!(reader.join().expect("no number has shrunk") > 0);
    });
    statistics.free_seat(keep);
    assert_eq!(taken(&statistics).totals.connections_accepted, 30_000);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]
    #[test]
    fn hostile_numbers_harm_nobody(
        words in prop::collection::vec(
            prop_oneof![Just(u64::MAX), Just(u64::MAX - 1), Just(0), Just(1 << 63), any::<u64>()],
            97,
        ),
    ) {
        let mut statistics = Statistics::new().expect("memory");
        let seat = statistics.take_seat().unwrap();
        // Everything but the pages that nobody would ever touch.
        let all = statistics.layout().0;
        let last = all.len() - 8000 * words::BLOCK_WORDS;
        for (word, value) in all[2..last].iter().zip(words.iter().cycle()) {
            word.store(*value, Ordering::Relaxed);
        }
        let layout = statistics.layout();
        events::record(layout, Event { at_ms: 1, kind: Kind::Ready, slot: 1, value: 1 });
        layout.count_restart(u32::MAX, Cause::Hung);
        reading::sample(layout, 12);
        let saved = saved::Saved::of(layout, 5, 5);
        let text = serde_json::to_string(&taken(&statistics)).expect("JSON");
        prop_assert!(!text.contains("NaN"));
        let _ = saved::Saved::parse(&saved.to_text());
        prop_assert!(statistics.siblings().iter().count() <= layout::SLOTS);
        statistics.seat_worker(seat, 1, 1, 1);
        statistics.free_seat(seat);
        let _ = taken(&statistics);
    }
}

#[test]
fn a_controller_that_is_not_heard_of_is_not_ready() {
    let statistics = Statistics::new().expect("memory");
    let layout = statistics.layout();
    for (word, value) in [(FleetWord::Phase, Phase::Serving as u64), (FleetWord::Healthy, 1)] {
        layout.set_fleet(word, value);
    }
    layout.set_fleet(FleetWord::StartedUptime, 1000);
    let at = |uptime_ms| {
        let snapshot = Snapshot::take(layout, uptime_ms);
        (snapshot.ready, snapshot.controller_is_silent(), snapshot.rates.second.messages)
    };
    assert_eq!(at(10_999), (true, false, 0.0));
    assert_eq!(at(11_000), (false, true, 0.0), "it never stirred");
    reading::sample(layout, 11_000);
    layout.former(0).expect("a block").add(Word::Messages, 5);
    reading::sample(layout, 12_000);
    assert_eq!(at(21_999), (true, false, 5.0));
    assert_eq!(at(22_000), (false, true, 0.0), "nobody knows what goes on now");
}

#[test]
fn lines_that_the_admin_process_drops_are_counted() {
    let mut statistics = Statistics::new().expect("memory");
    let seat = statistics.take_seat().expect("a seat");
    statistics.seat_worker(seat, 0, 1000, 1);
    let dropped = |statistics: &Statistics| {
        let snapshot = Snapshot::take(statistics.layout(), 1);
        (snapshot.log_lines_dropped, snapshot.totals.messages)
    };
    statistics.seat(seat).add(Word::LogDropped, 3);
    statistics.seat(seat).add(Word::Messages, 1);
    assert_eq!(dropped(&statistics), (3, 0));
    statistics.free_seat(seat);
    assert_eq!(dropped(&statistics), (3, 0));
}
