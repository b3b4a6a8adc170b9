//! What is written down comes back, aged, and nobody's file is taken for ours.

use std::time::Duration;

use super::saved::{NotSaved, Saved};
use super::{Reason, Snapshot, Statistics, Word, reading};

/// Ten seconds of a daemon with one connection and 100 bytes a second, and one connection open.
fn lived() -> Statistics {
    let mut statistics = Statistics::new().expect("memory");
    let seat = statistics.take_seat().expect("a seat");
    statistics.seat_worker(seat, 1, 1000, 0);
    let words = statistics.seat(seat);
    for second in 0..=10 {
        reading::sample(statistics.layout(), 100_000 + second * 1000);
        words.add(Word::Accepted, 1);
        words.add(Word::Messages, 1);
        words.add(Word::Received, 100);
        words.add(Word::Sent, 100);
        words.closed(Reason::ClientDone, Duration::from_secs(3), 0);
    }
    words.add(Word::Accepted, 1);
    words.add(Word::Received, 50);
    statistics
}

/// What a daemon shows that is started `after` ms later, on a machine that has been up for `uptime`.
fn reborn(saved: &Saved, after: u64, uptime: u64) -> Snapshot {
    let statistics = Statistics::new().expect("memory");
    saved.restore(statistics.layout(), 1_000_000 + after, uptime);
    reading::sample(statistics.layout(), uptime);
    Snapshot::take(statistics.layout(), uptime)
}

fn saved() -> Saved {
    let saved = Saved::of(lived().layout(), 1_000_000, 110_000);
    Saved::parse(&saved.to_text()).expect("one of ours").expect("not empty")
}

#[test]
fn totals_come_back_and_what_was_open_has_ended() {
    let totals = reborn(&saved(), 3_600_000, 50_000).totals;
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
fn rates_go_on_less_the_time_that_has_passed() {
    let at_once = reborn(&saved(), 1000, 111_000).rates.ten_seconds;
    // Of eleven samples the first is too old by now; what came behind the last one counts, too.
    assert_eq!(at_once.connections, 11.0 / 10.0);
    let later = reborn(&saved(), 6000, 116_000).rates.ten_seconds;
    assert_eq!(later.connections, (12.0 - 6.0) / 10.0);
    assert_eq!(reborn(&saved(), 10_001, 120_001).rates.ten_seconds.connections, 0.0);
    // The machine was started anew; its clock was put back.
    assert!(reborn(&saved(), 6000, 8_000).rates.ten_seconds.connections > 0.0);
    assert_eq!(reborn(&saved(), 6000, 500).rates.ten_seconds.connections, 0.0);
    let statistics = Statistics::new().expect("memory");
    saved().restore(statistics.layout(), 999_999, 120_000);
    reading::sample(statistics.layout(), 120_000);
    assert_eq!(Snapshot::take(statistics.layout(), 0).rates.ten_seconds.connections, 0.0);
}

#[test]
fn totals_that_come_late_look_like_no_rush() {
    let statistics = lived();
    saved().restore(statistics.layout(), 1_000_000, 110_000);
    reading::sample(statistics.layout(), 111_000);
    let snapshot = Snapshot::take(statistics.layout(), 111_000);
    assert_eq!(snapshot.totals.connections_accepted, 24);
    assert_eq!(snapshot.rates.second.connections, 2.0);
}

#[test]
fn nothing_is_nothing_and_not_ours_is_not_ours() {
    assert_eq!(Saved::parse(b""), Ok(None));
    assert_eq!(Saved::parse(&[0; 4096]), Ok(None));
    for foreign in ["root:x:0:0:", "{}", "[1]", r#"{"version":1}"#, "\u{fffd}"] {
        assert_eq!(Saved::parse(foreign.as_bytes()), Err(NotSaved::Foreign), "{foreign}");
    }
    let newer = br#"{"tcp-echo-state":7,"anything":[]}"#;
    assert_eq!(Saved::parse(newer), Err(NotSaved::Newer(7)));
}

#[test]
fn damage_is_found_wherever_it_is() {
    let text = saved().to_text();
    for end in 20..text.len() - 2 {
        assert_eq!(Saved::parse(&text[..end]), Err(NotSaved::Damaged), "cut at {end}");
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
        assert_eq!(Saved::parse(bad.as_bytes()), Err(NotSaved::Damaged), "{to}");
    }
}

#[test]
fn a_build_that_counts_other_things_can_read_it() {
    let text = String::from_utf8(saved().to_text()).expect("text");
    let other = text.replacen("\"messages\":", "\"parcels\":", 1);
    let totals = reborn(&Saved::parse(other.as_bytes()).unwrap().unwrap(), 0, 0).totals;
    assert_eq!((totals.connections_accepted, totals.messages), (12, 0));
}

#[test]
fn whatever_stands_in_the_memory_can_be_read_again() {
    let statistics = lived();
    let layout = statistics.layout();
    let seat = statistics.seat(0);
    for word in [Word::Accepted, Word::Received, Word::LagSum] {
        seat.add(word, u64::MAX / 2);
    }
    reading::sample(layout, u64::MAX / 2);
    let saved = Saved::of(layout, 1_000_000, u64::MAX);
    let again = Saved::parse(&saved.to_text()).expect("not damaged").expect("not empty");
    assert_eq!(again, saved);
    again.restore(layout, 1_000_001, 111_000);
    assert!(Saved::parse(&Saved::of(layout, 1_000_001, 111_000).to_text()).is_ok());
}
