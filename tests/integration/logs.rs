//! Log lines: formats, levels, and outputs that block or close.

use std::fs;
use std::thread;
use std::time::Instant;

use nix::sys::signal::Signal;
use serde_json::Value;

use super::support::log::Line;
use super::support::operations::{refused_reload, send_signal};
use super::support::{Client, SOON, Server, TestLock, ms, secs, skip, stats, wait_until};

/// A life with something to tell: connections, USR1, the end.
fn eventful_life(mut server: Server) -> Vec<String> {
    (0..5).for_each(|_| server.assert_echoes());
    server.signal(Signal::SIGUSR1);
    server.log.wait_for(SOON, "Worker has handled");
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait_exit(SOON), Some(0));
    server.into_output().1
}

#[test]
fn every_json_line_parses_and_has_level_role_pid_and_message() {
    let lock = TestLock::shared();
    let args = ["--workers", "2", "--log-format", "json", "--log-level", "DEBUG"];
    let mut roles = Vec::new();
    for line in eventful_life(lock.start(&args)) {
        let object: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
        let text = |key: &str| object[key].as_str().unwrap_or_else(|| panic!("no {key}: {line}"));
        assert!(object["pid"].as_u64().is_some_and(|pid| pid > 1), "{line}");
        assert!(text("timestamp").ends_with('Z'), "{line}");
        assert!(["DEBUG", "INFO", "WARN", "ERROR", "FATAL"].contains(&text("level")), "{line}");
        assert!(!text("message").is_empty(), "{line}");
        if text("message") == "worker ready" {
            assert!(object["slot"].is_u64() && object["worker_pid"].is_u64(), "{line}");
        }
        roles.push(text("role").to_owned());
    }
    for role in ["controller", "worker-1", "worker-2"] {
        assert!(roles.iter().any(|one| one == role), "{role} has said something: {roles:?}");
    }
}

/// `LEVEL role[pid]: message`, the level padded to five.
#[track_caller]
fn assert_text_line(line: &str) {
    let (level, rest) = line.split_at_checked(6).unwrap_or_else(|| panic!("too short: {line:?}"));
    let levels = ["DEBUG ", "INFO  ", "WARN  ", "ERROR ", "FATAL "];
    assert!(levels.contains(&level), "begins with a level: {line:?}");
    let (who, message) = rest.split_once(": ").unwrap_or_else(|| panic!("no message: {line:?}"));
    let (role, pid) = who.split_once('[').unwrap_or_else(|| panic!("no pid: {line:?}"));
    assert!(role == "controller" || role.starts_with("worker-"), "{line:?}");
    assert!(pid.trim_end_matches(']').parse::<u32>().is_ok(), "{line:?}");
    assert!(!message.is_empty() && !line.contains('\x1b'), "plain text: {line:?}");
}

#[test]
fn every_text_line_has_level_role_pid_and_message() {
    let lock = TestLock::shared();
    let lines = eventful_life(lock.start(&["--workers", "2", "--log-level", "debug"]));
    assert!(lines.len() >= 10, "{lines:?}");
    lines.iter().for_each(|line| assert_text_line(line));
}

#[test]
fn optional_timestamps_begin_the_line() {
    let lock = TestLock::shared();
    let lines = eventful_life(lock.start(&["--workers", "1", "--enable-log-timestamps"]));
    assert!(lines.len() >= 6, "{lines:?}");
    for line in lines {
        let (stamp, rest) = line.split_once(' ').unwrap();
        let shape: String =
            stamp.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        assert!(shape.starts_with("0000-00-00T00:00:00") && shape.ends_with('Z'), "{line:?}");
        assert_text_line(rest);
    }
}

#[test]
fn connections_are_logged_at_debug_only() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "1"]);
    let before = server.log.lines().len();
    (0..50).for_each(|_| server.assert_echoes());
    (0..10).for_each(|_| server.connect().reset());
    wait_until(SOON, "all of them were handled", || {
        server.signal(Signal::SIGUSR1);
        thread::sleep(ms(20));
        server.log.count("Worker has handled (60) ") > 0
    });
    let after = server.log.lines();
    let all_usr1 = |line: &Line| line.has("Worker is currently") || line.has("Worker has handled");
    assert!(after[before..].iter().all(all_usr1), "{:?}", &after[before..]);
    server.stop();
}

#[test]
fn levels_error_and_fatal_log_nothing_in_normal_operation() {
    let lock = TestLock::shared();
    for level in ["ERROR", "fatal"] {
        let mut server = lock.launch(&["--workers", "2", "--log-level", level]).start_unready();
        server.wait_listening(2);
        server.assert_echoes();
        server.signal(Signal::SIGUSR1);
        server.signal(Signal::SIGUSR2);
        server.assert_echoes();
        server.signal(Signal::SIGTERM);
        assert_eq!(server.wait_exit(SOON), Some(0));
        assert_eq!(server.into_output().1, Vec::<String>::new(), "log at level {level}");
    }
}

/// How long the kernel lets a queue be (/proc/sys/net/core/somaxconn).
fn longest_queue() -> u32 {
    let text = fs::read_to_string("/proc/sys/net/core/somaxconn").expect("a limit of queues");
    text.trim().parse().expect("a number")
}

