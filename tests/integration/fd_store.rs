//! Sockets in the service manager's store: each is attended until the manager confirms its removal.

use std::thread;

use nix::sys::signal::Signal;

use super::support::accept_queues::Queues;
use super::support::service_manager::Manager;
use super::support::{Client, SOON, Server, TestLock, ms, proc, secs, wait_until};

const REMOVAL: &str = "FDSTOREREMOVE=1\nFDNAME=slot-2-0";

/// Two workers, whose sockets the manager keeps. New connections go to every member of the group: with
/// a shared port nothing is steered.
fn start(lock: &TestLock, manager: &mut Manager) -> Server {
    let args = ["--workers", "2", "--allow-shared-port", "--drain-timeout", "3s"];
    let server = manager.watch(lock.launch(&args)).start();
    manager.store_until_ready();
    let mut names = manager.stored_names();
    names.sort();
    assert_eq!(names, ["slot-1-0", "slot-2-0"]);
    server
}

/// Connections to every member of the group, and all of them are served.
#[track_caller]
fn assert_every_queue_is_attended(server: &Server) {
    let mut clients: Vec<Client> = (0..60).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|client| client.send(100));
    for (index, client) in clients.iter_mut().enumerate() {
        let answer = client.try_expect(100);
        assert!(answer.is_ok(), "client {index} waits at a queue without an attendant: {answer:?}");
    }
    clients.into_iter().for_each(Client::finish);
}

/// The manager closes its duplicate and says so; then the daemon closes the queue.
#[track_caller]
fn remove_and_confirm(server: &Server, manager: &mut Manager, queues: &Queues) {
    let barrier = manager.wait_barrier(SOON);
    assert_every_queue_is_attended(server);
    manager.remove("slot-2-0");
    drop(barrier);
    wait_until(SOON, "the queue of slot 2 is closed", || !queues.lengths().contains_key(&2));
    assert_every_queue_is_attended(server);
    assert_eq!(proc::listeners_of(server.controller()).len(), 1, "the listener of slot 1");
}

#[test]
fn a_removal_that_the_full_manager_queue_rejects_is_sent_again() {
    let lock = TestLock::exclusive();
    let mut manager = Manager::at_path();
    let server = start(&lock, &mut manager);
    let queues = Queues::of(&server);
    manager.fill_queue();
    server.signal(Signal::SIGTTOU);
    server.log.wait_for(SOON, "service manager: ");
    // Longer than it takes to close a queue that only the daemon holds.
    for _ in 0..4 {
        assert_every_queue_is_attended(&server);
        thread::sleep(ms(500));
    }
    manager.messages_until(secs(9), REMOVAL);
    remove_and_confirm(&server, &mut manager, &queues);
    server.stop();
}

#[test]
fn a_queue_is_attended_until_the_manager_confirms_its_removal() {
    let lock = TestLock::exclusive();
    let mut manager = Manager::at_path();
    let server = start(&lock, &mut manager);
    let queues = Queues::of(&server);
    server.signal(Signal::SIGTTOU);
    // The manager loses the removal, and does not get as far as the barrier.
    manager.messages_until(SOON, REMOVAL);
    assert_every_queue_is_attended(&server);
    wait_until(secs(8), "worker 2 has ended", || server.workers().len() == 1);
    assert_every_queue_is_attended(&server);
    let lost = manager.wait_barrier(SOON);
    manager.messages_until(secs(9), REMOVAL);
    remove_and_confirm(&server, &mut manager, &queues);
    drop(lost);
    server.stop();
}
