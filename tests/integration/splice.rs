//! Bulk through splice(2): urgent bytes, small segments, a late FIN, and resets.

use std::fs;
use std::io::Write;

use nix::sys::signal::Signal;

use super::limits::{bytes_buffered_for, read_everything};
use super::statistics::idle_stats;
use super::support::operations::{freeze, send_signal};
use super::support::strace::Tracer;
use super::support::{Client, SOON, Server, TestLock, ms, proc, secs, total, try_for, wait_until};

/// Fills the worker's receive buffer exactly: a sign of bulk with no small piece behind it.
const LARGE: usize = 256 * 1024;

/// How many pipes a process has open, those of its outputs among them.
fn pipes_of(pid: i32) -> usize {
    let links = fs::read_dir(format!("/proc/{pid}/fd")).expect("the process lives").flatten();
    let names = links.filter_map(|link| fs::read_link(link.path()).ok());
    names.filter(|name| name.to_string_lossy().starts_with("pipe:")).count()
}

/// A client of a worker that has no other. The worker has made a pipe for its bytes, so it splices.
#[track_caller]
fn spliced_client(server: &Server) -> Client {
    let worker = server.worker();
    let before = pipes_of(worker);
    let mut client = server.connect();
    wait_until(SOON, "a pipe for what the client sends", || {
        client.echo(LARGE);
        pipes_of(worker) > before
    });
    // A pipe is made at the threshold; a small receive or two must not lead back below it.
    (0..3).for_each(|_| _ = client.echo(LARGE));
    assert!(pipes_of(worker) > before, "the pipe is kept for the next piece");
    client
}

#[test]
fn an_urgent_byte_within_spliced_bulk_comes_back_in_order() {
    let lock = TestLock::shared();
    for (ahead, behind) in [(0, 0), (0, 100_000), (100_000, 0), (100_000, 100_000)] {
        let server = lock.start(&["--workers", "1"]);
        let mut client = spliced_client(&server);
        // All of it is there before the worker looks again.
        freeze(server.worker());
        client.send(ahead);
        client.send_urgent_byte();
        client.send(behind);
        send_signal(server.worker(), Signal::SIGCONT);
        client.expect(ahead + 1 + behind);
        client.echo(LARGE);
        client.finish();
        server.stop();
    }
}

/// Delays every splice(2) of a worker: what a client does meanwhile happens between the worker's look
/// at the events and that splice.
const DELAY: &str = "splice:delay_enter=300000";

/// Lets a client act until the worker is held at the splice that this causes. A busy machine may look
/// too late, after the delay.
#[track_caller]
fn hold_at_splice(worker: i32, mut act: impl FnMut()) {
    for _ in 0..10 {
        act();
        let mut held = 0;
        let is_held = || {
            held = if proc::is_traced(worker) { held + 1 } else { 0 };
            (held > 5).then_some(())
        };
        if try_for(ms(600), is_held).is_some() {
            return;
        }
    }
    panic!("the worker was never held at its splice");
}

/// Stops the server, whose only connection must have been closed for `reason`.
#[track_caller]
fn assert_closed_for(reason: &str, server: Server) {
    let stats = idle_stats(&server);
    assert_eq!(total(&stats, &format!("connections_closed/{reason}")), 1, "{stats}");
    server.stop();
}

#[test]
fn an_urgent_byte_and_a_fin_during_splice_do_not_truncate_the_bulk() {
    let lock = TestLock::shared();
    for ahead in [0, 100_000] {
        let server = lock.start(&["--workers", "1", "--worker-timeout", "0"]);
        let mut client = spliced_client(&server);
        let Some(tracer) = Tracer::inject(server.worker(), DELAY) else { return };
        // The worker knows of these bytes only. The rest arrives before the splice that moves them.
        hold_at_splice(server.worker(), || {
            client.expect(client.outstanding());
            if ahead == 0 {
                // The next splice finds the urgent byte first.
                client.echo(100_000);
            } else {
                client.send(ahead);
            }
        });
        client.send_urgent_byte();
        client.send(10);
        client.half_close();
        client.expect(ahead + 11);
        client.expect_fin();
        drop(tracer);
        assert_closed_for("client_fin", server);
    }
}

#[test]
fn a_reset_after_spliced_bulk_is_counted_as_a_reset() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "1", "--worker-timeout", "0"]);
    let mut client = spliced_client(&server);
    let Some(tracer) = Tracer::inject(server.worker(), DELAY) else { return };
    hold_at_splice(server.worker(), || _ = client.echo(100_000));
    client.reset();
    drop(tracer);
    assert_closed_for("reset", server);
}

#[test]
fn spliced_bulk_kept_for_a_stalled_client_is_at_most_the_buffer_size() {
    let lock = TestLock::shared();
    for (setting, most) in [("256KiB", 256 << 10), ("64KiB", 64 << 10)] {
        // How much it is in the end is chance, so there are several.
        for _ in 0..6 {
            let server = lock.start(&["--workers", "1", "--buffer-size", setting]);
            let mut client = spliced_client(&server);
            let kept = bytes_buffered_for(&mut client, &server);
            println!("--buffer-size {setting}: {kept}");
            assert!(kept <= most, "{kept} bytes with --buffer-size {setting}");
            read_everything(client);
            server.stop();
        }
    }
}

#[test]
fn small_segments_that_fill_a_pipe_with_few_bytes_come_back() {
    const SCRAP: usize = 300;
    const SCRAPS: usize = 400;
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "1"]);
    let mut client = spliced_client(&server);
    let mut other = server.connect();
    other.echo(1);
    freeze(server.worker());
    // A pipe has 64 places, each for bytes that lie side by side in memory. Bytes of a second
    // connection in between keep the scraps of the first apart.
    for _ in 0..SCRAPS {
        client.send(SCRAP);
        other.stream().write_all(&[0; SCRAP]).expect("the kernel has room");
    }
    send_signal(server.worker(), Signal::SIGCONT);
    client.expect(SCRAP * SCRAPS);
    client.echo(LARGE);
    client.finish();
    let (rest, _) = other.read_to_end(secs(1));
    assert_eq!(rest.len(), SCRAP * SCRAPS);
    drop(other);
    server.stop();
}
