//! Tests of the shared memory: allocation, consistent reads, corrupted values.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::thread;
use std::time::Duration;

use proptest::prelude::*;

use super::events::{Event, Kind};
use super::*;

#[test]
fn statistics_are_restored_with_allocated_blocks() {
    let mut before = Statistics::new().expect("memory");
    let block = before.allocate().unwrap();
    before.block(block).set(Field::Accepted, 7);
    let file = before.file().try_clone().expect("descriptor");
    let mut after = Statistics::resume(file, &[block]).expect("memory");
    assert_eq!(after.block(block).get(Field::Accepted), 7);
    assert_ne!(after.allocate(), Some(block));
}

#[test]
fn health_table_shows_healthy_workers_and_their_load() {
    let mut statistics = Statistics::new().expect("memory");
    let block = statistics.allocate().unwrap();
    statistics.set_healthy_block(SlotId(3), Some(block));
    statistics.block(block).set(Field::Connections, 5);
    statistics.block(block).reserve_handoff();
    let seen: Vec<_> =
        statistics.health_table().iter().map(|(slot, _, block)| (slot, block.load())).collect();
    assert_eq!(seen, [(SlotId(3), 6)]);
    statistics.set_healthy_block(SlotId(3), None);
    assert_eq!(statistics.health_table().iter().count(), 0);
}

#[test]
fn a_connection_that_is_taken_never_counts_twice() {
    let statistics = Statistics::new().expect("memory");
    let block = statistics.block(BlockId(0));
    let (done, reserved) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let load = block.load();
                let most = reserved.load(Ordering::SeqCst);
                assert!(load <= most, "{load} connections of {most}");
            }
        });
        for count in 1..=200_000 {
            reserved.store(count, Ordering::SeqCst);
            block.reserve_handoff();
            block.commit_handoff();
            block.set_connections(count);
            // Time for a reader to finish before the next reservation.
            (0..100).for_each(|_| std::hint::spin_loop());
        }
        done.store(true, Ordering::Relaxed);
        reader.join().expect("a reader");
    });
}

#[test]
fn other_memory_is_rejected() {
    let file = std::fs::File::open("/dev/null").expect("open");
    assert!(Statistics::resume(file.into(), &[]).is_err());
}

#[test]
fn freed_block_is_cleared_and_allocated_again() {
    let mut statistics = Statistics::new().expect("memory");
    let (one, other) = (statistics.allocate().unwrap(), statistics.allocate().unwrap());
    assert_ne!(one, other);
    statistics.block(one).add(Field::Accepted, 3);
    statistics.block(other).add(Field::Accepted, 4);
    assert_eq!(statistics.block(one).get(Field::Accepted), 3);
    statistics.release(one);
    assert_eq!(statistics.allocate(), Some(one));
    assert_eq!(statistics.block(one).get(Field::Accepted), 0);
    assert_eq!(statistics.block(other).get(Field::Accepted), 4);
}

/// Allocates a block for a worker of `slot` with `accepted` open connections and 30 unsent bytes of 100.
fn busy(statistics: &mut Statistics, slot: u32, accepted: u64) -> BlockId {
    let block = statistics.allocate().unwrap();
    statistics.assign(block, SlotId(slot), 1000 + block.0 as u64, 0);
    let words = statistics.block(block);
    words.set(Field::Accepted, accepted);
    words.set(Field::Connections, accepted);
    words.add(Field::Received, 100);
    words.add(Field::Sent, 70);
    words.add(Field::Buffered, 30);
    block
}

fn taken(statistics: &Statistics) -> Snapshot {
    Snapshot::take(statistics.layout(), 1_000_000)
}

#[test]
fn open_connections_of_a_killed_worker_count_as_closed() {
    let mut statistics = Statistics::new().expect("memory");
    let (killed, other) = (busy(&mut statistics, 1, 5), busy(&mut statistics, 2, 3));
    statistics.block(killed).count_closed(Reason::ClientDone, Duration::ZERO, 0);
    let before = taken(&statistics).totals;
    assert_eq!((before.connections_active, before.bytes_buffered, before.bytes_lost), (8, 60, 0));
    statistics.release(killed);
    let snapshot = taken(&statistics);
    let (totals, slot) = (&snapshot.totals, &snapshot.slots[0].metrics);
    assert_eq!(
        (totals.connections_accepted, totals.bytes_received, totals.bytes_sent),
        (8, 200, 140)
    );
    assert_eq!((totals.connections_active, totals.bytes_buffered), (3, 30), "gauges are gone");
    assert_eq!((totals.bytes_abandoned, totals.bytes_lost), (30, 0));
    assert_eq!((slot.connections_active, slot.connections_closed.sum()), (0, 5));
    assert_eq!(slot.connections_closed.0.last(), Some(&(Reason::WorkerDied, 4)));
    statistics.release(other);
    assert_eq!(taken(&statistics).totals.connections_closed.sum(), 8);
}

#[test]
fn bytes_unsent_at_an_orderly_close_count_as_lost() {
    let mut statistics = Statistics::new().expect("memory");
    for (reason, lost) in [(Reason::ClientReset, 0), (Reason::WriteTimeout, 0), (Reason::Idle, 30)]
    {
        let block = busy(&mut statistics, 1, 1);
        statistics.block(block).count_closed(reason, Duration::ZERO, 30);
        let totals = taken(&statistics).totals;
        assert_eq!((totals.bytes_lost, totals.bytes_buffered), (lost, 0), "{reason:?}");
    }
}

