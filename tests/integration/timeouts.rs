//! Idle, write, and linger timeouts.

use std::io::{ErrorKind, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::statistics::{assert_counters_consistent, idle_stats};
use super::support::client::{End, is_reset, uninterrupted};
use super::support::load::{in_parallel, ping};
use super::support::{
    Client, SOON, Server, TestLock, assert_between, ms, secs, skip, stats, total, wait_until,
    with_background,
};

/// Echoes once, rests, and tells how and how long after the last byte the connection ended.
fn rest_until_the_end(server: &Server) -> (End, Duration) {
    let mut client = server.connect();
    let last = Instant::now();
    client.echo(10);
    let end = client.end_within(secs(5));
    (end, last.elapsed())
}

#[test]
fn an_idle_connection_gets_a_fin_after_the_idle_timeout() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "1", "--idle-timeout", "1"]);
    for (end, after) in in_parallel(10, |_| rest_until_the_end(&server)) {
        assert_eq!(end, End::Fin);
        assert_between("closed", after, secs(1), ms(2500));
    }
    server.stop();
}

/// The longest time by which a thread that only sleeps, a millisecond at a time, woke up too late.
fn baseline(over: &AtomicBool) -> Duration {
    let mut latest = Duration::ZERO;
    while !over.load(Ordering::SeqCst) {
        let begin = Instant::now();
        thread::sleep(ms(1));
        latest = latest.max(begin.elapsed().saturating_sub(ms(1)));
    }
    latest
}

/// Echoes once and rests: the shortest and the longest time after the last byte at which the worker
/// can have closed, as far as can be told from here.
fn measure_idle_close(server: &Server, index: usize) -> [Duration; 2] {
    let mut client = server.connect();
    // At another moment of a tick of 100 ms than the others.
    thread::sleep(ms(7) * index as u32);
    let sent = Instant::now();
    client.echo(10);
    let received = Instant::now();
    assert_eq!(client.end_within(secs(5)), End::Fin);
    [received.elapsed(), sent.elapsed()]
}

#[test]
fn an_idle_connection_is_closed_at_most_200_ms_late_and_never_early() {
    const LEAST: Duration = secs(1);
    const MOST: Duration = ms(1200);
    let lock = TestLock::exclusive();
    let server = lock.start(&["--workers", "1", "--idle-timeout", "1"]);
    // On a busy machine the baseline is late, too: then the test tries again. A daemon that
    // is late is so every time.
    let mut calmest = Duration::MAX;
    for _ in 0..15 {
        let (times, busy) = with_background(baseline, || {
            in_parallel(15, |index| measure_idle_close(&server, index))
        });
        println!("closed after {times:?}, the baseline was {busy:?} late");
        for [_, after] in &times {
            assert!(*after >= LEAST, "closed early, after {after:?}: {times:?}");
        }
        if times.iter().all(|[after, _]| *after <= MOST) {
            return server.stop();
        }
        calmest = calmest.min(busy);
    }
    assert!(calmest > MOST - LEAST, "closed late 15 times; the baseline once only {calmest:?}");
    skip("a thread that only sleeps is late by more than 0.2 s here, too");
}

#[test]
fn a_client_that_never_sends_is_idle() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "1", "--idle-timeout", "1"]);
    let begin = Instant::now();
    let mut silent = server.connect();
    assert_eq!(silent.end_within(secs(5)), End::Fin);
    assert_between("closed", begin.elapsed(), secs(1), ms(2500));
    server.stop();
}

#[test]
fn with_send_reset_an_idle_connection_is_reset() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "1", "--idle-timeout", "1", "--enable-send-reset"]);
    for (end, after) in in_parallel(10, |_| rest_until_the_end(&server)) {
        assert_eq!(end, End::Reset);
        assert_between("reset", after, secs(1), ms(2500));
    }
    server.stop();
}

#[test]
fn a_connection_is_not_idle_while_bytes_move() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "1", "--idle-timeout", "1"]);
    let mut client = server.connect();
    let begin = Instant::now();
    let mut last = begin;
    while begin.elapsed() < secs(4) {
        last = Instant::now();
        client.echo(1);
        thread::sleep(ms(300));
    }
    assert_eq!(client.end_within(secs(5)), End::Fin);
    assert_between("closed after the last byte", last.elapsed(), secs(1), ms(2500));
    server.stop();
}

