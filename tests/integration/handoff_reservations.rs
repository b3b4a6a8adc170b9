//! Reservations of handed-off connections after the death of a worker or the removal of a slot.

use nix::sys::signal::Signal;

use super::support::accept_queues::{Queues, resume_all};
use super::support::operations::{
    connection_counts, descriptors_of, freeze, send_signal, wait_for_workers,
};
use super::support::{Client, SOON, Server, TestLock, secs, wait_for, wait_until};

const LEAST: [&str; 4] = ["--balance", "least-connections", "--workers", "2"];

/// Connects while worker 2 and the controller stand still, until worker 1 has served or handed off
/// what came to it.
#[track_caller]
fn connect_past_worker_2(server: &Server, count: usize) -> Vec<Client> {
    let (worker, queues) = (server.workers()[&2], Queues::of(server));
    let idle_stats = || connection_counts(server).into_values().all(|(now, _)| now == 0);
    wait_until(SOON, "the connections of the round before have ended", idle_stats);
    freeze(server.controller());
    freeze(worker);
    let mut clients: Vec<Client> = (0..count).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|client| client.send(100));
    wait_until(SOON, "worker 1 has accepted its share", || queues.lengths()[&1] == 0);
    clients
}

#[test]
fn loads_are_corrected_after_the_death_of_a_worker_with_handed_off_connections() {
    const CLIENTS: usize = 80;
    let lock = TestLock::exclusive();
    let server = lock.start(&LEAST);
    for _ in 0..3 {
        let mut clients = connect_past_worker_2(&server, CLIENTS);
        send_signal(server.workers()[&2], Signal::SIGKILL);
        send_signal(server.controller(), Signal::SIGCONT);
        clients.iter_mut().for_each(|client| client.expect(100));
        clients.into_iter().for_each(Client::finish);
        wait_for_workers(&server, 2);
    }
    for _ in 0..3 {
        // Only a wrong load makes worker 1 hand off more than half of what it accepts.
        let mut clients = connect_past_worker_2(&server, CLIENTS);
        resume_all(&server, None);
        clients.iter_mut().for_each(|client| client.expect(100));
        let counts = wait_for(SOON, "each connection is counted", || {
            let counts: Vec<usize> =
                connection_counts(&server).into_values().map(|(now, _)| now).collect();
            (counts.iter().sum::<usize>() == CLIENTS).then_some(counts)
        });
        println!("{counts:?}");
        assert!(counts[0].abs_diff(counts[1]) <= 1, "the loads have drifted: {counts:?}");
        clients.into_iter().for_each(Client::finish);
    }
    server.stop();
}

#[test]
fn a_handoff_queue_taken_over_before_its_slot_was_removed_is_released() {
    let lock = TestLock::exclusive();
    let server = lock.start(&LEAST);
    wait_for_workers(&server, 2);
    let workers = server.workers();
    let helper = workers[&1];
    wait_until(SOON, "both workers are idle", || {
        descriptors_of(helper) == descriptors_of(workers[&2])
    });
    let level = descriptors_of(helper);
    for round in 2..4 {
        freeze(server.workers()[&2]);
        wait_until(SOON, "the helper has taken over", || descriptors_of(helper) == level + 2);
        server.signal(Signal::SIGTTOU);
        wait_until(secs(8), "the stopped worker has ended", || server.workers().len() == 1);
        server.signal(Signal::SIGTTIN);
        wait_until(SOON, "worker 2 is ready", || server.log.count("worker ready") > round);
        wait_until(SOON, "the helper has released both queues", || descriptors_of(helper) == level);
        (0..20).for_each(|_| server.assert_echoes());
    }
    assert_eq!(server.workers()[&1], helper, "it was not replaced");
    server.stop();
}
