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

#[test]
fn a_queue_that_found_no_room_is_taken_over_once_descriptors_are_free() {
    let turn = Turn::alone();
    if !permitted(&["prlimit", "--version"]) {
        return;
    }
    let server = turn.start(&["--workers", "2"]);
    let (workers, queues) = (server.workers(), Queues::of(&server));
    let helper = workers[&1];
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
    strike(workers[&2], Signal::SIGCONT);
    server.log.wait_for(SOON, "worker responds again");
    clients.into_iter().for_each(Client::finish);
    (0..20).for_each(|_| server.assert_echoes());
    assert_eq!(server.workers(), workers, "no worker was replaced");
    server.stop();
}
