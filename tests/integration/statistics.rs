//! Statistics: correct after kills, reloads, and resets, equal in all formats, never blocking.

use std::fs;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use super::support::http::{admin_of, get};
use super::support::log::Line;
use super::support::operations::{freeze, reload, send_signal};
use super::support::{
    Client, SOON, Server, TestLock, ms, secs, skip, stats, sum, total, under_connecting_load,
    wait_for, wait_until, with_background,
};

/// What only ever grows.
const COUNTERS: [&str; 8] = [
    "connections_accepted",
    "messages",
    "bytes_received",
    "bytes_sent",
    "bytes_abandoned",
    "connections_closed/client_fin",
    "connections_closed/worker_died",
    "event_loop_lag/count",
];

fn counters(stats: &Value) -> [u64; COUNTERS.len()] {
    COUNTERS.map(|name| total(stats, name))
}

/// Waits until no connection is open; returns the statistics.
#[track_caller]
pub(crate) fn idle_stats(server: &Server) -> Value {
    wait_for(SOON, "the gauges are back at 0", || {
        let now = stats(server);
        let gauges = ["connections_active", "bytes_buffered", "accept_paused"];
        (gauges.iter().all(|gauge| total(&now, gauge) == 0)).then_some(now)
    })
}

/// What must hold when nothing moves.
#[track_caller]
pub(crate) fn assert_counters_consistent(stats: &Value) {
    assert_eq!(stats["totals"]["bytes_lost"], 0, "{stats}");
    let closed = stats["totals"]["connections_closed"].as_object().unwrap();
    let closed: u64 = closed.values().map(|count| count.as_u64().unwrap()).sum();
    assert_eq!(closed, total(stats, "connections_accepted"), "{stats}");
    for name in COUNTERS.into_iter().chain(["connections_active", "bytes_buffered"]) {
        assert_eq!(sum(stats, &format!("figures/{name}")), total(stats, name), "{name}: {stats}");
    }
}

/// Sums over lines of an access log in JSON: lines, bytes received, bytes sent.
fn sums(lines: &str) -> [u64; 3] {
    lines.lines().fold([0; 3], |[count, received, sent], line| {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        let number = |key: &str| line[key].as_u64().unwrap();
        [count + 1, received + number("received"), sent + number("sent")]
    })
}

/// What all workers together have handled, as SIGUSR1 tells it.
fn handled(server: &Server, workers: usize) -> u64 {
    let seen = server.log.count("Worker has handled (");
    server.signal(Signal::SIGUSR1);
    let lines = wait_for(SOON, "a line for each worker", || {
        let lines = server.log.with("Worker has handled (").split_off(seen);
        (lines.len() == workers).then_some(lines)
    });
    let number = |text: &str| text.split(['(', ')']).nth(1).unwrap().parse::<u64>().unwrap();
    lines.iter().map(|line| number(&line.text)).sum()
}

