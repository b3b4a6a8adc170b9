//! Tests of the text of the state file: restoring totals and rates, damage, other files.

use std::time::Duration;

use super::saved::{ParseError, SavedTotals};
use super::{Field, Reason, Snapshot, Statistics, reading};
use crate::daemon::ids::{BlockId, SlotId};

/// Returns the statistics after ten seconds with a connection and 100 bytes per second, and one connection
/// open.
fn used_statistics() -> Statistics {
    let mut statistics = Statistics::new().expect("memory");
    let block = statistics.allocate().expect("a block");
    statistics.assign(block, SlotId(1), 1000, 0);
    let words = statistics.block(block);
    for second in 0..=10 {
        reading::sample(statistics.layout(), 100_000 + second * 1000);
        words.add(Field::Accepted, 1);
        words.add(Field::Messages, 1);
        words.add(Field::Received, 100);
        words.add(Field::Sent, 100);
        words.count_closed(Reason::ClientDone, Duration::from_secs(3), 0);
    }
    words.add(Field::Accepted, 1);
    words.add(Field::Received, 50);
    statistics
}

/// Returns a snapshot of a daemon started `after` milliseconds later, with this uptime in milliseconds.
fn restored(saved: &SavedTotals, after: u64, uptime: u64) -> Snapshot {
    let statistics = Statistics::new().expect("memory");
    saved.restore(statistics.layout(), 1_000_000 + after, uptime);
    reading::sample(statistics.layout(), uptime);
    Snapshot::take(statistics.layout(), uptime)
}

fn saved() -> SavedTotals {
    let saved = SavedTotals::new(used_statistics().layout(), 1_000_000, 110_000);
    SavedTotals::parse(&saved.to_text()).expect("one of ours").expect("not empty")
}

#[test]
fn totals_are_restored_and_open_connections_closed() {
    let totals = restored(&saved(), 3_600_000, 50_000).totals;
    assert_eq!(
        (totals.connections_accepted, totals.bytes_received, totals.bytes_sent),
        (12, 1150, 1100)
    );
    assert_eq!((totals.connections_active, totals.connections_closed.sum()), (0, 12));
    assert_eq!(totals.connections_closed.0.last(), Some(&(Reason::WorkerDied, 1)));
    assert_eq!((totals.bytes_abandoned, totals.bytes_lost), (50, 0));
    assert_eq!(
        (totals.connection_duration.count, totals.connection_duration.sum_seconds),
        (11, 33.0)
    );
}

#[test]
fn rates_are_restored_less_the_elapsed_time() {
    let at_once = restored(&saved(), 1000, 111_000).rates.ten_seconds;
    // The first of eleven samples is too old; a connection after the last one counts.
    assert_eq!(at_once.connections, 11.0 / 10.0);
    let later = restored(&saved(), 6000, 116_000).rates.ten_seconds;
    assert_eq!(later.connections, (12.0 - 6.0) / 10.0);
    assert_eq!(restored(&saved(), 10_001, 120_001).rates.ten_seconds.connections, 0.0);
    // After a reboot; after the clock was set back.
    assert!(restored(&saved(), 6000, 8_000).rates.ten_seconds.connections > 0.0);
    assert_eq!(restored(&saved(), 6000, 500).rates.ten_seconds.connections, 0.0);
    let statistics = Statistics::new().expect("memory");
    saved().restore(statistics.layout(), 999_999, 120_000);
    reading::sample(statistics.layout(), 120_000);
    assert_eq!(Snapshot::take(statistics.layout(), 0).rates.ten_seconds.connections, 0.0);
}

#[test]
fn totals_restored_late_do_not_appear_in_the_rates() {
    let statistics = used_statistics();
    saved().restore(statistics.layout(), 1_000_000, 110_000);
    reading::sample(statistics.layout(), 111_000);
    let snapshot = Snapshot::take(statistics.layout(), 111_000);
    assert_eq!(snapshot.totals.connections_accepted, 24);
    assert_eq!(snapshot.rates.second.connections, 2.0);
}

#[test]
fn empty_and_other_files_are_recognized() {
    assert_eq!(SavedTotals::parse(b""), Ok(None));
    assert_eq!(SavedTotals::parse(&[0; 4096]), Ok(None));
    for foreign in ["root:x:0:0:", "{}", "[1]", r#"{"version":1}"#, "\u{fffd}"] {
        assert_eq!(SavedTotals::parse(foreign.as_bytes()), Err(ParseError::Foreign), "{foreign}");
    }
    let newer = br#"{"tcp-echo-state":7,"anything":[]}"#;
    assert_eq!(SavedTotals::parse(newer), Err(ParseError::Newer(7)));
}

#[test]
fn damage_is_found_anywhere() {
    let text = saved().to_text();
    for end in 20..text.len() - 2 {
        assert_eq!(SavedTotals::parse(&text[..end]), Err(ParseError::Damaged), "cut at {end}");
    }
    let text = String::from_utf8(text).expect("text");
    for (from, to) in [
        ("\"accepted\":12", "\"accepted\":-12"),
        ("\"accepted\":12", "\"accepted\":18446744073709551615"),
        ("\"accepted\":12", "\"accepted\":{}"),
        ("\"tcp-echo-state\":1", "\"tcp-echo-state\":\"1\""),
        ("\"samples\":[[", "\"samples\":[[1,[1,2,3]],["),
    ] {
        let bad = text.replacen(from, to, 1);
        assert_ne!(bad, text);
        assert_eq!(SavedTotals::parse(bad.as_bytes()), Err(ParseError::Damaged), "{to}");
    }
}

#[test]
fn unknown_counters_are_ignored() {
    let text = String::from_utf8(saved().to_text()).expect("text");
    let other = text.replacen("\"messages\":", "\"parcels\":", 1);
    let totals = restored(&SavedTotals::parse(other.as_bytes()).unwrap().unwrap(), 0, 0).totals;
    assert_eq!((totals.connections_accepted, totals.messages), (12, 0));
}

#[test]
fn corrupted_memory_can_be_saved_and_restored() {
    let statistics = used_statistics();
    let layout = statistics.layout();
    let block = statistics.block(BlockId(0));
    for word in [Field::Accepted, Field::Received, Field::LagSum] {
        block.add(word, u64::MAX / 2);
    }
    reading::sample(layout, u64::MAX / 2);
    let saved = SavedTotals::new(layout, 1_000_000, u64::MAX);
    let again = SavedTotals::parse(&saved.to_text()).expect("not damaged").expect("not empty");
    assert_eq!(again, saved);
    again.restore(layout, 1_000_001, 111_000);
    assert!(SavedTotals::parse(&SavedTotals::new(layout, 1_000_001, 111_000).to_text()).is_ok());
}
