//! Draining of replaced workers: drain timeout, drain jitter, and complete transfers.

use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use super::support::load::in_parallel;
use super::support::operations::{reload, wait_for_workers};
use super::support::traffic::{slow_transfer, steady_transfer};
use super::support::{Client, End, SOON, TestLock, assert_between, ms, secs, with_background};

#[test]
fn a_stalled_client_keeps_an_old_worker_no_longer_than_the_drain_timeout() {
    let lock = TestLock::shared();
    let args = ["--workers", "1", "--drain-timeout", "2s", "--drain-spread", "0"];
    let server = lock.start(&args);
    let old = server.worker();
    let mut stalled = server.connect();
    stalled.send_until_stalled(ms(200), 64 << 20);
    let begin = Instant::now();
    reload(&server);
    let deadline = server.log.wait_for(SOON, "drain deadline reached");
    assert_eq!(deadline.number("reset"), Some(1), "{deadline:?}");
    assert!(deadline.has(&format!("worker-1[{old}]")), "{deadline:?}");
    assert_between("the drain timeout", deadline.at - begin, ms(1900), secs(4));
    let (_, end) = stalled.read_to_end(secs(2));
    assert_eq!(end, End::Reset, "what is left is reset");
    wait_for_workers(&server, 1);
    server.assert_echoes();
    server.stop();
}

#[test]
fn a_transfer_of_64_mib_is_not_cut_by_reloads() {
    let lock = TestLock::shared();
    let args = ["--workers", "2", "--drain-timeout", "20s", "--drain-spread", "500ms"];
    let server = lock.start(&args);
    let address = server.address();
    let no_hurry = AtomicBool::new(false);
    let (_, transfers) = with_background(
        |_| in_parallel(2, |_| slow_transfer(address, 64 << 20, secs(4), &no_hurry)),
        || {
            for _ in 0..2 {
                thread::sleep(ms(500));
                reload(&server);
            }
        },
    );
    for transfer in transfers {
        let took = transfer.expect("all 64 MiB come back, and then the FIN");
        assert!(took > secs(3), "it was in the middle of it: {took:?}");
    }
    assert_eq!(server.log.count("drain deadline reached"), 0);
    wait_for_workers(&server, 2);
    server.stop();
}

#[test]
fn a_connection_is_served_after_a_reload_until_it_is_idle() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "1", "--drain-spread", "0"]);
    let address = server.address();
    let (end, talked) = with_background(
        |over| steady_transfer(address, over),
        || {
            let mut silent = server.connect();
            silent.echo(100);
            reload(&server);
            let begin = Instant::now();
            let end = silent.end_within(SOON);
            // It is seen out when it has been quiet for a second.
            assert!(begin.elapsed() < secs(2), "{:?}", begin.elapsed());
            thread::sleep(secs(1));
            end
        },
    );
    assert_eq!(end, End::Fin);
    assert!(talked.expect("who talks is not cut") > 0);
    wait_for_workers(&server, 1);
    server.stop();
}

#[test]
fn a_drain_closes_no_connection_within_a_second_of_data() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "2", "--drain-spread", "0"]);
    let mut clients: Vec<Client> = (0..10).map(|_| server.connect()).collect();
    let mut said = Instant::now();
    clients.iter_mut().for_each(|client| _ = client.echo(100));
    reload(&server);
    for pause in [300, 500, 700] {
        thread::sleep(ms(pause).saturating_sub(said.elapsed()));
        said = Instant::now();
        clients.iter_mut().for_each(|client| _ = client.echo(100));
    }
    for mut client in clients {
        client.expect_fin();
    }
    assert!(said.elapsed() > ms(900), "{:?} after the last word", said.elapsed());
    wait_for_workers(&server, 2);
    server.stop();
}

/// When each of the clients got its FIN, counted from `begin`.
fn close_times(clients: Vec<Client>, begin: Instant) -> Vec<Duration> {
    let clients: Vec<_> = clients.into_iter().map(|client| Mutex::new(Some(client))).collect();
    let mut times = in_parallel(clients.len(), |index| {
        let client = clients[index].lock().unwrap().take();
        client.expect("each is taken once").expect_fin();
        begin.elapsed()
    });
    times.sort();
    times
}

#[test]
fn drain_jitter_spreads_the_closing_of_idle_connections() {
    let lock = TestLock::shared();
    let args = ["--workers", "2", "--drain-spread", "2s", "--idle-timeout", "60"];
    let server = lock.start(&args);
    let mut clients: Vec<Client> = (0..40).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|client| _ = client.echo(100));
    // They are idle for longer than the second in which a drain closes no connection.
    thread::sleep(ms(1100));
    let begin = Instant::now();
    reload(&server);
    let times = close_times(clients, begin);
    println!("{times:?}");
    assert!(times[39] < secs(2) + secs(1), "all within the spread: {times:?}");
    let in_tenth = |tenth: u32| {
        let of_tenth = |time: &&Duration| time.as_millis() as u32 / 200 == tenth;
        times.iter().filter(of_tenth).count()
    };
    let largest = (0..15).map(in_tenth).max().unwrap();
    assert!(largest <= 16, "{largest} of 40 in the same tenth: {times:?}");
    assert!(times[39] - times[0] > ms(1000), "over the time: {times:?}");
    wait_for_workers(&server, 2);
    server.stop();
}

#[test]
fn a_client_that_ignores_the_fin_does_not_keep_an_old_worker() {
    let lock = TestLock::shared();
    let args = ["--workers", "1", "--drain-spread", "0", "--linger-timeout", "500ms"];
    let server = lock.start(&args);
    let mut client = server.connect();
    client.echo(100);
    reload(&server);
    client.expect_fin();
    let begin = Instant::now();
    wait_for_workers(&server, 1);
    assert!(begin.elapsed() < secs(2), "{:?}", begin.elapsed());
    server.stop();
}