/// The sum of a counter in the text of `/metrics` over all workers.
fn family_sum(metrics: &str, family: &str) -> u64 {
    let head = format!("tcp_echo_{family}_total{{");
    let values = metrics.lines().filter(|line| line.starts_with(&head));
    values.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

#[test]
fn all_formats_agree_after_ten_kills_under_load() {
    let lock = TestLock::shared();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access");
    let args = ["--workers", "3", "--log-format", "json", "--access-log", "all", "--log-empty"];
    let launch = lock.launch(&args).arg("--access-log-file").arg(path.to_str().unwrap());
    let launch = launch.arg("--admin").arg("0");
    let server = launch.start();
    let (kills, load) = under_connecting_load(server.address(), || {
        let mut before = counters(&stats(&server));
        (0..10)
            .map(|kill| {
                let workers: Vec<i32> = server.workers().into_values().collect();
                send_signal(workers[kill % workers.len()], Signal::SIGKILL);
                for _ in 0..5 {
                    let now = counters(&stats(&server));
                    let shrunk = now.iter().zip(before).any(|(now, before)| *now < before);
                    assert!(!shrunk, "{COUNTERS:?}: {now:?} after {before:?}");
                    before = now;
                    thread::sleep(ms(20));
                }
                wait_until(SOON, "three workers", || server.workers().len() == 3);
            })
            .count() as u64
    });
    assert!(load.failures.is_empty() && load.served > 100, "{load:?}");
    let after = idle_stats(&server);
    assert_counters_consistent(&after);
    assert_eq!((sum(&after, "restarts/signal"), kills), (10, 10));
    // A killed worker writes no lines for what it had open; all others are there.
    let [lines, ..] = sums(&fs::read_to_string(&path).unwrap());
    let died = total(&after, "connections_closed/worker_died");
    let ended = total(&after, "connections_accepted") - died;
    // A kill may fall between the counting of an end and its line.
    assert!(lines <= ended && ended - lines <= kills, "{lines} lines for {ended} ends");

    fs::write(&path, "").unwrap();
    for size in [1, 1000, 100_000, 3_000_000] {
        let mut client = server.connect();
        client.send(size / 2);
        client.expect(size / 2);
        client.finish();
    }
    let mut resetting = server.connect();
    resetting.echo(5000);
    resetting.reset();
    drop(server.connect());
    let opened = total(&after, "connections_accepted") + 6;
    wait_until(SOON, "all six were accepted", || {
        total(&stats(&server), "connections_accepted") == opened
    });
    let last = idle_stats(&server);
    assert_counters_consistent(&last);
    let names = ["connections_accepted", "bytes_received", "bytes_sent"];
    let grown = names.map(|name| total(&last, name) - total(&after, name));
    assert_eq!(grown[1], 500 + 50_000 + 1_500_000 + 5000, "the half of 1 is 0");
    assert_eq!(sums(&fs::read_to_string(&path).unwrap()), grown);
    assert_eq!(handled(&server, 3), sum(&last, "worker/accepted"), "USR1 and USR2");
    let admin = admin_of(&server);
    let over_http = get(admin, "/stats").json();
    assert_counters_consistent(&over_http);
    assert_eq!(counters(&over_http)[..7], counters(&last)[..7], "/stats and USR2");
    let metrics = get(admin, "/metrics").body;
    for (family, name) in ["connections_accepted", "received_bytes", "sent_bytes"].iter().zip(names)
    {
        assert_eq!(family_sum(&metrics, family), total(&last, name), "/metrics and USR2: {name}");
    }
    server.stop();
}

#[test]
fn reload_and_scaling_keep_the_totals_and_record_events() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "2", "--drain-spread", "0"]);
    server.signal(Signal::SIGTTIN);
    wait_until(SOON, "three workers", || stats(&server)["slots"][2]["state"] == "serving");
    let mut clients: Vec<Client> = (0..30).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|client| _ = client.echo(100));
    assert_eq!(total(&stats(&server), "connections_active"), 30);
    clients.into_iter().for_each(Client::finish);
    let before = idle_stats(&server);
    server.signal(Signal::SIGTTOU);
    wait_until(SOON, "the slot has nothing any more", || {
        let slot = stats(&server)["slots"][2].clone();
        slot["state"] == "empty" && slot["worker"].is_null() && slot["queue_limit"] == 0
    });
    reload(&server);
    wait_until(SOON, "the old workers are gone", || {
        stats(&server)["others"] == Value::Array(vec![])
    });
    let after = idle_stats(&server);
    assert_counters_consistent(&after);
    for name in ["connections_accepted", "bytes_received", "messages"] {
        assert_eq!(total(&after, name), total(&before, name), "{name}");
    }
    assert_eq!((&after["reloads"]["done"], &after["phase"]), (&1.into(), &"serving".into()));
    assert_eq!(after["started_at"], before["started_at"]);
    for cause in ["exit", "signal", "hung", "boot"] {
        assert_eq!(sum(&after, &format!("restarts/{cause}")), 0, "no worker was replaced");
    }
    let events = after["events"].as_array().unwrap();
    let at = |kind| events.iter().position(|event| event["kind"] == kind).expect(kind);
    assert!(at("reloaded") < at("reloading") && at("reloading") < at("scaled"), "{events:?}");
    let times: Vec<u64> = events.iter().map(|event| event["at_ms"].as_u64().unwrap()).collect();
    assert!(times.is_sorted_by(|later, earlier| later >= earlier), "the latest first");
    server.stop();
}

