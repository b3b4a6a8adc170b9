//! Steering and the accept queue takeover, each tested without the other, which would hide its faults.

use std::collections::BTreeSet;

use nix::sys::signal::Signal;

use super::scaling::scale;
use super::support::accept_queues::{LONG_QUEUES, Queues, let_boot, resume_all};
use super::support::operations::{freeze, send_signal, wait_for_workers};
use super::support::{Client, SOON, Server, TestLock, proc, wait_until};

fn start(lock: &TestLock, args: &[&str]) -> Server {
    lock.start(&[&LONG_QUEUES[..], args].concat())
}

/// The slots whose workers do not respond, by the log.
pub(crate) fn silent(server: &Server) -> BTreeSet<u32> {
    let mut silent = BTreeSet::new();
    for line in server.log.lines() {
        let Some(slot) = line.number("slot").map(|slot| slot as u32) else { continue };
        if line.has("worker unresponsive") {
            silent.insert(slot);
        } else if line.has("worker responsive again") {
            silent.remove(&slot);
        }
    }
    silent
}

/// Stops the worker of `victim` and waits until the log says that it does not respond.
#[track_caller]
pub(crate) fn freeze_until_noticed(server: &Server, victim: u32) {
    wait_until(SOON, "all workers respond", || silent(server).is_empty());
    freeze(server.workers()[&victim]);
    wait_until(SOON, "the victim does not respond", || silent(server).contains(&victim));
}

/// Connects while nothing but the kernel runs. All connections must wait at other slots than
/// `victim`, and some at each of them; all are served once all workers continue.
#[track_caller]
pub(crate) fn assert_steered_away_from(victim: u32, server: &Server) {
    let queues = Queues::of(server);
    freeze_until_noticed(server, victim);
    let (lengths, clients) = queues.fill(server);
    assert_eq!(lengths[&victim], 0, "none waits at slot {victim}, which hangs: {lengths:?}");
    // On a busy machine another one may be silent for a moment.
    let silent = silent(server);
    let idle = lengths.iter().find(|(slot, length)| **length == 0 && !silent.contains(slot));
    assert_eq!(idle, None, "all others take part: {lengths:?}");
    resume_all(server, None);
    assert_served(clients);
    wait_until(SOON, "all workers respond again", || self::silent(server).is_empty());
}

#[track_caller]
pub(crate) fn assert_served(mut clients: Vec<Client>) {
    clients.iter_mut().for_each(|client| client.send(100));
    clients.iter_mut().for_each(|client| client.expect(100));
    clients.into_iter().for_each(Client::finish);
}

#[test]
fn steering_alone_keeps_connections_from_a_hung_worker() {
    let lock = TestLock::shared();
    let server = start(&lock, &["--workers", "4"]);
    assert_steered_away_from(2, &server);
    server.stop();
}

#[test]
fn steering_tracks_the_order_of_listeners_after_one_is_closed() {
    let lock = TestLock::shared();
    let faults = ["--fault", "stop-at-boot:2", "--fault", "stop-at-boot:3"];
    let server = start(&lock, &[&["--workers", "1"][..], &faults].concat());
    (2..=4).for_each(|workers| scale(&server, Signal::SIGTTIN, workers));
    wait_until(SOON, "slot 4 listens", || server.logged_workers().contains_key(&4));
    let_boot(&server, 2);
    let_boot(&server, 3);
    // The listeners' order is 1, 4, 2, 3. The last one moves into the gap that the second leaves.
    scale(&server, Signal::SIGTTOU, 3);
    wait_for_workers(&server, 3);
    assert_steered_away_from(2, &server);
    // Another one joins them: 1, 3, 2, 4.
    scale(&server, Signal::SIGTTIN, 4);
    wait_until(SOON, "slot 4 has a worker again", || {
        server.workers().get(&4).is_some_and(|pid| server.logged_workers()[&4] == *pid)
    });
    assert_steered_away_from(3, &server);
    server.stop();
}

#[test]
fn takeover_alone_serves_the_accept_queue_of_a_hung_worker() {
    let lock = TestLock::shared();
    let server = start(&lock, &["--workers", "2", "--fault", "no-steering"]);
    let workers = server.workers();
    let queues = Queues::of(&server);
    freeze_until_noticed(&server, 2);
    let (lengths, clients) = queues.fill(&server);
    assert!(lengths[&2] > 0, "there is no steering: {lengths:?}");
    resume_all(&server, Some(2));
    assert_served(clients);
    assert!(proc::is_stopped(workers[&2]), "a sibling has served them");
    send_signal(workers[&2], Signal::SIGCONT);
    wait_until(SOON, "all workers respond again", || silent(&server).is_empty());
    server.stop();
}
