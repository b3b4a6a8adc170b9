//! Handed-off connections across TERM: connections that wait in a handoff queue are served.

use nix::sys::signal::Signal;

use super::support::accept_queues::Queues;
use super::support::operations::{freeze, send_signal};
use super::support::strace::Tracer;
use super::support::{Client, SOON, Server, TestLock, ms, secs, wait_until};

const LEAST: [&str; 6] = [
    "--balance",
    "least-connections",
    "--workers",
    "2",
    // Longer than any of the queues.
    "--connection-backlog",
    "1024",
];

/// Connects, and sends 100 bytes on each connection.
fn clients(server: &Server, count: usize) -> Vec<Client> {
    let mut clients: Vec<Client> = (0..count).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|client| client.send(100));
    clients
}

/// One for each worker, which does not read its echo: both workers live on while they drain.
fn stalled_clients(server: &Server) -> Vec<Client> {
    let mut stalled: Vec<Client> = (0..2).map(|_| server.connect()).collect();
    stalled.iter_mut().for_each(|client| _ = client.send_until_stalled(ms(100), 64 << 20));
    stalled
}

/// Each of the clients has its 100 bytes back.
#[track_caller]
fn assert_none_lost(clients: &mut [Client]) {
    let all = clients.len();
    let errors = clients.iter_mut().filter_map(|client| client.try_expect(100).err());
    let errors: Vec<String> = errors.map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{} of {all} are lost: {}", errors.len(), errors[0]);
}

#[test]
fn connections_handed_off_to_a_worker_stopped_across_term_are_served() {
    let lock = TestLock::exclusive();
    let mut server = lock.start(&LEAST);
    let (workers, queues) = (server.workers(), Queues::of(&server));
    // The controller does not see that worker 2 stands still, and its sibling goes on handing off.
    freeze(server.controller());
    freeze(workers[&2]);
    let mut clients = clients(&server, 500);
    wait_until(SOON, "worker 1 has accepted its share", || queues.lengths()[&1] == 0);
    assert!(queues.lengths()[&2] > 100, "{:?}", queues.lengths());
    server.signal(Signal::SIGTERM);
    send_signal(server.controller(), Signal::SIGCONT);
    server.log.wait_for(SOON, "draining");
    send_signal(workers[&2], Signal::SIGCONT);
    assert_none_lost(&mut clients);
    clients.into_iter().for_each(Client::finish);
    assert_eq!(server.wait_exit(SOON), Some(0));
}

#[test]
fn connections_handed_off_to_an_exited_worker_are_served() {
    let lock = TestLock::exclusive();
    let mut server = lock.start(&LEAST);
    let (workers, queues) = (server.workers(), Queues::of(&server));
    let stalled = stalled_clients(&server);
    // The controller does not hear that worker 2 leaves, and its sibling goes on handing off.
    freeze(server.controller());
    send_signal(workers[&2], Signal::SIGTERM);
    server.log.wait_for(SOON, "draining");
    let mut clients = clients(&server, 200);
    wait_until(SOON, "worker 1 has accepted its share", || queues.lengths()[&1] == 0);
    server.signal(Signal::SIGTERM);
    send_signal(server.controller(), Signal::SIGCONT);
    assert_none_lost(&mut clients);
    stalled.into_iter().for_each(Client::reset);
    clients.into_iter().for_each(Client::finish);
    assert_eq!(server.wait_exit(secs(8)), Some(0));
}

#[test]
fn nothing_is_handed_off_to_a_worker_that_drains_before_its_sibling() {
    let lock = TestLock::exclusive();
    let mut server = lock.start(&[&LEAST[..], &["--log-level", "DEBUG"]].concat());
    let (workers, queues) = (server.workers(), Queues::of(&server));
    let stalled = stalled_clients(&server);
    // Between the two signals that the controller sends, worker 1 has left and worker 2 serves.
    let Some(slow) = Tracer::inject(server.controller(), "kill:delay_exit=20000000") else {
        return;
    };
    server.signal(Signal::SIGTERM);
    let of_worker_1 =
        |words: &str| server.log.count(&format!("worker-1[{}]: {words}", workers[&1]));
    wait_until(SOON, "worker 1 drains", || of_worker_1("draining") == 1);
    let before = of_worker_1("connection accepted");
    let mut clients = clients(&server, 200);
    wait_until(SOON, "worker 2 has accepted its share", || queues.lengths()[&2] == 0);
    let handed_off = of_worker_1("connection accepted") - before;
    assert_eq!(server.log.count(": draining connections="), 1, "worker 2 still serves");
    drop(slow);
    assert_none_lost(&mut clients);
    assert_eq!(handed_off, 0, "worker 1 had left");
    stalled.into_iter().for_each(Client::reset);
    clients.into_iter().for_each(Client::finish);
    assert_eq!(server.wait_exit(secs(8)), Some(0));
}

#[test]
fn connections_that_arrive_while_every_worker_drains_are_served() {
    let lock = TestLock::exclusive();
    let mut server = lock.start(&LEAST);
    let stalled = stalled_clients(&server);
    // TERM goes to the workers first: until the controller has it, the addresses are open.
    freeze(server.controller());
    server.workers().into_values().for_each(|pid| send_signal(pid, Signal::SIGTERM));
    wait_until(SOON, "both workers drain", || server.log.count(": draining connections=") == 2);
    let mut clients = clients(&server, 200);
    server.signal(Signal::SIGTERM);
    send_signal(server.controller(), Signal::SIGCONT);
    assert_none_lost(&mut clients);
    stalled.into_iter().for_each(Client::reset);
    clients.into_iter().for_each(Client::finish);
    assert_eq!(server.wait_exit(secs(8)), Some(0));
}
