//! `tcp-echo bench`: counts that agree with the server, latency of open and closed loops, and faults.

use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::support::baseline::{bare_ping, with_baseline};
use super::support::faulty_servers::{Behavior, TestServer, closed_port};
use super::support::launch::{Outcome, binary};
use super::support::{SOON, TestLock, ms, wait_for, wait_until};

/// Runs a load to its end.
fn bench(lock: &TestLock, target: &str, options: &str) -> Outcome {
    let mut args = vec!["bench", target, "--json"];
    args.extend(options.split_whitespace());
    lock.launch(&args).run()
}

/// The JSON object that a run has printed.
#[track_caller]
fn json(outcome: &Outcome) -> Value {
    assert_eq!(outcome.stdout.len(), 1, "{outcome:?}");
    serde_json::from_str(&outcome.stdout[0]).expect("an object")
}

/// Returns the report of a run without errors.
#[track_caller]
fn clean(outcome: &Outcome) -> Value {
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let value = json(outcome);
    let errors = value["errors"].as_object().expect("causes");
    assert!(errors.len() >= 7 && errors.values().all(|count| count == 0), "{value}");
    assert_eq!(value["first_error"], Value::Null, "{value}");
    assert_eq!(value["connections"]["failed"], 0, "{value}");
    value
}

#[track_caller]
fn number(value: &Value, pointer: &str) -> f64 {
    let found = value.pointer(pointer).and_then(Value::as_f64);
    found.unwrap_or_else(|| panic!("{pointer} is not in {value}"))
}

/// The two differ by 5 % at most.
#[track_caller]
fn assert_agree(what: &str, ours: f64, theirs: f64) {
    assert_within(0.05, what, ours, theirs);
}

/// Fails if the two differ by more than this share.
#[track_caller]
fn assert_within(share: f64, what: &str, ours: f64, theirs: f64) {
    assert!((ours / theirs - 1.0).abs() <= share, "{what}: {ours} here, {theirs} there ({share})");
}

/// Returns by how many seconds a run exceeded its duration: on a busy machine it notices the end late.
/// Fails if the run claims to be longer than the lifetime of its process.
#[track_caller]
fn overtime(outcome: &Outcome, asked: f64) -> f64 {
    let seconds = number(&json(outcome), "/seconds");
    let most = outcome.took.as_secs_f64();
    assert!((asked..=most).contains(&seconds), "{seconds} s, asked for {asked}: {outcome:?}");
    seconds - asked
}

#[test]
fn counts_agree_with_the_server() {
    let lock = TestLock::exclusive();
    for options in [
        "-c 10 -T 1.5 --message-size 100",
        "-c 10 -T 1.5 --message-size 100 --pipeline 8 --threads 2",
        "-c 20 -T 1.5 --message-size 100 -r 200",
        "-c 3 -T 1.5 --message-size 100 --channel-lifetime 50ms",
    ] {
        let server = TestServer::start(Behavior::Honest);
        let target = server.target();
        let (outcome, baseline) =
            with_baseline(bare_ping(), ms(5), || bench(&lock, &target, options));
        let value = clean(&outcome);
        let seen = server.seen();
        assert_agree("bytes", number(&value, "/bytes_received"), seen.bytes() as f64);
        assert_agree("messages", number(&value, "/messages"), seen.bytes() as f64 / 100.0);
        let rate = seen.bytes() as f64 / 100.0 / seen.span().as_secs_f64();
        // The server's clock runs from the first byte to the last.
        let late = overtime(&outcome, 1.5) + baseline.worst().as_secs_f64();
        let share = 0.05 + late / 1.5;
        assert_within(share, "messages a second", number(&value, "/messages_per_second"), rate);
        let opened = number(&value, "/connections/opened");
        assert_eq!(opened, seen.connections() as f64, "{value}");
        assert_eq!(opened, number(&value, "/connections/closed"), "{value}");
    }
}