#[test]
fn without_an_idle_timeout_no_connection_is_closed() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "1", "--idle-timeout", "0"]);
    let mut client = server.connect();
    client.echo(10);
    assert_eq!(client.end_within(ms(2500)), End::Open);
    client.echo(10);
    client.finish();
    server.stop();
}

#[test]
fn the_optional_idle_message_is_sent_before_the_fin() {
    let lock = TestLock::shared();
    // Blanks at both ends stay, and no line end is added.
    let message = " Closing connection due to inactivity\t ";
    let args = ["--workers", "1", "--idle-timeout", "1", "--idle-message", message];
    let server = lock.start(&args);
    let (mut client, mut silent) = (server.connect(), server.connect());
    client.echo(10);
    for client in [&mut client, &mut silent] {
        assert_eq!(client.read_to_end(secs(5)), (message.as_bytes().to_vec(), End::Fin));
    }
    drop((client, silent));
    let snapshot = idle_stats(&server);
    assert_counters_consistent(&snapshot);
    assert_eq!(total(&snapshot, "bytes_injected"), 2 * message.len() as u64);
    assert_eq!(total(&snapshot, "bytes_sent"), 10 + 2 * message.len() as u64);
    server.stop();
}

#[test]
fn with_send_reset_there_is_no_idle_message() {
    let lock = TestLock::shared();
    let args = ["--workers", "1", "--idle-timeout", "1", "--enable-send-reset"];
    let server = lock.launch(&args).arg("--idle-message").arg("bye").start();
    let (end, _) = rest_until_the_end(&server);
    assert_eq!(end, End::Reset);
    let snapshot = idle_stats(&server);
    assert_counters_consistent(&snapshot);
    assert_eq!(total(&snapshot, "bytes_injected"), 0);
    assert_eq!(total(&snapshot, "connections_closed/idle"), 1);
    server.stop();
}

/// Sends a byte at a time after the server's FIN until that fails; how long it went well.
fn talk_on_after_the_fin(server: &Server) -> Duration {
    let mut client = server.connect();
    client.echo(10);
    assert_eq!(client.end_within(secs(5)), End::Fin);
    let fin = Instant::now();
    loop {
        match client.try_send(1) {
            Ok(()) if fin.elapsed() > secs(6) => panic!("the server discards input for ever"),
            Ok(()) => thread::sleep(ms(20)),
            Err(error) if is_reset(&error) => return fin.elapsed(),
            Err(error) => panic!("neither sent nor reset: {error}"),
        }
    }
}

#[test]
fn input_after_the_servers_fin_is_discarded_for_the_linger_timeout() {
    let lock = TestLock::shared();
    let args = ["--workers", "1", "--idle-timeout", "1", "--linger-timeout", "1"];
    let server = lock.start(&args);
    assert_between("lingered", talk_on_after_the_fin(&server), ms(900), ms(3000));
    server.stop();
    let args = ["--workers", "1", "--idle-timeout", "1", "--linger-timeout", "0"];
    let server = lock.start(&args);
    assert!(talk_on_after_the_fin(&server) < ms(500), "0 closes at once");
    server.stop();
}

/// Waits until the server resets a client that reads nothing.
#[track_caller]
fn wait_for_reset(stalled: &Client) {
    let stuck = Instant::now();
    // Without reading: the end shows in writing.
    let mut stream = stalled.stream();
    let error = loop {
        match uninterrupted(|| stream.write(&[0; 64 * 1024])) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => break error,
            Ok(_) => {}
        }
        assert!(stuck.elapsed() < secs(9), "the stalled client is still connected");
    };
    assert!(is_reset(&error), "how it ended: {error}");
}

/// Connects a client that reads nothing, and sends until the server has bytes waiting for it.
#[track_caller]
fn stalled_client(server: &Server) -> Client {
    let mut stalled = server.connect();
    wait_until(SOON, "the server has a pending write", || {
        stalled.send_until_stalled(ms(200), 64 << 20);
        stats(server)["totals"]["bytes_buffered"].as_u64() > Some(0)
    });
    stalled
}

#[test]
fn a_stalled_client_is_reset_after_the_write_timeout() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "1", "--write-timeout", "1"]);
    let mut stalled = server.connect();
    stalled.send_until_stalled(ms(200), 64 << 20);
    let stuck = Instant::now();
    wait_for_reset(&stalled);
    assert!(stuck.elapsed() < ms(3500), "{:?}", stuck.elapsed());
    server.assert_echoes();
    server.stop();
}

