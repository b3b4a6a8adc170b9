//! SIGTTIN and SIGTTOU: adding and removing workers without losing connections.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::support::operations::{
    connection_counts, descriptors_of, freeze, reload, send_signal, sighup_and_wait,
    wait_for_workers,
};
use super::support::traffic::{TRANSFERS, under_traffic};
use super::support::{
    Client, SOON, Server, TestLock, assert_between, ms, proc, secs, wait_for, wait_until,
    with_background,
};

/// Sends the signal and waits until it is carried out, as far as the controller is concerned.
#[track_caller]
pub(super) fn scale(server: &Server, signal: Signal, workers: i64) {
    let before = server.log.count(": scaled ");
    server.signal(signal);
    let line = wait_for(SOON, "it says that it has scaled", || {
        server.log.with(": scaled ").into_iter().nth(before)
    });
    assert_eq!(line.number("workers"), Some(workers), "{line:?}");
}

#[test]
fn scaling_between_one_and_eight_workers_loses_nothing() {
    let lock = TestLock::exclusive();
    let args = ["--workers", "1", "--idle-timeout", "60", "--drain-spread", "1s"];
    let mut server = lock.start(&args);
    let descriptors = descriptors_of(server.controller());
    let ((), traffic) = under_traffic(server.address(), || {
        for _ in 0..4 {
            for workers in 2..=8 {
                scale(&server, Signal::SIGTTIN, workers);
            }
            wait_until(SOON, "eight workers", || server.workers().len() == 8);
            // Long enough for each of them to be in the middle of something.
            thread::sleep(ms(300));
            for workers in (1..=7).rev() {
                scale(&server, Signal::SIGTTOU, workers);
            }
            // Fewer again before the old ones have gone is what the next round is for.
            thread::sleep(ms(100));
        }
    });
    traffic.assert_nothing_lost();
    assert_eq!(traffic.transfers, TRANSFERS, "{traffic:?}");
    assert_eq!(server.exit_code(), None);
    wait_for_workers(&server, 1);
    wait_until(SOON, "no descriptor is left over", || {
        descriptors_of(server.controller()) == descriptors
    });
    assert_eq!(server.log.count("signal SIG"), 0, "no process was killed");
    server.assert_echoes();
    server.stop();
}

#[test]
fn the_last_worker_is_never_removed() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "2"]);
    scale(&server, Signal::SIGTTOU, 1);
    server.signal(Signal::SIGTTOU);
    let line = server.log.wait_for(SOON, "cannot scale: already at");
    assert_eq!(line.number("workers"), Some(1), "{line:?}");
    assert_eq!(wait_for_workers(&server, 1).keys().collect::<Vec<_>>(), [&1]);
    server.assert_echoes();
    scale(&server, Signal::SIGTTIN, 2);
    wait_for_workers(&server, 2);
    server.stop();
}

#[test]
fn an_added_worker_gets_connections() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "1"]);
    scale(&server, Signal::SIGTTIN, 2);
    let workers = wait_for_workers(&server, 2);
    let listens = || proc::listeners_of(workers[&2]).len() == 1;
    wait_until(SOON, "the new worker listens", listens);
    let mut clients: Vec<Client> = (0..40).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|client| _ = client.echo(10));
    // Two of equal standing: that one gets none of forty happens once in 2^39 times.
    let connection_counts = connection_counts(&server);
    assert_eq!(connection_counts.len(), 2);
    assert!(
        connection_counts.values().all(|(now, _)| *now > 0),
        "both have accepted some: {connection_counts:?}"
    );
    drop(clients);
    server.stop();
}

#[test]
fn the_accept_queue_of_a_removed_slot_is_drained() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "3"]);
    let workers = server.workers();
    workers.values().for_each(|&pid| freeze(pid));
    let mut queued: Vec<Client> = (0..40).map(|_| server.connect()).collect();
    queued.iter_mut().for_each(|client| client.send(1000));
    scale(&server, Signal::SIGTTOU, 2);
    scale(&server, Signal::SIGTTOU, 1);
    workers.values().for_each(|&pid| send_signal(pid, Signal::SIGCONT));
    queued.iter_mut().for_each(|client| client.expect(1000));
    queued.into_iter().for_each(Client::finish);
    wait_for_workers(&server, 1);
    server.stop();
}

