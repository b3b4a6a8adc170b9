//! Close reasons in the access log.

use nix::sys::signal::Signal;

use super::limits::bytes_buffered_for;
use super::statistics::{assert_counters_consistent, idle_stats};
use super::support::log::Line;
use super::support::strace::Tracer;
use super::support::{SOON, Server, TestLock, secs, total, wait_for, wait_until};

/// All lines so far with this reason.
fn lines_of(server: &Server, reason: &str) -> Vec<Line> {
    let ending = format!(" reason={reason}");
    let lines = server.log.with("connection ended").into_iter();
    lines.filter(|line| line.text.ends_with(&ending)).collect()
}

/// The line with this reason.
#[track_caller]
fn line_of(server: &Server, reason: &str) -> Line {
    let what = format!("a line with reason={reason}");
    wait_for(SOON, &what, || lines_of(server, reason).pop())
}

#[test]
fn idle_drained_and_reset_connections_have_their_reasons() {
    let lock = TestLock::shared();
    for (which, orderly) in [("all", 1), ("errors", 0)] {
        let args = ["--workers", "1", "--access-log", which, "--idle-timeout", "2s"];
        let launch = lock.launch(&args).arg("--graceful-timeout").arg("2s");
        let mut server = launch.arg("--write-timeout").arg("0").start();
        let mut idle = server.connect();
        idle.echo(8);
        idle.expect_fin();
        drop(idle);
        if orderly > 0 {
            assert!(line_of(&server, "idle").has(" received=8 sent=8 "));
        }
        let mut stalled = server.connect();
        bytes_buffered_for(&mut stalled, &server);
        let mut quiet = server.connect();
        quiet.echo(9);
        server.signal(Signal::SIGTERM);
        quiet.expect_fin();
        drop(quiet);
        if orderly > 0 {
            assert!(line_of(&server, "drain").has(" received=9 sent=9 "));
        }
        assert_eq!(server.wait_exit(SOON), Some(0));
        let cut = line_of(&server, "drain_deadline");
        let [received, sent] = ["received", "sent"].map(|key| cut.number(key).unwrap());
        assert!(received > sent && sent > 0, "{cut:?}");
        for (reason, count) in [("idle", orderly), ("drain", orderly), ("drain_deadline", 1)] {
            let lines = lines_of(&server, reason);
            assert_eq!(lines.len(), count, "--access-log {which}: {lines:?}");
        }
    }
}

#[test]
fn a_connection_that_epoll_rejects_ends_with_an_error() {
    let lock = TestLock::shared();
    let args = ["--workers", "1", "--access-log", "errors", "--log-empty"];
    let server = lock.start(&args);
    server.assert_echoes();
    // As on a machine whose user has no watches left (/proc/sys/fs/epoll/max_user_watches).
    let injection = "epoll_ctl:error=ENOSPC:when=1";
    let Some(tracer) = Tracer::inject(server.worker(), injection) else { return };
    let mut refused = server.connect();
    let peer = refused.stream().local_addr().unwrap();
    refused.read_to_end(SOON);
    let line = line_of(&server, "error");
    assert!(line.has(&format!(" peer={peer} ")) && line.has(" received=0 sent=0 "), "{line:?}");
    let warning = server.log.wait_for(SOON, "connection closed: cannot register it");
    assert!(warning.has("WARN") && warning.has("No space left on device"), "{warning:?}");
    drop(tracer);
    wait_until(secs(2), "others are served", || {
        server.assert_echoes();
        server.log.count("accept resumed") == 1
    });
    let snapshot = idle_stats(&server);
    assert_counters_consistent(&snapshot);
    assert_eq!(total(&snapshot, "connections_closed/error"), 1);
    server.stop();
}