#[test]
fn every_close_has_a_reason_and_every_lost_byte_is_counted() {
    let lock = TestLock::shared();
    let args = ["--idle-timeout", "1s", "--write-timeout", "1s", "--linger-timeout", "1s"];
    let server = lock.launch(&args).arg("--workers").arg("1").start();
    server.assert_echoes();
    server.connect().reset();
    let (mut idle, mut stalled) = (server.connect(), server.connect());
    idle.echo(10);
    let sent = stalled.send_until_stalled(ms(200), 64 << 20);
    assert!(total(&stats(&server), "bytes_buffered") > 0, "after {sent} bytes");
    idle.expect_fin();
    drop(idle);
    wait_until(SOON, "both have ended", || total(&stats(&server), "connections_active") == 0);
    let now = idle_stats(&server);
    assert_counters_consistent(&now);
    for reason in ["client_fin", "reset", "idle", "write_timeout"] {
        assert_eq!(total(&now, &format!("connections_closed/{reason}")), 1, "{reason}: {now}");
    }
    assert!(total(&now, "bytes_abandoned") > 0);
    server.stop();
}

#[test]
fn queues_pauses_and_unresponsive_workers_are_reported() {
    let lock = TestLock::shared();
    let args = ["--workers", "1", "--max-concurrent-connections", "1", "--worker-timeout", "3s"];
    let server = lock.start(&args);
    let mut first = server.connect();
    first.echo(1);
    let mut waiting: Vec<Client> = (0..3).map(|_| server.connect()).collect();
    wait_until(SOON, "three wait", || {
        let now = stats(&server);
        let slot = &now["slots"][0];
        slot["queue_length"] == 3
            && slot["queue_limit"] == 128
            && slot["worker"]["paused"] == true
            && total(&now, "accept_paused") == 1
    });
    first.finish();
    waiting.drain(..).for_each(|mut client| {
        client.echo(1);
        client.finish();
    });
    let worker = server.worker();
    freeze(worker);
    wait_until(SOON, "it is seen to hang", || stats(&server)["slots"][0]["state"] == "hung");
    wait_until(SOON, "it was replaced", || sum(&stats(&server), "restarts/hung") == 1);
    send_signal(worker, Signal::SIGCONT);
    let kinds = |stats: &Value| -> Vec<String> {
        let events = stats["events"].as_array().unwrap();
        events.iter().map(|event| event["kind"].as_str().unwrap().to_owned()).collect()
    };
    wait_until(SOON, "all of it is remembered", || {
        let kinds = kinds(&stats(&server));
        ["accepting_paused", "worker_unresponsive", "worker_hung", "worker_exited"]
            .iter()
            .all(|kind| kinds.iter().any(|known| known == kind))
    });
    assert_eq!(sum(&stats(&server), "restarts/hung"), 1, "counted once");
    assert_eq!(sum(&stats(&server), "restarts/signal"), 0, "it was killed because it hung");
    server.stop();
}

#[test]
fn rates_are_counts_over_elapsed_time() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "2"]);
    (0..50).for_each(|_| server.assert_echoes());
    let rate =
        |stats: &Value, window: &str| stats["rates"][window]["connections"].as_f64().unwrap();
    wait_until(SOON, "fifty in some seconds", || rate(&stats(&server), "10s") > 0.0);
    let now = stats(&server);
    let by_slot = |slot: &Value| slot["rates"]["10s"]["received"].as_f64().unwrap();
    let slots: f64 = now["slots"].as_array().unwrap().iter().map(by_slot).sum();
    let all = now["rates"]["10s"]["received"].as_f64().unwrap();
    assert!((slots - all).abs() < 1e-6, "{slots} and {all}");
    wait_until(SOON, "the last second was quiet", || rate(&stats(&server), "1s") == 0.0);
    let now = stats(&server);
    let uptime = now["uptime_seconds"].as_f64().unwrap();
    assert!((50.0 / (uptime + 1.0)..=50.0).contains(&rate(&now, "10s")), "{now}");
    server.stop();
}

const UNREAD: &str = "cannot write statistics to standard output";

