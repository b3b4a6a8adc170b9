//! Ownership of accept queues: each is attended until it is closed, and closed only when no other
//! process holds it.

use std::net::SocketAddr;
use std::thread;

use nix::sys::signal::Signal;

use super::scaling::scale;
use super::support::accept_queues::Queues;
use super::support::operations::{freeze, send_signal, wait_for_workers};
use super::support::service_manager::{pass, reuseport_group};
use super::support::{Client, SOON, TestLock, ms, proc, secs, try_for, wait_until};

#[test]
fn no_connection_is_lost_to_a_stopped_worker_whose_slot_is_removed() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "3", "--idle-timeout", "60"]);
    let stopped = server.workers()[&3];
    freeze(stopped);
    server.log.wait_for(secs(15), "worker unresponsive slot=3");
    scale(&server, Signal::SIGTTOU, 2);
    // As long as the process is there its listener is a member that the kernel may choose.
    let mut clients: Vec<Client> = Vec::new();
    wait_until(secs(20), "the stopped worker is killed", || {
        let mut client = server.connect();
        client.send(100);
        clients.push(client);
        thread::sleep(ms(30));
        !proc::is_alive(stopped)
    });
    assert!(clients.len() > 30, "the kernel had a choice: {}", clients.len());
    let lost = clients.iter_mut().filter_map(|client| client.try_expect(100).err());
    let lost: Vec<String> = lost.map(|error| error.to_string()).collect();
    assert!(lost.is_empty(), "{} of {} are lost: {lost:?}", lost.len(), clients.len());
    clients.into_iter().for_each(Client::finish);
    wait_for_workers(&server, 2);
    server.stop();
}

#[test]
fn passed_sockets_of_a_removed_slot_are_served_when_a_stopped_worker_continues() {
    let lock = TestLock::exclusive();
    let sockets = reuseport_group(SocketAddr::from(([127, 0, 0, 1], 0)), 3);
    let server = pass(&sockets, lock.launch(&["--workers", "3"])).start();
    let stopped = server.workers()[&1];
    freeze(stopped);
    server.log.wait_for(secs(15), "worker unresponsive slot=1");
    scale(&server, Signal::SIGTTOU, 2);
    send_signal(stopped, Signal::SIGCONT);
    server.log.wait_for(SOON, "worker responsive again slot=1");
    wait_for_workers(&server, 2);
    let mut clients: Vec<Client> = (0..60).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|client| client.send(100));
    clients.iter_mut().for_each(|client| client.expect(100));
    clients.into_iter().for_each(Client::finish);
    server.stop();
}

/// Gives up slot 2 of two and ends both workers while the controller stands still, so that it hears
/// of that before there is a successor; with `takeover` worker 1 may take over the queue of slot 2
/// before it ends. Connections that wait in both queues must be served.
#[track_caller]
fn assert_waits_for_a_successor(takeover: bool) {
    let lock = TestLock::shared();
    // A shared port is not steered: the kernel goes on choosing the queue of slot 2.
    let server = lock.start(&["--workers", "2", "--allow-shared-port"]);
    let [first, second] = [1, 2].map(|slot| server.workers()[&slot]);
    let end = |pid| {
        send_signal(pid, Signal::SIGTERM);
        send_signal(pid, Signal::SIGCONT);
        wait_until(SOON, "the worker has ended", || !proc::is_alive(pid));
    };
    let queues = Queues::of(&server);
    // The process must still exist when it gets the order to exit.
    freeze(second);
    scale(&server, Signal::SIGTTOU, 1);
    server.signal(Signal::SIGTTOU);
    // What the first signal has caused is done then.
    server.log.wait_for(SOON, "cannot scale: already at");
    if takeover {
        end(second);
        // On a busy machine the time of the queue may be over already.
        let taken_over =
            || (server.log.count("taking over accept queue from_slot=2") > 0).then_some(());
        println!("taken over: {}", try_for(ms(500), taken_over).is_some());
    }
    freeze(server.controller());
    if !takeover {
        end(second);
    }
    end(first);
    let mut queued: Vec<Client> = (0..40).map(|_| server.connect()).collect();
    queued.iter_mut().for_each(|client| client.send(1000));
    println!("waiting at each slot: {:?}", queues.lengths());
    send_signal(server.controller(), Signal::SIGCONT);
    queued.iter_mut().for_each(|client| client.expect(1000));
    queued.into_iter().for_each(Client::finish);
    wait_for_workers(&server, 1);
    server.stop();
}

#[test]
fn a_queue_waits_for_a_successor_when_its_own_worker_exits_with_the_last_other_one() {
    assert_waits_for_a_successor(false);
}

#[test]
fn a_queue_waits_for_a_successor_when_the_worker_that_took_it_over_exits() {
    assert_waits_for_a_successor(true);
}