#[test]
fn the_accept_queue_of_a_removed_slot_is_drained_by_a_sibling_if_its_worker_hangs() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "2"]);
    let workers = server.workers();
    freeze(workers[&2]);
    server.log.wait_for(SOON, "worker unresponsive");
    let mut queued: Vec<Client> = (0..20).map(|_| server.connect()).collect();
    scale(&server, Signal::SIGTTOU, 1);
    queued.iter_mut().for_each(|client| _ = client.echo(1000));
    queued.into_iter().for_each(Client::finish);
    (0..20).for_each(|_| server.assert_echoes());
    send_signal(workers[&2], Signal::SIGCONT);
    wait_for_workers(&server, 1);
    server.stop();
}

#[test]
fn the_accept_queue_of_a_removed_slot_is_drained_by_a_sibling_if_its_worker_dies() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "2"]);
    let workers = server.workers();
    freeze(workers[&2]);
    let mut queued: Vec<Client> = (0..20).map(|_| server.connect()).collect();
    queued.iter_mut().for_each(|client| client.send(1000));
    scale(&server, Signal::SIGTTOU, 1);
    send_signal(workers[&2], Signal::SIGKILL);
    queued.iter_mut().for_each(|client| client.expect(1000));
    queued.into_iter().for_each(Client::finish);
    wait_for_workers(&server, 1);
    server.stop();
}

#[test]
fn a_connection_outlives_the_removal_of_its_slot() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "2", "--drain-timeout", "1m"]);
    let mut clients: Vec<Client> = (0..20).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|client| _ = client.echo(100));
    scale(&server, Signal::SIGTTOU, 1);
    server.log.wait_for(SOON, "worker-2");
    for _ in 0..15 {
        // As long as something moves once in a second.
        thread::sleep(ms(100));
        clients.iter_mut().for_each(|client| _ = client.echo(100));
    }
    clients.into_iter().for_each(Client::finish);
    wait_for_workers(&server, 1);
    server.stop();
}

#[test]
fn concurrent_scaling_and_reloading_reach_the_wanted_state() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "4"]);
    for signal in [Signal::SIGTTOU, Signal::SIGTTIN, Signal::SIGTTOU] {
        server.signal(signal);
        let line = sighup_and_wait(&server, secs(8), ": reloaded ");
        server.signal(signal);
        assert!(line.has("done="), "{line:?}");
        server.assert_echoes();
    }
    reload(&server);
    wait_for_workers(&server, 4);
    (0..20).for_each(|_| server.assert_echoes());
    server.stop();
}

/// Worst delay with which this machine wakes up a thread, for upper bounds of what others measure.
fn worst_wakeup(over: &AtomicBool) -> Duration {
    let mut worst = Duration::ZERO;
    while !over.load(Ordering::SeqCst) {
        let begin = Instant::now();
        thread::sleep(ms(10));
        worst = worst.max(begin.elapsed() - ms(10));
    }
    worst
}

#[test]
fn the_accept_queue_of_a_removed_slot_is_served_for_one_more_second() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "2"]);
    let (took, late) = with_background(worst_wakeup, || {
        let begin = Instant::now();
        scale(&server, Signal::SIGTTOU, 1);
        server.log.wait_for(SOON, "worker exited").at - begin
    });
    assert_between("time to the worker's exit", took, ms(990), ms(1500) + late);
    server.stop();
}

#[test]
fn the_accept_queue_of_a_removed_slot_goes_to_another_worker_within_two_seconds() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "2"]);
    freeze(server.workers()[&2]);
    let mut clients: Vec<Client> = (0..20).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|client| client.send(100));
    let (took, late) = with_background(worst_wakeup, || {
        let begin = Instant::now();
        // Its own worker drains the queue of a closed slot, if it can.
        scale(&server, Signal::SIGTTOU, 1);
        server.log.wait_for(secs(15), "taking over accept queue from_slot=2").at - begin
    });
    // Its heartbeat, up to a second old when it was stopped, must be 1.5 seconds old; or it has not
    // acknowledged its release, which follows a second after the signal, for another second.
    assert_between("time to the takeover", took, ms(400), ms(2200) + late);
    clients.iter_mut().for_each(|client| client.expect(100));
    drop(clients);
}
