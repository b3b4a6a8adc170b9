//! Many passed sockets: takeover and scaling serve all of them without leaking descriptors.

use std::net::{SocketAddr, TcpListener};

use nix::sys::signal::Signal;

use super::support::operations::{descriptors_of, freeze, send_signal, wait_for_workers};
use super::support::service_manager::{pass, reuseport_group};
use super::support::{Client, SOON, Server, TestLock, proc, secs, wait_until};

/// More than twice as many as fit into one message between two processes.
const SOCKETS: usize = 140;

/// Enough that every socket has some.
const CLIENTS: usize = 700;

/// Connects to the whole group, and each connection is served.
#[track_caller]
fn assert_all_served(address: SocketAddr, scene: &str) {
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| Client::connect(address)).collect();
    clients.iter_mut().for_each(|client| client.send(100));
    for (index, client) in clients.iter_mut().enumerate() {
        let answer = client.try_expect(100);
        assert!(answer.is_ok(), "{scene}: client {index} times out: {answer:?}");
    }
    clients.into_iter().for_each(Client::finish);
}

#[track_caller]
fn assert_descriptors(worker: i32, level: usize, scene: &str) {
    let what = format!("{scene}: worker 1 has {level} descriptors");
    wait_until(SOON, &what, || descriptors_of(worker) == level);
}

fn listeners(server: &Server, slot: u32) -> usize {
    proc::listeners_of(server.workers()[&slot]).len()
}

#[test]
fn more_sockets_than_fit_into_a_message_are_taken_over_and_released() {
    let lock = TestLock::exclusive();
    let sockets = reuseport_group(SocketAddr::from(([127, 0, 0, 1], 0)), SOCKETS);
    let address = sockets[0].local_addr().unwrap();
    let server = pass(&sockets, lock.launch(&["--workers", "2"])).start();
    wait_until(SOON, "each worker has its half", || {
        [1, 2].iter().all(|&slot| listeners(&server, slot) == SOCKETS / 2)
    });
    let workers = server.workers();
    let level = descriptors_of(workers[&1]);
    for _ in 0..2 {
        freeze(workers[&2]);
        assert_all_served(address, "worker 2 stands still");
        send_signal(workers[&2], Signal::SIGCONT);
        server.log.wait_for(SOON, "worker responsive again");
        assert_descriptors(workers[&1], level, "worker 2 responds again");
    }
    assert_eq!(server.workers(), workers, "no worker was replaced");
    server.stop();
}

#[test]
fn more_sockets_than_fit_into_a_message_move_when_slots_change() {
    let lock = TestLock::exclusive();
    let sockets = reuseport_group(SocketAddr::from(([127, 0, 0, 1], 0)), SOCKETS);
    let address = sockets[0].local_addr().unwrap();
    let server = pass(&sockets, lock.launch(&["--workers", "2"])).start();
    let worker = server.workers()[&1];
    wait_until(SOON, "worker 1 has its half", || listeners(&server, 1) == SOCKETS / 2);
    let level = descriptors_of(worker);
    for round in 2..4 {
        server.signal(Signal::SIGTTOU);
        assert_all_served(address, "worker 2 leaves");
        wait_for_workers(&server, 1);
        assert_all_served(address, "one worker is left");
        wait_until(SOON, "it attends all", || listeners(&server, 1) == SOCKETS);
        server.signal(Signal::SIGTTIN);
        wait_until(SOON, "worker 2 is ready", || server.log.count("worker ready") > round);
        assert_all_served(address, "two workers again");
        assert_descriptors(worker, level, "two workers again");
    }
    server.stop();
}

#[test]
fn a_shared_socket_leaks_no_descriptors_when_slots_change() {
    let lock = TestLock::exclusive();
    let socket = [TcpListener::bind("127.0.0.1:0").unwrap()];
    let server = pass(&socket, lock.launch(&["--workers", "2"])).start();
    let worker = server.workers()[&1];
    wait_for_workers(&server, 2);
    let level = descriptors_of(worker);
    for round in 0..30 {
        server.signal(Signal::SIGTTIN);
        wait_until(secs(8), "worker 3 is ready", || server.log.count("worker ready") > round + 2);
        server.signal(Signal::SIGTTOU);
        wait_until(SOON, "the slot is given up", || server.log.count("received SIGTTOU") > round);
        server.assert_echoes();
    }
    wait_for_workers(&server, 2);
    assert_descriptors(worker, level, "after thirty rounds");
    assert_eq!(server.workers()[&1], worker, "it was not replaced");
    server.stop();
}
