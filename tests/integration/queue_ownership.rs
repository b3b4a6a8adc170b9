//! Accept queues that change hands while workers hang, end or come back: each keeps a process that
//! accepts from it until it is closed, and it is closed only when no other process holds it.

use std::net::SocketAddr;
use std::thread;

use nix::sys::signal::Signal;

use super::operator::manager::{group, pass};
use super::operator::queues::Queues;
use super::operator::{freeze, strike, wait_settled};
use super::scaling::scale;
use super::support::{Client, SOON, Turn, ms, proc, secs, try_for, wait_until};

#[test]
fn no_connection_is_lost_to_a_stopped_worker_whose_slot_is_given_up() {
    let turn = Turn::shared();
    let server = turn.start(&["--workers", "3", "--idle-timeout", "60"]);
    let stopped = server.workers()[&3];
    freeze(stopped);
    server.log.wait_for(secs(15), "worker does not respond slot=3");
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
    wait_settled(&server, 2);
    server.stop();
}

#[test]
fn passed_sockets_of_a_slot_that_is_given_up_are_served_when_a_stopped_worker_comes_back() {
    let turn = Turn::alone();
    let sockets = group(SocketAddr::from(([127, 0, 0, 1], 0)), 3);
    let server = pass(&sockets, turn.launch(&["--workers", "3"])).start();
    let stopped = server.workers()[&1];
    freeze(stopped);
    server.log.wait_for(secs(15), "worker does not respond slot=1");
    scale(&server, Signal::SIGTTOU, 2);
    strike(stopped, Signal::SIGCONT);
    server.log.wait_for(SOON, "worker responds again slot=1");
    wait_settled(&server, 2);
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
    let turn = Turn::shared();
    // A shared port is not steered: the kernel goes on choosing the queue of slot 2.
    let server = turn.start(&["--workers", "2", "--allow-shared-port"]);
    let [first, second] = [1, 2].map(|slot| server.workers()[&slot]);
    let end = |pid| {
        strike(pid, Signal::SIGTERM);
        strike(pid, Signal::SIGCONT);
        wait_until(SOON, "the worker has ended", || !proc::is_alive(pid));
    };
    let queues = Queues::of(&server);
    // So that it is still there when it is told to end.
    freeze(second);
    scale(&server, Signal::SIGTTOU, 1);
    server.signal(Signal::SIGTTOU);
    // What the first signal has caused is done then.
    server.log.wait_for(SOON, "the number of workers stays as it is");
    if takeover {
        end(second);
        // On a busy machine the time of the queue may be over already.
        let taken_over =
            || (server.log.count("looking after a queue from_slot=2") > 0).then_some(());
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
    strike(server.controller(), Signal::SIGCONT);
    queued.iter_mut().for_each(|client| client.expect(1000));
    queued.into_iter().for_each(Client::finish);
    wait_settled(&server, 1);
    server.stop();
}

#[test]
fn a_queue_waits_for_a_successor_when_its_own_worker_leaves_with_the_last_other_one() {
    assert_waits_for_a_successor(false);
}

#[test]
fn a_queue_waits_for_a_successor_when_the_worker_that_took_it_over_leaves() {
    assert_waits_for_a_successor(true);
}