#[test]
fn open_loop_latency_includes_the_stall_that_a_closed_loop_hides() {
    let lock = TestLock::exclusive();
    let server = TestServer::start(Behavior::PausesOnce);
    let outcome = bench(&lock, &server.target(), "-c 4 -T 2 -r 250");
    let open = clean(&outcome);
    let sent = number(&open, "/messages") + number(&open, "/unsent");
    assert_agree("messages that were due", sent, 1000.0 * (2.0 + overtime(&outcome, 2.0)));
    // A tenth of all were due while the server stood still; they waited for 200 ms at most.
    let latency = |value: &Value, name: &str| number(value, &format!("/latency_us/{name}"));
    assert!(latency(&open, "p50") < 50_000.0, "{open}");
    assert!((140_000.0..260_000.0).contains(&latency(&open, "p99")), "{open}");
    assert!((180_000.0..300_000.0).contains(&latency(&open, "p99_9")), "{open}");
    assert!((190_000.0..300_000.0).contains(&latency(&open, "max")), "{open}");

    let server = TestServer::start(Behavior::PausesOnce);
    let closed = clean(&bench(&lock, &server.target(), "-c 4 -T 2"));
    assert!(number(&closed, "/messages") > 4_500.0, "{closed}");
    assert!(latency(&closed, "p99_9") < 100_000.0, "{closed}");
    assert!(latency(&closed, "max") > 150_000.0, "{closed}");
}

#[test]
fn failed_connections_do_not_change_the_message_schedule() {
    let lock = TestLock::shared();
    for (behavior, options) in [
        (Behavior::Honest, "--channel-lifetime 250ms"),
        (Behavior::Honest, "--channel-lifetime 20ms"),
        // Each connection ends with its first message.
        (Behavior::ClosesEarly, "--message-size 1000"),
    ] {
        let server = TestServer::start(behavior);
        let outcome = bench(&lock, &server.target(), &format!("-c 2 -r 10 -T 2 {options}"));
        let (value, more) = (json(&outcome), 20.0 * overtime(&outcome, 2.0));
        let due = number(&value, "/messages") + number(&value, "/unsent");
        assert!((38.0..=41.0 + more).contains(&due), "{options}: {value}");
        assert!(number(&value, "/unsent") <= 2.0 + more, "{options}: {value}");
    }
    let outcome = bench(&lock, &closed_port(), "-c 2 -r 10 -T 2");
    let (value, more) = (json(&outcome), 20.0 * overtime(&outcome, 2.0));
    let due = number(&value, "/unsent");
    assert!((38.0..=41.0 + more).contains(&due), "the port was closed: {value}");
}

#[test]
fn the_connect_rate_limits_all_threads_together() {
    let lock = TestLock::shared();
    let server = TestServer::start(Behavior::Honest);
    for threads in [1, 20] {
        let options = format!("-c 100 --threads {threads} --connect-rate 20 -T 1");
        let outcome = bench(&lock, &server.target(), &options);
        let opened = number(&clean(&outcome), "/connections/opened");
        let most = 22.0 + 20.0 * overtime(&outcome, 1.0);
        assert!((18.0..=most).contains(&opened), "{threads} threads: {opened}");
    }
}

#[test]
fn faulty_servers_are_counted_by_cause_and_fail_the_run() {
    let lock = TestLock::shared();
    for (behavior, options, cause) in [
        (Behavior::Swaps, "--message-size 2000", "wrong_bytes"),
        (Behavior::Drops, "--message-size 2000", "wrong_bytes"),
        (Behavior::Repeats, "--message-size 2000", "wrong_bytes"),
        (Behavior::Adds, "--channel-lifetime 100ms", "excess_bytes"),
        (Behavior::LosesAtHalfClose, "--stream --channel-lifetime 100ms", "lost_bytes"),
        // Nothing is wrong with what has come back, but not all has.
        (Behavior::ClosesEarly, "--message-size 64", "closed"),
        (Behavior::Resets, "--message-size 64", "reset"),
    ] {
        let server = TestServer::start(behavior);
        let outcome = bench(&lock, &server.target(), &format!("-c 2 -T 0.5 {options}"));
        assert_eq!(outcome.code, Some(1), "{behavior:?}: {outcome:?}");
        let value = json(&outcome);
        assert!(number(&value, &format!("/errors/{cause}")) > 0.0, "{behavior:?}: {value}");
        assert!(value["first_error"].is_string(), "{behavior:?}: {value}");
    }
    let outcome = bench(&lock, &closed_port(), "-c 3 -T 0.2");
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    let value = json(&outcome);
    assert_eq!(number(&value, "/errors/refused"), 3.0, "{value}");
    assert_eq!(number(&value, "/connections/failed"), 3.0, "{value}");
    assert_eq!(value["first_error"], "connection refused", "{value}");
    assert_eq!(value["latency_us"]["p50"], Value::Null, "{value}");
}

