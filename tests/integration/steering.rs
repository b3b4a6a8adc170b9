//! Steering: new connections avoid hung, crashing, and missing workers.

use std::thread;
use std::time::Instant;

use nix::sys::signal::Signal;

use super::support::operations::{
    connection_counts, freeze, reload, send_signal, wait_for_workers,
};
use super::support::traffic::under_short_exchanges;
use super::support::{Client, SOON, Server, TestLock, ms, secs, wait_until};

#[test]
fn two_seconds_after_a_worker_stops_no_new_connection_stalls() {
    let lock = TestLock::exclusive();
    let server = lock.start(&["--workers", "2"]);
    let workers = server.workers();
    let (stopped, traffic) = under_short_exchanges(server.address(), || {
        thread::sleep(ms(200));
        let stopped = Instant::now();
        freeze(workers[&2]);
        thread::sleep(ms(3000));
        send_signal(workers[&2], Signal::SIGCONT);
        stopped
    });
    let stalled = traffic.exchanges.iter().filter(|short_exchange| short_exchange.took > ms(500));
    println!("{} exchanges took more than 0.5 s: {traffic:?}", stalled.count());
    // Even those that the stopped one had accepted are served when it goes on.
    traffic.assert_nothing_lost();
    let stall = traffic.worst_latency_since(stopped + secs(2));
    assert!(stall < ms(500), "two seconds later no client waits: {stall:?}");
    let line = &server.log.with("worker unresponsive")[0];
    assert_eq!(line.number("worker_pid"), Some(i64::from(workers[&2])));
    assert!(line.at - stopped < secs(2), "{:?}", line.at - stopped);
    server.log.wait_for(SOON, "worker responsive again");
    takes_part(&server, workers[&2]);
    assert_eq!(server.workers(), workers, "no worker was replaced");
    server.stop();
}

/// Of forty new connections the worker gets some. (That it gets none though it has its share happens
/// once in 2^39 times.)
#[track_caller]
fn takes_part(server: &Server, worker: i32) {
    let before = connection_counts(server)[&worker].1;
    let mut clients: Vec<Client> = (0..40).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|client| _ = client.echo(10));
    let after = connection_counts(server)[&worker].1;
    assert!(after > before, "the worker takes part: {before} connections before, {after} after");
    clients.into_iter().for_each(Client::finish);
}

#[test]
fn the_accept_queue_of_a_stopped_worker_is_served_by_a_sibling() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "2"]);
    let workers = server.workers();
    freeze(workers[&1]);
    let begin = Instant::now();
    let mut clients: Vec<Client> = (0..40).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|client| client.send(1000));
    clients.iter_mut().for_each(|client| client.expect(1000));
    assert!(begin.elapsed() < secs(3), "within the heartbeat and a bit: {:?}", begin.elapsed());
    server.log.wait_for(SOON, "taking over accept queue");
    clients.into_iter().for_each(Client::finish);
    send_signal(workers[&1], Signal::SIGCONT);
    server.log.wait_for(SOON, "worker responsive again");
    takes_part(&server, workers[&1]);
    server.stop();
}

#[test]
fn connections_of_a_stopped_worker_continue_with_it() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "2"]);
    let workers = server.workers();
    let mut clients: Vec<Client> = (0..20).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|client| _ = client.echo(100));
    freeze(workers[&1]);
    clients.iter_mut().for_each(|client| client.send(1000));
    server.log.wait_for(SOON, "worker unresponsive");
    send_signal(workers[&1], Signal::SIGCONT);
    clients.iter_mut().for_each(|client| client.expect(1000));
    clients.into_iter().for_each(Client::finish);
    assert_eq!(server.workers(), workers);
    server.stop();
}

#[test]
fn with_all_workers_stopped_connections_wait_and_none_is_refused() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "2"]);
    let workers = server.workers();
    workers.values().for_each(|&pid| freeze(pid));
    wait_until(secs(4), "both do not respond", || server.log.count("worker unresponsive") == 2);
    let mut clients: Vec<Client> = (0..20).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|client| client.send(1000));
    workers.values().for_each(|&pid| send_signal(pid, Signal::SIGCONT));
    clients.iter_mut().for_each(|client| client.expect(1000));
    clients.into_iter().for_each(Client::finish);
    server.stop();
}

#[test]
fn while_a_slot_is_in_backoff_no_client_stalls_or_is_reset() {
    let lock = TestLock::exclusive();
    let launch = lock.launch(&["--workers", "2", "--fault", "crash-when-ready:2"]);
    let mut server = launch.start_unready();
    server.wait_serving(SOON);
    // Four seconds: respawns at once and after about 0.1, 0.2, 0.4, 0.8 and 1.6 s.
    let ((), traffic) = under_short_exchanges(server.address(), || {
        wait_until(secs(8), "six crashes", || server.log.count("signal SIGABRT") >= 6);
        thread::sleep(ms(500));
    });
    traffic.assert_nothing_lost();
    assert!(traffic.worst_latency() < ms(500), "no client stalls: {traffic:?}");
    assert_eq!(server.logged_workers().get(&1), server.workers().get(&1));
    server.stop();
}

#[test]
fn a_worker_stopped_during_a_reload_delays_no_client() {
    let lock = TestLock::exclusive();
    let args = ["--workers", "2", "--worker-timeout", "20s", "--drain-timeout", "1s"];
    let server = lock.start(&args);
    let workers = server.workers();
    freeze(workers[&2]);
    let ((), traffic) = under_short_exchanges(server.address(), || {
        reload(&server);
        thread::sleep(ms(300));
    });
    traffic.assert_nothing_lost();
    assert!(traffic.worst_latency() < secs(2), "{traffic:?}");
    // The stopped worker is killed at its drain deadline.
    wait_for_workers(&server, 2);
    (0..20).for_each(|_| server.assert_echoes());
    server.stop();
}

#[test]
fn steering_is_right_after_a_reload_and_after_scaling() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "4"]);
    // The order of the group is no longer that of the slots.
    for signal in [Signal::SIGTTOU, Signal::SIGTTOU, Signal::SIGTTIN, Signal::SIGTTIN] {
        let before = server.log.count(": scaled ");
        server.signal(signal);
        wait_until(SOON, "it has scaled", || server.log.count(": scaled ") > before);
    }
    wait_for_workers(&server, 4);
    reload(&server);
    let workers = wait_for_workers(&server, 4);
    let both = [workers[&1], workers[&4]];
    both.iter().for_each(|&pid| freeze(pid));
    wait_until(SOON, "it is noticed", || server.log.count("worker unresponsive") == 2);
    let begin = Instant::now();
    (0..60).for_each(|_| server.assert_echoes());
    assert!(begin.elapsed() < secs(1), "sixty exchanges, no stall: {:?}", begin.elapsed());
    both.iter().for_each(|&pid| send_signal(pid, Signal::SIGCONT));
    wait_until(SOON, "both respond again", || server.log.count("worker responsive again") == 2);
    both.iter().for_each(|&pid| takes_part(&server, pid));
    server.stop();
}
