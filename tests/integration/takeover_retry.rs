//! A takeover that fails for want of descriptors is tried again.

use std::process::Command;
use std::thread;

use nix::sys::signal::Signal;

use super::operator::queues::Queues;
use super::operator::{freeze, strike};
use super::support::{Client, SOON, Turn, permitted, proc, secs, wait_until};

/// Sets the soft limit on the descriptors of another process.
#[track_caller]
fn limit_descriptors(pid: i32, soft: usize) {
    let (pid, limit) = (pid.to_string(), format!("--nofile={soft}:"));
    let status = Command::new("prlimit").args(["--pid", &pid, &limit]).status().unwrap();
    assert!(status.success(), "prlimit {limit}: {status}");
}

/// Worker 1 cannot take over the queues of worker 2, which stands still, until it may have more
/// descriptors.
#[track_caller]
fn assert_retried(balance: &str) {
    let turn = Turn::alone();
    if !permitted(&["prlimit", "--version"]) {
        return;
    }
    let server = turn.start(&["--workers", "2", "--balance", balance]);
    let (workers, queues) = (server.workers(), Queues::of(&server));
    let helper = workers[&1];
    // The first worker to be forked is told of the others later.
    wait_until(SOON, "both workers are at rest", || {
        proc::descriptors(helper).len() == proc::descriptors(workers[&2]).len()
    });
    let numbers = proc::descriptors(helper);
    let free = (0..).find(|number| !numbers.contains(number)).unwrap();
    limit_descriptors(helper, free);
    freeze(workers[&2]);
    let mut clients: Vec<Client> = (0..60).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|client| client.send(100));
    assert!(queues.lengths()[&2] > 0, "some wait for worker 2: {:?}", queues.lengths());
    server.log.wait_for_line(SOON, "the takeover has failed", |line| {
        line.has("cannot look after a queue") || line.has("unreadable message")
    });
    // Longer than the time between two attempts: another one fails as well.
    thread::sleep(secs(1));
    assert!(queues.lengths()[&2] > 0, "nobody could take them: {:?}", queues.lengths());
    limit_descriptors(helper, 1000);
    wait_until(SOON, "the queue of worker 2 is empty", || queues.lengths()[&2] == 0);
    clients.iter_mut().for_each(|client| client.expect(100));
    assert!(proc::is_stopped(workers[&2]), "worker 2 has served none of them");
    let more = if balance == "hash" { 1 } else { 2 };
    clients.into_iter().for_each(Client::finish);
    wait_until(SOON, "worker 1 has taken over every queue", || {
        proc::descriptors(helper).len() == numbers.len() + more
    });
    strike(workers[&2], Signal::SIGCONT);
    server.log.wait_for(SOON, "worker responds again");
    wait_until(SOON, "worker 1 has released them", || {
        proc::descriptors(helper).len() == numbers.len()
    });
    (0..20).for_each(|_| server.assert_echoes());
    assert_eq!(server.workers(), workers, "no worker was replaced");
    server.stop();
}

#[test]
fn an_accept_queue_that_found_no_room_is_taken_over_once_descriptors_are_free() {
    assert_retried("hash");
}

#[test]
fn a_handoff_queue_that_found_no_room_is_taken_over_once_descriptors_are_free() {
    assert_retried("least-connections");
}
