//! Transcripts of notifications with their times.

use proptest::prelude::*;

use super::*;
use crate::daemon::ids::SlotId;

const SERVING: DaemonStatus = DaemonStatus {
    phase: Phase::Serving,
    workers_ready: 6,
    workers_wanted: 6,
    connections: 0,
    healthy: true,
    drain_left: Duration::ZERO,
};
const STARTING: DaemonStatus = DaemonStatus { phase: Phase::Starting, workers_ready: 0, ..SERVING };
const RELOADING: DaemonStatus = DaemonStatus { phase: Phase::Reloading, ..SERVING };

fn draining(connections: u64, seconds_left: u64) -> DaemonStatus {
    let drain_left = Duration::from_secs(seconds_left);
    DaemonStatus { phase: Phase::Draining, connections, drain_left, ..SERVING }
}

/// Checks the notifications of each line: milliseconds, status, and datagrams separated by ` | `.
fn transcript(notifier: &mut Notifier, start: Instant, lines: &[(u64, DaemonStatus, &str)]) {
    for &(millis, view, expected) in lines {
        let now = start + Duration::from_millis(millis);
        let texts = notifier.tick(view, now, 5_000_000 + millis * 1000);
        assert_eq!(texts.join(" | "), expected, "at {millis} ms");
    }
}

fn check(watchdog: Option<Duration>, lines: &[(u64, DaemonStatus, &str)]) {
    transcript(&mut Notifier::new(watchdog), Instant::now(), lines);
}

#[test]
fn start() {
    let one = DaemonStatus { connections: 1, ..SERVING };
    let wounded = DaemonStatus { workers_ready: 5, connections: 120, ..SERVING };
    check(
        None,
        &[
            (0, STARTING, ""),
            (50, STARTING, ""),
            (90, SERVING, "READY=1\nSTATUS=6/6 workers, 0 connections"),
            (100, one, ""),
            (1089, one, ""),
            (1090, one, "STATUS=6/6 workers, 1 connection"),
            (5000, one, ""),
            (5001, wounded, "STATUS=5/6 workers, 120 connections"),
            (5500, one, ""),
            (5900, wounded, ""),
            (9000, wounded, ""),
        ],
    );
}

#[test]
fn reload() {
    let ready = "READY=1\nSTATUS=6/6 workers, 0 connections";
    check(
        None,
        &[
            (0, SERVING, ready),
            (300, RELOADING, "RELOADING=1\nMONOTONIC_USEC=5300000\nSTATUS=reloading"),
            (900, RELOADING, ""),
            (3000, DaemonStatus { connections: 7, ..RELOADING }, ""),
            (3100, SERVING, ready),
            (3200, RELOADING, "RELOADING=1\nMONOTONIC_USEC=8200000\nSTATUS=reloading"),
            (3210, draining(2, 8), "STOPPING=1\nSTATUS=draining, 2 connections"),
        ],
    );
}

#[test]
fn a_new_image_ends_the_reload_of_the_old_one() {
    let ready = "READY=1\nSTATUS=6/6 workers, 0 connections";
    check(None, &[(0, STARTING, ""), (70, SERVING, ready)]);
    let reloading = "RELOADING=1\nMONOTONIC_USEC=5000000\nSTATUS=reloading";
    check(None, &[(0, RELOADING, reloading), (70, SERVING, ready)]);
}

#[test]
fn stop() {
    check(
        None,
        &[
            (0, SERVING, "READY=1\nSTATUS=6/6 workers, 0 connections"),
            (100, draining(12, 8), "STOPPING=1\nSTATUS=draining, 12 connections"),
            (200, draining(11, 8), ""),
            (1100, draining(5, 7), "EXTEND_TIMEOUT_USEC=9000000\nSTATUS=draining, 5 connections"),
            (2000, draining(4, 6), ""),
            (2100, draining(4, 6), "EXTEND_TIMEOUT_USEC=8000000\nSTATUS=draining, 4 connections"),
            (8200, draining(1, 0), "EXTEND_TIMEOUT_USEC=2000000\nSTATUS=draining, 1 connection"),
        ],
    );
}

#[test]
fn the_watchdog_is_notified_twice_an_interval_while_enough_workers_are_healthy() {
    let ill = DaemonStatus { healthy: false, ..SERVING };
    let ready = "READY=1\nSTATUS=6/6 workers, 0 connections";
    check(
        Some(Duration::from_secs(4)),
        &[
            (0, STARTING, "WATCHDOG=1"),
            (1000, SERVING, ready),
            (1999, SERVING, ""),
            (2000, SERVING, "WATCHDOG=1"),
            // Late once: counted from then.
            (4300, SERVING, "WATCHDOG=1"),
            (6299, SERVING, ""),
            (6300, ill, ""),
            (6549, SERVING, ""),
            (6550, SERVING, "WATCHDOG=1"),
            (8550, draining(0, 8), "STOPPING=1\nSTATUS=draining, 0 connections | WATCHDOG=1"),
        ],
    );
}

