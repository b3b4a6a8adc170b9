//! `tcp-echo bench`: its figures are those that the server sees, its latencies those of whoever wants
//! something at a given time, and no wrong byte goes unseen.

use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::client_servers::{Manner, Other, nobody};
use super::support::bystander::{bare_ping, beside};
use super::support::launch::{Outcome, binary};
use super::support::{SOON, Turn, ms, wait_for, wait_until};

/// Runs a load to its end.
fn bench(turn: &Turn, target: &str, options: &str) -> Outcome {
    let mut args = vec!["bench", target, "--json"];
    args.extend(options.split_whitespace());
    turn.launch(&args).run()
}

/// The JSON object that a run has printed.
#[track_caller]
fn json(outcome: &Outcome) -> Value {
    assert_eq!(outcome.stdout.len(), 1, "{outcome:?}");
    serde_json::from_str(&outcome.stdout[0]).expect("an object")
}

/// The figures of a run without any error.
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
fn its_counts_are_those_of_the_server() {
    let turn = Turn::alone();
    for options in [
        "-c 10 -T 1.5 --message-size 100",
        "-c 10 -T 1.5 --message-size 100 --pipeline 8 --threads 2",
        "-c 20 -T 1.5 --message-size 100 -r 200",
        "-c 3 -T 1.5 --message-size 100 --channel-lifetime 50ms",
    ] {
        let server = Other::start(Manner::Honest);
        let target = server.target();
        let (outcome, bystander) = beside(bare_ping(), ms(5), || bench(&turn, &target, options));
        let value = clean(&outcome);
        let seen = server.seen();
        assert_agree("bytes", number(&value, "/bytes_received"), seen.bytes() as f64);
        assert_agree("messages", number(&value, "/messages"), seen.bytes() as f64 / 100.0);
        let rate = seen.bytes() as f64 / 100.0 / seen.span().as_secs_f64();
        // The server's clock runs from the first byte to the last.
        let late = overtime(&outcome, 1.5) + bystander.worst().as_secs_f64();
        let share = 0.05 + late / 1.5;
        assert_within(share, "messages a second", number(&value, "/messages_per_second"), rate);
        let opened = number(&value, "/connections/opened");
        assert_eq!(opened, seen.connections() as f64, "{value}");
        assert_eq!(opened, number(&value, "/connections/closed"), "{value}");
    }
}

#[test]
fn an_open_loop_sees_the_stall_that_a_closed_loop_hides() {
    let turn = Turn::alone();
    let server = Other::start(Manner::StandsStillOnce);
    let outcome = bench(&turn, &server.target(), "-c 4 -T 2 -r 250");
    let open = clean(&outcome);
    let sent = number(&open, "/messages") + number(&open, "/unsent");
    assert_agree("messages that were due", sent, 1000.0 * (2.0 + overtime(&outcome, 2.0)));
    // A tenth of all were due while the server stood still; they waited for 200 ms at most.
    let latency = |value: &Value, name: &str| number(value, &format!("/latency_us/{name}"));
    assert!(latency(&open, "p50") < 50_000.0, "{open}");
    assert!((140_000.0..260_000.0).contains(&latency(&open, "p99")), "{open}");
    assert!((180_000.0..300_000.0).contains(&latency(&open, "p99_9")), "{open}");
    assert!((190_000.0..300_000.0).contains(&latency(&open, "max")), "{open}");

    let server = Other::start(Manner::StandsStillOnce);
    let closed = clean(&bench(&turn, &server.target(), "-c 4 -T 2"));
    assert!(number(&closed, "/messages") > 4_500.0, "{closed}");
    assert!(latency(&closed, "p99_9") < 100_000.0, "{closed}");
    assert!(latency(&closed, "max") > 150_000.0, "{closed}");
}

