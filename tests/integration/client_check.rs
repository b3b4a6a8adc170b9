//! `tcp-echo check`: our daemon passes, whatever is asked; a server that is wrong in any way fails,
//! with a line that says how.

use std::time::Duration;

use super::client_servers::{Manner, Other, nobody};
use super::support::launch::Outcome;
use super::support::{Turn, assert_between, ms, secs};

/// Runs a check to its end.
fn check(turn: &Turn, target: &str, options: &[&str]) -> Outcome {
    let mut args = vec!["check", target];
    args.extend_from_slice(options);
    turn.launch(&args).run()
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
fn our_daemon_passes_every_check_under_every_option() {
    let turn = Turn::shared();
    for daemon in [
        &["--workers", "2"][..],
        &["--workers", "1", "--buffer-size", "4KiB"],
        &["--workers", "1", "--enable-nodelay=false", "--linger-timeout", "0"],
        &["--workers", "1", "--busy-poll", "200"],
    ] {
        let server = turn.start(daemon);
        let target = server.address().to_string();
        for options in OPTIONS {
            // On a busy machine 200 connections can take longer than the default timeout.
            let outcome = check(&turn, &target, &[options, &["--timeout", "9s"]].concat());
            assert_passed(&outcome, &target);
            assert_eq!(outcome.stdout.len(), 1, "{outcome:?}");
        }
        server.stop();
    }
}

#[test]
fn verbose_has_a_line_for_each_case() {
    let turn = Turn::shared();
    let server = turn.start(&["--workers", "1"]);
    let target = server.address().to_string();
    let outcome = check(&turn, &target, &["--verbose"]);
    assert_passed(&outcome, &target);
    assert_eq!(outcome.stdout.len(), 13, "{outcome:?}");
    assert!(outcome.stdout[12].contains(" echoed 12 cases, 8.3 MiB in "), "{outcome:?}");
    assert!(outcome.stdout[4].starts_with("ok      65536 bytes with half-close ("), "{outcome:?}");
    server.stop();
}

#[test]
fn the_server_is_found_by_name_and_by_the_variable() {
    let turn = Turn::shared();
    let server = turn.start(&["--workers", "1"]);
    let port = server.port();
    let named = format!("localhost:{port}");
    assert_passed(&check(&turn, &named, &["--quick"]), &named);
    let outcome = turn.launch(&["check", "--quick"]).env("TCP_ECHO_PORT", &port.to_string()).run();
    assert_passed(&outcome, &format!("127.0.0.1:{port}"));
    let outcome = check(&turn, "no-such-host.invalid:7", &[]);
    assert_failed(&outcome, "no-such-host.invalid:7", "cannot resolve the name");
    server.stop();
}

#[test]
fn an_honest_server_passes_and_a_wrong_one_is_told_from_every_other() {
    let turn = Turn::shared();
    let honest = Other::start(Manner::Honest);
    assert_passed(&check(&turn, &honest.target(), &[]), &honest.target());
    for (manner, reason) in [
        (
            Manner::LosesAtHalfClose,
            ": 65535 bytes with half-close: got 40960 of 65535 bytes, then end of file",
        ),
        (Manner::Swaps, ": 1000 bytes with half-close: byte 500 of 1000 came back as 0x"),
        (Manner::Drops, ": 1000 bytes with half-close: byte 500 of 1000 came back as 0x"),
        (Manner::Repeats, ": 1000 bytes with half-close: byte 500 of 1000 came back as 0x"),
        (Manner::Resets, ": 1000 bytes with half-close: got 0 of 1000 bytes, then a reset"),
        (
            Manner::ClosesEarly,
            ": 65535 bytes with half-close: got 1000 of 65535 bytes, then end of file",
        ),
        (Manner::Adds, ": 0 bytes with half-close: got too much: 1 for 0 bytes that were sent"),
    ] {
        let server = Other::start(manner);
        assert_failed(&check(&turn, &server.target(), &[]), &server.target(), reason);
    }
    let nobody = nobody();
    assert_failed(
        &check(&turn, &nobody, &[]),
        &nobody,
        ": 0 bytes with half-close: connection refused",
    );
}

#[test]
fn a_server_that_stalls_fails_when_the_time_is_up() {
    let turn = Turn::shared();
    for (manner, reason) in [
        (
            Manner::Stalls,
            ": 1000 bytes with half-close: got 100 of 1000 bytes, then nothing until the timeout \
             of 500ms",
        ),
        (
            Manner::NeverCloses,
            ": 1000 bytes with half-close: got all 1000 bytes, but no end of file until the \
             timeout of 500ms",
        ),
    ] {
        let server = Other::start(manner);
        let outcome = check(&turn, &server.target(), &["--timeout", "500ms", "--bytes", "1000"]);
        assert_failed(&outcome, &server.target(), reason);
        assert_between("the whole check", outcome.took, ms(500), secs(2));
    }
}

#[test]
fn what_is_lost_at_half_close_is_blamed_on_it_alone() {
    let turn = Turn::shared();
    let server = Other::start(Manner::LosesAtHalfClose);
    let target = server.target();
    assert_passed(&check(&turn, &target, &["--no-half-close"]), &target);
    // The other cases are tried all the same.
    let outcome = check(&turn, &target, &["--verbose"]);
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
fn a_server_for_one_connection_at_a_time_does_not_pass_for_several() {
    let turn = Turn::shared();
    let server = Other::start(Manner::OneAtATime);
    let target = server.target();
    assert_passed(&check(&turn, &target, &["--connections", "1"]), &target);
    let outcome = check(&turn, &target, &["--timeout", "1", "--bytes", "1000"]);
    assert_failed(&outcome, &target, "1000 bytes on each of 4 connections with half-close: got ");
}

#[test]
fn a_server_that_does_not_answer_to_connect_times_out() {
    let turn = Turn::shared();
    // Discarded by the kernel, without an answer: nobody has this address (RFC 5737), and where the
    // machine knows that, it says so at once.
    let limit = ms(300);
    let outcome = check(&turn, "192.0.2.1:7", &["--timeout", "300ms"]);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    let line = &outcome.stderr[0];
    let timed_out = line.ends_with("no answer to connect within 300ms");
    assert!(timed_out || line.contains("cannot connect") || line.contains("refused"), "{line}");
    assert_between("the whole check", outcome.took, Duration::ZERO, limit + secs(2));
}