#[test]
fn an_unread_stats_dump_blocks_no_process() {
    let lock = TestLock::shared();
    let mut servers = vec![lock.start(&["--workers", "1"])];
    servers[0].stdout.hang_up();
    for redirection in [">&-", ">/dev/full", ">/dev/null"] {
        let launch = lock.launch(&["--workers", "1"]);
        servers.push(launch.under_shell(&format!("exec \"$0\" \"$@\" {redirection}")).start());
    }
    for server in servers {
        for _ in 0..10 {
            server.signal(Signal::SIGUSR2);
            server.assert_echoes();
            thread::sleep(ms(10));
        }
        server.log.wait_for(SOON, UNREAD);
        server.signal(Signal::SIGUSR1);
        server.log.wait_for(SOON, "Worker has handled (10)");
        assert_eq!(server.log.count(UNREAD), 1, "said once");
        server.stop();
    }
}

fn is_whole(line: &Line) -> bool {
    serde_json::from_str::<Value>(&line.text).is_ok()
}

/// Fills the pipe, is told once, and reads again after `pause`.
fn assert_blocked_pipe_blocks_nobody(server: Server, pause: Duration) {
    server.stdout.pause();
    let mut witness = server.connect();
    wait_until(SOON, "the pipe is full", || {
        server.signal(Signal::SIGUSR2);
        assert!(witness.echo(100) < secs(1));
        // Any signal would wake it up, the next one too: it must not wait at all.
        thread::sleep(ms(20));
        let waits_in = fs::read_to_string(format!("/proc/{}/wchan", server.controller())).unwrap();
        assert!(!waits_in.contains("pipe"), "the controller waits in {waits_in}");
        server.log.count(UNREAD) == 1
    });
    (0..20).for_each(|_| server.signal(Signal::SIGUSR2));
    server.assert_echoes();
    server.signal(Signal::SIGUSR1);
    server.log.wait_for(SOON, "Worker has handled");
    thread::sleep(pause);
    assert_eq!(server.log.count(UNREAD), 1, "said once");
    server.stdout.resume();
    wait_until(SOON, "a whole line arrives again", || {
        server.signal(Signal::SIGUSR2);
        let lines = server.stdout.lines();
        let current = |line: &Line| is_whole(line) && line.has(r#""connections_accepted":2"#);
        lines.last().is_some_and(current)
    });
    let broken = server.stdout.lines().iter().filter(|line| !is_whole(line)).count();
    assert!(broken <= usize::from(!pause.is_zero()), "only one that was given up");
    let twice = |line: &Line| line.text.matches(r#"{"version":"#).count() > 1;
    assert!(!server.stdout.lines().iter().any(twice), "and nothing behind it");
    witness.finish();
    server.stop();
}

#[test]
fn a_blocked_stats_pipe_blocks_no_process() {
    let lock = TestLock::shared();
    // Their lines are longer than two pages: whatever the pipe has room for, one does not fit.
    assert_blocked_pipe_blocks_nobody(lock.start(&["--workers", "6"]), Duration::ZERO);
}

#[test]
fn a_partly_written_line_is_not_mixed_with_the_next() {
    let lock = TestLock::shared();
    assert_blocked_pipe_blocks_nobody(lock.start(&["--workers", "6"]), secs(11));
}

#[test]
fn a_blocked_stats_pipe_of_another_user_blocks_no_process() {
    if !nix::unistd::geteuid().is_root() {
        return skip("only root can change the user");
    }
    let lock = TestLock::shared();
    let unprivileged = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let server = lock.launch(&["--workers", "6"]).under(&unprivileged).start();
    assert_blocked_pipe_blocks_nobody(server, Duration::ZERO);
}

#[test]
fn lines_dropped_by_a_blocked_log_are_counted_while_it_is_blocked() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "2", "--log-level", "DEBUG", "--access-log", "all"]);
    server.log.pause();
    let exchanges = |over: &std::sync::atomic::AtomicBool| {
        while !over.load(std::sync::atomic::Ordering::SeqCst) {
            server.assert_echoes();
        }
    };
    with_background(exchanges, || {
        wait_until(secs(20), "the loss is counted", || {
            stats(&server)["log_lines_dropped"].as_u64().unwrap() > 0
        });
    });
    server.log.resume();
    server.stop();
}
