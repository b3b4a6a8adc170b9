//! `tcp-echo check`: the daemon passes with every option, and each faulty server fails with its reason.

use std::time::Duration;

use super::support::faulty_servers::{Behavior, TestServer, closed_port};
use super::support::launch::Outcome;
use super::support::{TestLock, assert_between, ms, secs};

/// Runs a check to its end.
fn check(lock: &TestLock, target: &str, options: &[&str]) -> Outcome {
    let mut args = vec!["check", target];
    args.extend_from_slice(options);
    lock.launch(&args).run()
}

/// The check has passed, and said so in one line.
#[track_caller]
fn assert_passed(outcome: &Outcome, target: &str) {
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert_eq!(outcome.stderr, Vec::<String>::new(), "{outcome:?}");
    let last = outcome.stdout.last().expect("a line of result");
    assert!(last.starts_with(&format!("ok: {target} echoed ")), "{outcome:?}");
}

/// The check has failed, and said why in one line.
#[track_caller]
fn assert_failed(outcome: &Outcome, target: &str, reason: &str) {
    outcome.assert_one_line(1, &[reason]);
    assert!(outcome.stderr[0].starts_with(&format!("failed: {target}: ")), "{outcome:?}");
    assert_eq!(outcome.stdout, Vec::<String>::new(), "{outcome:?}");
}

const OPTIONS: [&[&str]; 9] = [
    &[],
    &["--quick"],
    &["--no-half-close"],
    &["--slow"],
    &["--ragged"],
    &["--slow", "--ragged", "--no-half-close"],
    &["--bytes", "3MiB", "--connections", "20"],
    &["--bytes", "0"],
    &["--connections", "200"],
];

#[test]
fn the_daemon_passes_every_check_under_every_option() {
    let lock = TestLock::shared();
    for daemon in [
        &["--workers", "2"][..],
        &["--workers", "1", "--buffer-size", "4KiB"],
        &["--workers", "1", "--enable-nodelay=false", "--linger-timeout", "0"],
        &["--workers", "1", "--busy-poll", "200"],
    ] {
        let server = lock.start(daemon);
        let target = server.address().to_string();
        for options in OPTIONS {
            // On a busy machine 200 connections can take longer than the default timeout.
            let outcome = check(&lock, &target, &[options, &["--timeout", "9s"]].concat());
            assert_passed(&outcome, &target);
            assert_eq!(outcome.stdout.len(), 1, "{outcome:?}");
        }
        server.stop();
    }
}

#[test]
fn verbose_prints_a_line_per_case() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "1"]);
    let target = server.address().to_string();
    let outcome = check(&lock, &target, &["--verbose"]);
    assert_passed(&outcome, &target);
    assert_eq!(outcome.stdout.len(), 13, "{outcome:?}");
    assert!(outcome.stdout[12].contains(" echoed 12 cases, 8.3 MiB in "), "{outcome:?}");
    assert!(outcome.stdout[4].starts_with("ok      65536 bytes with half-close ("), "{outcome:?}");
    server.stop();
}

#[test]
fn the_target_is_a_host_name_or_an_environment_variable() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "1"]);
    let port = server.port();
    let named = format!("localhost:{port}");
    assert_passed(&check(&lock, &named, &["--quick"]), &named);
    let outcome = lock.launch(&["check", "--quick"]).env("TCP_ECHO_PORT", &port.to_string()).run();
    assert_passed(&outcome, &format!("127.0.0.1:{port}"));
    let outcome = check(&lock, "no-such-host.invalid:7", &[]);
    assert_failed(&outcome, "no-such-host.invalid:7", "cannot resolve the name");
    server.stop();
}

