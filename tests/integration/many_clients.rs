//! Many clients at once, including stalled, silent, and resetting ones.

use std::sync::atomic::Ordering;
use std::thread;

use super::support::load::{in_parallel, ping, stream_until};
use super::support::{Client, End, TestLock, ms, proc, secs, with_background};

#[test]
fn two_thousand_connections_at_once_are_all_served() {
    let lock = TestLock::exclusive();
    let server = lock.start(&["--workers", "2", "--idle-timeout", "60"]);
    let groups = in_parallel(8, |_| (0..250).map(|_| server.connect()).collect::<Vec<_>>());
    let mut clients: Vec<Client> = groups.into_iter().flatten().collect();
    assert_eq!(clients.len(), 2000);
    for round in 1..=2 {
        clients.iter_mut().for_each(|client| client.send(round * 100));
        clients.iter_mut().for_each(|client| client.expect(round * 100));
    }
    clients.into_iter().for_each(Client::finish);
    server.stop();
}

#[test]
fn a_thousand_resets_in_mid_stream_do_not_affect_others() {
    let lock = TestLock::exclusive();
    let server = lock.start(&["--workers", "2"]);
    let before = server.workers();
    let storm = || {
        in_parallel(8, |thread| {
            for number in 0..125 {
                let mut client = server.connect();
                client.send(64 * 1024);
                if (thread + number) % 2 == 0 {
                    client.expect(1000);
                }
                client.reset();
            }
        });
    };
    let (_, echoes) = with_background(
        |over| {
            let mut witness = server.connect();
            let mut echoes = 0;
            while !over.load(Ordering::SeqCst) {
                witness.echo(2000);
                echoes += 1;
            }
            witness.finish();
            echoes
        },
        storm,
    );
    assert!(echoes > 0, "the witness was there");
    assert_eq!(server.workers(), before, "no worker was replaced");
    server.stop();
}

#[test]
fn three_hundred_silent_clients_delay_no_other() {
    let lock = TestLock::exclusive();
    let server = lock.start(&["--workers", "1", "--idle-timeout", "60"]);
    let mut silent: Vec<Client> = (0..300).map(|_| server.connect()).collect();
    let pings = ping(&server, secs(1), ms(5));
    assert!(pings.excess() < ms(100), "worst round trip beside 300 silent clients: {pings:?}");
    for client in &mut silent {
        client.echo(10);
    }
    silent.into_iter().for_each(Client::finish);
    server.stop();
}

#[test]
fn a_hundred_stalled_clients_use_at_most_a_mebibyte_each_and_delay_no_other() {
    let lock = TestLock::exclusive();
    let server = lock.start(&["--workers", "1", "--idle-timeout", "60"]);
    let worker = server.worker();
    let before = proc::anonymous_memory(worker);
    let mut stalled: Vec<Client> = (0..100).map(|_| server.connect()).collect();
    let (pings, sent) = with_background(
        |over| {
            let mut sent = 0;
            while !over.load(Ordering::SeqCst) {
                for client in &mut stalled {
                    sent += client.send_until_stalled(ms(1), 1024 * 1024);
                }
            }
            sent
        },
        || ping(&server, secs(4), ms(5)),
    );
    let grown = proc::anonymous_memory(worker).saturating_sub(before);
    println!("{sent} bytes sent by 100 stalled clients; grown by {grown}; {pings:?}");
    assert!(sent > 100 * 1024 * 1024, "the stalled clients have sent a lot: {sent}");
    assert!(grown <= 100 * 1024 * 1024, "the worker has grown by {grown} bytes");
    assert!(pings.excess() < secs(1), "worst round trip beside 100 stalled clients: {pings:?}");
    assert_eq!(server.worker(), worker, "the worker was not replaced");
    stalled_clients_still_get_their_bytes(stalled);
    server.assert_echoes();
    server.stop();
}

/// Not a byte was dropped to keep the memory small: those who begin to read get everything.
fn stalled_clients_still_get_their_bytes(stalled: Vec<Client>) {
    for mut client in stalled.into_iter().take(10) {
        client.half_close();
        client.expect(client.outstanding());
        assert_eq!(client.end_within(secs(5)), End::Fin);
    }
}

#[test]
fn pings_during_four_full_speed_streams_in_one_worker_stay_under_100_ms() {
    let lock = TestLock::exclusive();
    let server = lock.start(&["--workers", "1"]);
    let (pings, bytes) = with_background(
        |over| in_parallel(4, |_| stream_until(server.address(), over)),
        || {
            // The streams need a moment to fill their buffers.
            thread::sleep(ms(300));
            ping(&server, secs(3), ms(5))
        },
    );
    let total: u64 = bytes.iter().sum();
    println!("{pings:?} beside {} MiB streamed", total >> 20);
    assert!(bytes.iter().all(|&one| one > 1 << 20), "every stream moved: {bytes:?}");
    assert!(pings.excess() < ms(100), "worst round trip beside four streams: {pings:?}");
    server.stop();
}