#[test]
fn without_a_write_timeout_a_stalled_client_is_never_reset() {
    let lock = TestLock::shared();
    let start = |timeout: &str| {
        lock.start(&["--workers", "1", "--idle-timeout", "1", "--write-timeout", timeout])
    };
    let (patient, strict) = (start("0"), start("1"));
    let stalled = stalled_client(&patient);
    let mut comparison = strict.connect();
    comparison.send_until_stalled(ms(200), 64 << 20);
    wait_for_reset(&comparison);
    // Several timeouts and polls of them later, idle or not.
    thread::sleep(secs(4));
    let error = stalled.stream().take_error().unwrap();
    assert!(error.is_none(), "the stalled client is still connected: {error:?}");
    stalled.finish();
    assert_eq!(total(&stats(&patient), "connections_closed/write_timeout"), 0);
    patient.stop();
    strict.stop();
}

/// Sends up to `most` bytes, and then reads little, but steadily, for four seconds. The connection
/// must survive that in both directions.
fn read_slowly_but_steadily(server: &Server, most: usize) {
    let mut slow = server.connect();
    slow.send_until_stalled(ms(200), most);
    let begin = Instant::now();
    while begin.elapsed() < secs(4) {
        slow.expect(32 * 1024);
        thread::sleep(ms(100));
    }
    slow.expect(slow.outstanding());
    slow.echo(1000);
    slow.finish();
}

#[test]
fn a_slow_steady_reader_is_not_stalled() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "1", "--write-timeout", "1", "--idle-timeout", "60"]);
    read_slowly_but_steadily(&server, 64 << 20);
    server.stop();
}

/// Little enough for the kernel to hold: the worker has sent it all long before it has arrived.
const IN_THE_KERNEL: usize = 2 << 20;

#[test]
fn a_slow_steady_reader_is_not_idle() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "1", "--idle-timeout", "1"]);
    read_slowly_but_steadily(&server, IN_THE_KERNEL);
    server.stop();
}

#[test]
fn with_send_reset_a_slow_steady_reader_loses_no_byte() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "1", "--idle-timeout", "1", "--enable-send-reset"]);
    read_slowly_but_steadily(&server, IN_THE_KERNEL);
    server.stop();
}

/// Three kinds of stalled clients, ten a second or so: stalled, stalled behind a FIN, and silent with
/// unread data. All stay open in our hands, so that the server has to get rid of them.
fn gather_stalled_clients(server: &Server, over: &AtomicBool) -> Vec<Client> {
    let mut stalled = Vec::new();
    while !over.load(Ordering::SeqCst) {
        let mut client = server.connect();
        let most = if stalled.len() % 3 == 2 { 1 << 20 } else { 16 << 20 };
        client.send_until_stalled(ms(20), most);
        if stalled.len() % 3 == 1 {
            client.half_close();
        }
        stalled.push(client);
        thread::sleep(ms(50));
    }
    stalled
}

#[test]
fn stalled_clients_that_time_out_and_linger_do_not_delay_others() {
    let lock = TestLock::exclusive();
    let args = ["--workers", "1", "--idle-timeout", "1", "--write-timeout", "1"];
    let args = [&args[..], &["--linger-timeout", "3"]].concat();
    let server = lock.start(&args);
    let (pings, stalled) = with_background(
        |over| gather_stalled_clients(&server, over),
        || ping(&server, secs(6), ms(5)),
    );
    let gone = |client: &&Client| client.stream().take_error().unwrap().is_some();
    let reset = stalled.iter().filter(gone).count();
    println!("{pings:?} beside {} stalled clients, {reset} of them reset", stalled.len());
    assert!(reset > 0, "the server has got rid of some");
    assert!(pings.excess() < ms(100), "worst round trip beside lingering clients: {pings:?}");
    drop(stalled);
    server.stop();
}

#[test]
fn the_keepalive_delay_enables_probes() {
    let lock = TestLock::shared();
    for (args, wanted) in [(vec!["--keepalive-delay", "30"], true), (vec![], false)] {
        let server = lock.start(&[&["--workers", "1"][..], &args].concat());
        let mut client = server.connect();
        client.echo(10);
        assert_eq!(client.has_keepalive(), wanted, "the kernel's timer is as configured");
        client.finish();
        server.stop();
    }
}