#[test]
fn paused_workers_are_counted_whatever_the_reason() {
    let mut statistics = Statistics::new().expect("memory");
    for reason in [0, 1, 2, 2] {
        let block = busy(&mut statistics, 1, 1);
        statistics.block(block).set(Field::Paused, reason);
    }
    assert_eq!(taken(&statistics).totals.accept_paused, 3);
}

#[test]
fn last_events_are_returned_latest_first() {
    let statistics = Statistics::new().expect("memory");
    let event = |value| Event { at_ms: 7, kind: Kind::Ready, slot: SlotId(2), value };
    (0..200).for_each(|value| events::record(statistics.layout(), event(value)));
    let values: Vec<u64> = taken(&statistics).events.iter().map(|event| event.value).collect();
    assert_eq!(values, (72..200).rev().collect::<Vec<u64>>());
}

#[test]
fn counters_never_decrease_for_a_concurrent_reader() {
    let mut statistics = Statistics::new().expect("memory");
    let file = statistics.file().try_clone().expect("descriptor");
    let (over, readings) = (AtomicBool::new(false), AtomicU32::new(0));
    let keep = busy(&mut statistics, 1, 0);
    let mut rounds = 0;
    thread::scope(|scope| {
        let (over, readings) = (&over, &readings);
        let reader = scope.spawn(move || {
            let (reader, mut before) = (Statistics::resume(file, &[]).expect("memory"), 0);
            while !over.load(Ordering::Relaxed) {
                let totals = taken(&reader).totals;
                assert!(totals.connections_accepted >= before, "{totals:?} after {before}");
                // Received bytes may not be counted as sent yet, never the other way round.
                assert!((0..=100).contains(&totals.bytes_lost), "{totals:?}");
                before = totals.connections_accepted;
                readings.fetch_add(1, Ordering::Relaxed);
            }
        });
        // On a busy machine the reader may get the CPU late.
        let is_enough = |rounds| rounds >= 3_000 && readings.load(Ordering::Relaxed) >= 10;
        while !is_enough(rounds) && !reader.is_finished() {
            rounds += 1;
            let block = busy(&mut statistics, 1, 10);
            statistics.release(block);
            reading::sample(statistics.layout(), 5);
        }
        over.store(true, Ordering::Relaxed);
        reader.join().expect("no counter decreased");
    });
    statistics.release(keep);
    assert_eq!(taken(&statistics).totals.connections_accepted, rounds * 10);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]
    #[test]
    fn corrupted_memory_causes_no_panic(
        words in prop::collection::vec(
            prop_oneof![Just(u64::MAX), Just(u64::MAX - 1), Just(0), Just(1 << 63), any::<u64>()],
            97,
        ),
    ) {
        let mut statistics = Statistics::new().expect("memory");
        let block = statistics.allocate().unwrap();
        // Everything but 8000 blocks, to save time.
        let all = statistics.layout().0;
        let last = all.len() - 8000 * fields::BLOCK_WORDS;
        for (word, value) in all[2..last].iter().zip(words.iter().cycle()) {
            word.store(*value, Ordering::Relaxed);
        }
        let layout = statistics.layout();
        events::record(layout, Event { at_ms: 1, kind: Kind::Ready, slot: SlotId(1), value: 1 });
        layout.count_restart(SlotId(u32::MAX), Cause::Hung);
        reading::sample(layout, 12);
        let saved = saved::SavedTotals::new(layout, 5, 5);
        let text = serde_json::to_string(&taken(&statistics)).expect("JSON");
        prop_assert!(!text.contains("NaN"));
        let _ = saved::SavedTotals::parse(&saved.to_text());
        prop_assert!(statistics.health_table().iter().count() <= layout::SLOTS);
        statistics.assign(block, SlotId(1), 1, 1);
        statistics.release(block);
        let _ = taken(&statistics);
    }
}

#[test]
fn daemon_with_a_silent_controller_is_not_ready() {
    let statistics = Statistics::new().expect("memory");
    let layout = statistics.layout();
    for (word, value) in [(FleetField::Phase, Phase::Serving as u64), (FleetField::Healthy, 1)] {
        layout.set_fleet(word, value);
    }
    layout.set_fleet(FleetField::StartedUptime, 1000);
    let at = |uptime_ms| {
        let snapshot = Snapshot::take(layout, uptime_ms);
        (snapshot.ready, snapshot.controller_is_silent(), snapshot.rates.second.messages)
    };
    assert_eq!(at(10_999), (true, false, 0.0));
    assert_eq!(at(11_000), (false, true, 0.0), "no sample was taken");
    reading::sample(layout, 11_000);
    layout.former(0).expect("a block").add(Field::Messages, 5);
    reading::sample(layout, 12_000);
    assert_eq!(at(21_999), (true, false, 5.0));
    assert_eq!(at(22_000), (false, true, 0.0), "the samples are too old");
}

#[test]
fn lines_dropped_by_the_admin_process_are_counted() {
    let mut statistics = Statistics::new().expect("memory");
    let block = statistics.allocate().expect("a block");
    statistics.assign(block, SlotId::ADMIN, 1000, 1);
    let dropped = |statistics: &Statistics| {
        let snapshot = Snapshot::take(statistics.layout(), 1);
        (snapshot.log_lines_dropped, snapshot.totals.messages)
    };
    statistics.block(block).add(Field::LogDropped, 3);
    statistics.block(block).add(Field::Messages, 1);
    assert_eq!(dropped(&statistics), (3, 0));
    statistics.release(block);
    assert_eq!(dropped(&statistics), (3, 0));
}
