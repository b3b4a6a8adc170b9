//! The access log gives the reason for which the daemon itself has ended a connection.

use nix::sys::signal::Signal;

use super::limits::kept_for_deaf;
use super::statistics::{assert_books_balance, at_rest};
use super::support::log::Line;
use super::support::trace::Tracer;
use super::support::{SOON, Server, Turn, secs, total, wait_for, wait_until};

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
fn an_idle_connection_one_that_is_drained_and_one_that_is_cut_have_their_reasons() {
    let turn = Turn::shared();
    for (which, orderly) in [("all", 1), ("errors", 0)] {
        let args = ["--workers", "1", "--access-log", which, "--idle-timeout", "2s"];
        let launch = turn.launch(&args).arg("--graceful-timeout").arg("2s");
        let mut server = launch.arg("--write-timeout").arg("0").start();
        let mut idle = server.connect();
        idle.echo(8);
        idle.expect_fin();
        drop(idle);
        if orderly > 0 {
            assert!(line_of(&server, "idle").has(" received=8 sent=8 "));
        }
        let mut deaf = server.connect();
        kept_for_deaf(&mut deaf, &server);
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
fn a_connection_that_cannot_be_watched_ends_with_an_error() {
    let turn = Turn::shared();
    let args = ["--workers", "1", "--access-log", "errors", "--log-empty"];
    let server = turn.start(&args);
    server.assert_echoes();
    // As on a machine whose user has no watches left (/proc/sys/fs/epoll/max_user_watches).
    let injection = "epoll_ctl:error=ENOSPC:when=1";
    let Some(tracer) = Tracer::inject(server.worker(), injection) else { return };
    let mut refused = server.connect();
    let peer = refused.stream().local_addr().unwrap();
    refused.read_to_end(SOON);
    let line = line_of(&server, "error");
    assert!(line.has(&format!(" peer={peer} ")) && line.has(" received=0 sent=0 "), "{line:?}");
    let warning = server.log.wait_for(SOON, "cannot watch a new connection, closing it");
    assert!(warning.has("WARN") && warning.has("No space left on device"), "{warning:?}");
    drop(tracer);
    wait_until(secs(2), "others are served", || {
        server.assert_echoes();
        server.log.count("accepting resumed") == 1
    });
    let figures = at_rest(&server);
    assert_books_balance(&figures);
    assert_eq!(total(&figures, "connections_closed/error"), 1);
    server.stop();
}