#[test]
fn the_daemon_passes_every_kind_of_load() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "2"]);
    let target = server.address().to_string();
    for options in [
        "-c 300 -T 0.5 --threads 2",
        "-c 10 -T 0.5 --message-size 1MiB",
        "-c 10 -T 0.5 --message-size 10000 --pipeline 20",
        "-c 100 -T 1 -m foo -r 20",
        "-c 20 -T 0.5 --channel-lifetime 0 --source-ip 127.0.0.2,127.0.0.3",
        "-c 20 -T 0.5 --channel-lifetime 10ms --pipeline 4 --message-size 3000",
        "-c 5 -T 0.5 -f Cargo.toml",
    ] {
        let value = clean(&bench(&lock, &target, options));
        assert!(number(&value, "/messages") > 10.0, "{options}: {value}");
        assert_eq!(value["bytes_sent"], value["bytes_received"], "{options}: {value}");
        assert_eq!(value["connections"]["opened"], value["connections"]["closed"], "{value}");
    }
    let value = clean(&bench(&lock, &target, "-c 4 -T 0.5 --stream"));
    assert!(number(&value, "/bytes_received") > 1e6, "{value}");
    assert_eq!(value["bytes_sent"], value["bytes_received"], "{value}");
    server.stop();
}

#[test]
fn payload_text_sources_and_rate_follow_the_options() {
    let lock = TestLock::shared();
    let server = TestServer::start(Behavior::Honest);
    let options =
        "-c 1000 --connect-rate 40 -T 1 -m foo --source-ip 127.0.0.2 --source-ip 127.0.0.3";
    let value = clean(&bench(&lock, &server.target(), options));
    let opened = number(&value, "/connections/opened");
    assert!((30.0..=45.0).contains(&opened), "{value}");
    let seen = server.seen();
    assert!(seen.beginning.lock().unwrap().starts_with(b"foo"), "the text as it was typed");
    let mut peers: Vec<String> =
        seen.peers.lock().unwrap().iter().map(|ip| ip.to_string()).collect();
    peers.sort();
    assert_eq!(peers, ["127.0.0.2", "127.0.0.3"]);
}

#[test]
fn text_output_has_progress_lines_and_a_report_after_an_interrupt() {
    let lock = TestLock::shared();
    let server = TestServer::start(Behavior::Honest);
    let outcome = lock.launch(&["bench", &server.target(), "-T", "0.3"]).run();
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert_eq!(outcome.stderr, Vec::<String>::new(), "no progress line off a terminal");
    let begins = ["127.0.0.1:", "connections ", "messages ", "latency ", "throughput ", "errors "];
    assert_eq!(outcome.stdout.len(), begins.len(), "{outcome:?}");
    for (line, begin) in outcome.stdout.iter().zip(begins) {
        assert!(line.starts_with(begin), "{outcome:?}");
    }

    let before = server.seen().bytes();
    let mut command = Command::new(binary());
    command.args(["bench", &server.target(), "-T", "60", "--json"]).stdout(Stdio::piped());
    let mut process = command.spawn().expect("the program starts");
    wait_until(SOON, "the load has begun", || server.seen().bytes() > before);
    kill(Pid::from_raw(process.id() as i32), Signal::SIGINT).expect("it runs");
    wait_for(SOON, "it ends", || process.try_wait().expect("it is ours"));
    let output = process.wait_with_output().expect("it has ended");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let value: Value = serde_json::from_slice(&output.stdout).expect("an object");
    assert!(number(&value, "/messages") > 0.0 && number(&value, "/seconds") < 10.0, "{value}");
}