const SHORT_QUEUES: &str =
    "--connection-backlog exceeds net.core.somaxconn: accept queues are shorter";

#[test]
fn level_warn_shows_warnings_and_nothing_below() {
    let lock = TestLock::shared();
    let mut server = lock.launch(&["--workers", "1", "--log-level", "WARN"]).start_unready();
    server.wait_listening(1);
    server.assert_echoes();
    let before = server.worker();
    send_signal(before, Signal::SIGKILL);
    wait_until(SOON, "a new worker", || server.workers().values().any(|&pid| pid != before));
    wait_until(SOON, "it serves", || Client::try_connect(server.address()).is_ok());
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait_exit(SOON), Some(0));
    let lines = server.into_output().1;
    let death = format!("worker exited slot=1 worker_pid={before} status=\"signal SIGKILL\"");
    assert!(lines.iter().any(|line| line.ends_with(&death)), "{lines:?}");
    assert!(lines.iter().all(|line| line.starts_with("WARN  ")), "{lines:?}");
}

#[test]
fn a_backlog_that_the_kernel_shortens_is_a_warning() {
    let lock = TestLock::shared();
    let limit = longest_queue();
    if limit >= u32::from(u16::MAX) {
        return skip("the kernel allows queues of any length that can be asked for");
    }
    for (backlog, warnings) in [(limit, 0), (limit + 1, 1)] {
        let server = lock.start(&["--workers", "1", "--connection-backlog", &backlog.to_string()]);
        let lines = server.log.with(SHORT_QUEUES);
        assert_eq!(lines.len(), warnings, "--connection-backlog {backlog}: {lines:?}");
        for line in lines {
            assert!(line.has("WARN  controller["), "{line:?}");
            assert_eq!(line.number("backlog"), Some(i64::from(backlog)), "{line:?}");
            assert_eq!(line.number("somaxconn"), Some(i64::from(limit)), "{line:?}");
        }
        wait_until(SOON, "the queue is as long as it can be", || {
            stats(&server)["slots"][0]["queue_limit"] == limit
        });
        server.stop();
    }
}

#[test]
fn overlong_lines_are_truncated() {
    let lock = TestLock::shared();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tcp-echo.toml");
    for format in ["text", "json"] {
        fs::write(&path, "workers = 1\n").unwrap();
        let args = ["--log-format", format, "--config", path.to_str().unwrap()];
        let server = lock.start(&args);
        // Escaped, and of four bytes each: nothing takes more.
        for (name, long) in [("escapes", "\\u0001"), ("letters", "\u{1f600}")] {
            let key = long.repeat(5000);
            fs::write(&path, format!("workers = 1\n\"{name}{key}\" = 1\n")).unwrap();
            let line = refused_reload(&server);
            println!("{} bytes of {name}", line.text.len());
            // With the newline.
            assert!((600..4096).contains(&line.text.len()), "{} bytes", line.text.len());
            assert!(line.has(&format!(":2: unknown key '{name}")), "{line:?}");
            assert!(line.number("failed").is_some(), "what follows is not cut: {line:?}");
            match format {
                "json" => _ = serde_json::from_str::<Value>(&line.text).expect("JSON"),
                _ => assert_text_line(&line.text),
            }
        }
        server.stop();
    }
}

/// Enough connections to fill any pipe with the lines that tell of them.
const TALKATIVE: usize = 1500;

#[test]
fn a_blocked_log_pipe_does_not_block_the_echo_and_lost_lines_are_counted() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "2", "--log-level", "DEBUG"]);
    server.log.pause();
    let mut witness = server.connect();
    let begin = Instant::now();
    for _ in 0..TALKATIVE {
        server.assert_echoes();
    }
    let worst = (0..100).map(|_| witness.echo(100)).max().unwrap();
    println!("{TALKATIVE} connections in {:?}, worst echo {worst:?}", begin.elapsed());
    assert!(begin.elapsed() < secs(20), "{:?}", begin.elapsed());
    assert!(worst < secs(1), "worst echo with a full log pipe: {worst:?}");
    let seen = server.log.lines().len();
    assert!(seen < TALKATIVE, "the log was not read meanwhile: {seen} lines");
    server.log.resume();
    wait_until(SOON, "the loss is told once the pipe is read again", || {
        server.assert_echoes();
        server.log.count("log lines dropped") > 0
    });
    let told = server.log.wait_for(ms(0), "log lines dropped");
    assert!(told.number("count").is_some_and(|count| count > 0), "{told:?}");
    witness.finish();
    server.stop();
}

#[test]
fn a_closed_log_pipe_ends_no_process() {
    let lock = TestLock::shared();
    let mut server = lock.start(&["--workers", "2", "--log-level", "DEBUG"]);
    let before = server.workers();
    server.log.hang_up();
    (0..100).for_each(|_| server.assert_echoes());
    server.signal(Signal::SIGUSR1);
    server.signal(Signal::SIGUSR2);
    (0..100).for_each(|_| server.assert_echoes());
    assert_eq!(server.workers(), before);
    server.stop();
}