#[test]
fn a_correct_server_passes_and_each_fault_has_its_own_message() {
    let lock = TestLock::shared();
    let honest = TestServer::start(Behavior::Honest);
    assert_passed(&check(&lock, &honest.target(), &[]), &honest.target());
    for (behavior, reason) in [
        (
            Behavior::LosesAtHalfClose,
            ": 65535 bytes with half-close: got 40960 of 65535 bytes, then end of file",
        ),
        (Behavior::Swaps, ": 1000 bytes with half-close: byte 500 of 1000 came back as 0x"),
        (Behavior::Drops, ": 1000 bytes with half-close: byte 500 of 1000 came back as 0x"),
        (Behavior::Repeats, ": 1000 bytes with half-close: byte 500 of 1000 came back as 0x"),
        (Behavior::Resets, ": 1000 bytes with half-close: got 0 of 1000 bytes, then a reset"),
        (
            Behavior::ClosesEarly,
            ": 65535 bytes with half-close: got 1000 of 65535 bytes, then end of file",
        ),
        (Behavior::Adds, ": 0 bytes with half-close: got excess bytes: 1 received, 0 sent"),
    ] {
        let server = TestServer::start(behavior);
        assert_failed(&check(&lock, &server.target(), &[]), &server.target(), reason);
    }
    let closed = closed_port();
    let outcome = check(&lock, &closed, &[]);
    assert_eq!((outcome.code, outcome.stdout.len()), (Some(1), 0), "{outcome:?}");
    let reason = "connection refused; is the daemon running?";
    let line = format!("failed: cannot connect to {closed}: {reason}");
    assert_eq!(outcome.stderr, [line], "{outcome:?}");
}

#[test]
fn a_stalling_server_fails_after_the_timeout() {
    let lock = TestLock::shared();
    for (behavior, reason) in [
        (
            Behavior::Stalls,
            ": 1000 bytes with half-close: got 100 of 1000 bytes, then nothing until the timeout \
             of 500ms",
        ),
        (
            Behavior::NeverCloses,
            ": 1000 bytes with half-close: got all 1000 bytes, but no end of file until the \
             timeout of 500ms",
        ),
    ] {
        let server = TestServer::start(behavior);
        let outcome = check(&lock, &server.target(), &["--timeout", "500ms", "--bytes", "1000"]);
        assert_failed(&outcome, &server.target(), reason);
        assert_between("the whole check", outcome.took, ms(500), secs(2));
    }
}

#[test]
fn loss_at_half_close_fails_only_that_check() {
    let lock = TestLock::shared();
    let server = TestServer::start(Behavior::LosesAtHalfClose);
    let target = server.target();
    assert_passed(&check(&lock, &target, &["--no-half-close"]), &target);
    // The other cases are tried all the same.
    let outcome = check(&lock, &target, &["--verbose"]);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert_eq!(outcome.stdout.len(), 12, "{outcome:?}");
    let passed = outcome.stdout.iter().filter_map(|line| line.strip_prefix("ok      "));
    let passed: Vec<&str> = passed.filter_map(|line| line.split(" (").next()).collect();
    assert_eq!(
        passed,
        [
            "0 bytes with half-close",
            "1 byte with half-close",
            "1000 bytes with half-close",
            "1048576 bytes without half-close",
            "65535 bytes message by message without half-close",
        ]
    );
}

#[test]
fn a_server_with_one_connection_at_a_time_fails_the_concurrency_check() {
    let lock = TestLock::shared();
    let server = TestServer::start(Behavior::OneAtATime);
    let target = server.target();
    assert_passed(&check(&lock, &target, &["--connections", "1"]), &target);
    let outcome = check(&lock, &target, &["--timeout", "1", "--bytes", "1000"]);
    assert_failed(&outcome, &target, "1000 bytes on each of 4 connections with half-close: got ");
}

#[test]
fn a_server_that_does_not_answer_to_connect_times_out() {
    let lock = TestLock::shared();
    // Discarded by the kernel, without an answer: nobody has this address (RFC 5737), and where the
    // machine knows that, it says so at once.
    let limit = ms(300);
    let outcome = check(&lock, "192.0.2.1:7", &["--timeout", "300ms"]);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    let line = &outcome.stderr[0];
    assert!(line.starts_with("failed: cannot connect to 192.0.2.1:7: "), "{line}");
    assert_between("the whole check", outcome.took, Duration::ZERO, limit + secs(2));
}