#[test]
fn messages_are_due_whatever_becomes_of_connections() {
    let turn = Turn::shared();
    for (manner, options) in [
        (Manner::Honest, "--channel-lifetime 250ms"),
        (Manner::Honest, "--channel-lifetime 20ms"),
        // Each connection ends with its first message.
        (Manner::ClosesEarly, "--message-size 1000"),
    ] {
        let server = Other::start(manner);
        let outcome = bench(&turn, &server.target(), &format!("-c 2 -r 10 -T 2 {options}"));
        let (value, more) = (json(&outcome), 20.0 * overtime(&outcome, 2.0));
        let due = number(&value, "/messages") + number(&value, "/unsent");
        assert!((38.0..=41.0 + more).contains(&due), "{options}: {value}");
        assert!(number(&value, "/unsent") <= 2.0 + more, "{options}: {value}");
    }
    let outcome = bench(&turn, &nobody(), "-c 2 -r 10 -T 2");
    let (value, more) = (json(&outcome), 20.0 * overtime(&outcome, 2.0));
    let due = number(&value, "/unsent");
    assert!((38.0..=41.0 + more).contains(&due), "nobody was there to send them to: {value}");
}

#[test]
fn all_threads_together_keep_to_the_connect_rate() {
    let turn = Turn::shared();
    let server = Other::start(Manner::Honest);
    for threads in [1, 20] {
        let options = format!("-c 100 --threads {threads} --connect-rate 20 -T 1");
        let outcome = bench(&turn, &server.target(), &options);
        let opened = number(&clean(&outcome), "/connections/opened");
        let most = 22.0 + 20.0 * overtime(&outcome, 1.0);
        assert!((18.0..=most).contains(&opened), "{threads} threads: {opened}");
    }
}

#[test]
fn wrong_servers_are_counted_by_cause_and_fail_the_run() {
    let turn = Turn::shared();
    for (manner, options, cause) in [
        (Manner::Swaps, "--message-size 2000", "wrong_bytes"),
        (Manner::Drops, "--message-size 2000", "wrong_bytes"),
        (Manner::Repeats, "--message-size 2000", "wrong_bytes"),
        (Manner::Adds, "--channel-lifetime 100ms", "excess_bytes"),
        (Manner::LosesAtHalfClose, "--stream --channel-lifetime 100ms", "lost_bytes"),
        // Nothing is wrong with what has come back, but not all has.
        (Manner::ClosesEarly, "--message-size 64", "closed"),
        (Manner::Resets, "--message-size 64", "reset"),
    ] {
        let server = Other::start(manner);
        let outcome = bench(&turn, &server.target(), &format!("-c 2 -T 0.5 {options}"));
        assert_eq!(outcome.code, Some(1), "{manner:?}: {outcome:?}");
        let value = json(&outcome);
        assert!(number(&value, &format!("/errors/{cause}")) > 0.0, "{manner:?}: {value}");
        assert!(value["first_error"].is_string(), "{manner:?}: {value}");
    }
    let outcome = bench(&turn, &nobody(), "-c 3 -T 0.2");
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    let value = json(&outcome);
    assert_eq!(number(&value, "/errors/refused"), 3.0, "{value}");
    assert_eq!(number(&value, "/connections/failed"), 3.0, "{value}");
    assert_eq!(value["first_error"], "connection refused", "{value}");
    assert_eq!(value["latency_us"]["p50"], Value::Null, "{value}");
}

#[test]
fn the_daemon_is_loaded_in_every_way() {
    let turn = Turn::shared();
    let server = turn.start(&["--workers", "2"]);
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
        let value = clean(&bench(&turn, &target, options));
        assert!(number(&value, "/messages") > 10.0, "{options}: {value}");
        assert_eq!(value["bytes_sent"], value["bytes_received"], "{options}: {value}");
        assert_eq!(value["connections"]["opened"], value["connections"]["closed"], "{value}");
    }
    let value = clean(&bench(&turn, &target, "-c 4 -T 0.5 --stream"));
    assert!(number(&value, "/bytes_received") > 1e6, "{value}");
    assert_eq!(value["bytes_sent"], value["bytes_received"], "{value}");
    server.stop();
}

#[test]
fn text_sources_and_pace_are_what_was_asked_for() {
    let turn = Turn::shared();
    let server = Other::start(Manner::Honest);
    let options =
        "-c 1000 --connect-rate 40 -T 1 -m foo --source-ip 127.0.0.2 --source-ip 127.0.0.3";
    let value = clean(&bench(&turn, &server.target(), options));
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
fn people_get_lines_and_an_interrupt_ends_the_run_with_a_report() {
    let turn = Turn::shared();
    let server = Other::start(Manner::Honest);
    let outcome = turn.launch(&["bench", &server.target(), "-T", "0.3"]).run();
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