#[test]
fn the_deadline_is_the_watchdogs_and_never_in_the_past() {
    let start = Instant::now();
    assert_eq!(Notifier::new(None).deadline(), None);
    let mut notifier = Notifier::new(Some(Duration::from_millis(800)));
    assert_eq!(notifier.deadline(), None);
    notifier.tick(SERVING, start, 0);
    assert_eq!(notifier.deadline(), Some(start + Duration::from_millis(400)));
    let late = start + Duration::from_secs(5);
    notifier.tick(DaemonStatus { healthy: false, ..SERVING }, late, 0);
    assert_eq!(notifier.deadline(), Some(late + Duration::from_millis(50)));
}

#[test]
fn a_lost_notification_is_repeated() {
    let start = Instant::now();
    let mut notifier = Notifier::new(Some(Duration::from_secs(4)));
    let all = "READY=1\nSTATUS=6/6 workers, 0 connections | WATCHDOG=1";
    transcript(&mut notifier, start, &[(0, SERVING, all), (10, SERVING, "")]);
    notifier.resend_all();
    transcript(&mut notifier, start, &[(20, SERVING, all), (30, SERVING, "")]);
    let stopping = "STOPPING=1\nSTATUS=draining, 3 connections";
    transcript(&mut notifier, start, &[(40, draining(3, 8), stopping)]);
    notifier.resend_all();
    let stopping = "STOPPING=1\nSTATUS=draining, 3 connections | WATCHDOG=1";
    transcript(&mut notifier, start, &[(50, draining(3, 8), stopping)]);
}

#[test]
fn an_unlimited_time_is_no_ignored_number() {
    assert_eq!(more_time(Duration::ZERO), 2_000_000);
    assert_eq!(more_time(Duration::MAX), u64::MAX - 1);
}

#[test]
fn the_watchdogs_interval_comes_from_the_environment() {
    let interval = |environment: &[(&str, &str)]| {
        let find = |name: &str| environment.iter().find(|(key, _)| *key == name);
        watchdog_interval(Pid::from_raw(42), |name| find(name).map(|(_, value)| value.into()))
    };
    let usec = ("WATCHDOG_USEC", "30000000");
    let half_a_minute = Some(Duration::from_secs(30));
    assert_eq!(interval(&[usec]), half_a_minute);
    assert_eq!(interval(&[usec, ("WATCHDOG_PID", "42")]), half_a_minute);
    assert_eq!(interval(&[usec, ("WATCHDOG_PID", "43")]), None);
    assert_eq!(interval(&[usec, ("WATCHDOG_PID", "x")]), None);
    assert_eq!(interval(&[("WATCHDOG_PID", "42")]), None);
    for nonsense in ["", "0", "-1", "1s"] {
        assert_eq!(interval(&[("WATCHDOG_USEC", nonsense)]), None, "{nonsense}");
    }
}

#[test]
fn listeners_are_stored_under_names() {
    assert_eq!(fdstore(SlotId(3), 0), "FDSTORE=1\nFDPOLL=0\nFDNAME=slot-3-0");
    assert_eq!(fdstore_remove(SlotId(3), 1), "FDSTOREREMOVE=1\nFDNAME=slot-3-1");
    for name in ["", "unknown", "slot-", "slot-3", "slot-x-1", "slot-3-1-2", "slot--1-0"] {
        assert_eq!(stored_listener(name), None, "{name}");
    }
}

proptest! {
    #[test]
    fn a_stored_name_is_parsed_back(slot: u32, endpoint: u32) {
        let slot = SlotId(slot);
        let name = stored_name(slot, endpoint);
        prop_assert!(!name.contains(':') && name.len() <= 255);
        prop_assert_eq!(stored_listener(&name), Some((slot, endpoint)));
    }

    /// There is at most one status a second, except with a new phase, and none before the first
    /// workers are ready.
    #[test]
    fn notifications_are_rare(
        steps in prop::collection::vec((0u64..1500, 0u64..5, 0u32..6, any::<bool>()), 1..80),
    ) {
        let start = Instant::now();
        let mut notifier = Notifier::new(None);
        let (mut now, mut last) = (start, None);
        for (millis, connections, workers_ready, drains) in steps {
            now += Duration::from_millis(millis);
            let phase = if drains { Phase::Draining } else { Phase::Serving };
            let view = DaemonStatus { phase, connections, workers_ready, ..SERVING };
            let phase_is_new = notifier.phase != phase;
            let texts = notifier.tick(view, now, 0);
            prop_assert!(texts.len() <= 1);
            if !texts.is_empty() {
                let since = last.replace(now).map(|last| now - last);
                prop_assert!(phase_is_new || since >= Some(STATUS_INTERVAL));
            }
        }
    }
}
