//! Retry of a takeover that failed for lack of descriptors.

use std::process::Command;
use std::thread;

use nix::sys::signal::Signal;

use super::support::accept_queues::Queues;
use super::support::operations::{freeze, send_signal};
use super::support::{Client, SOON, TestLock, permitted, proc, secs, wait_until};

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
    let lock = TestLock::exclusive();
    if !permitted(&["prlimit", "--version"]) {
        return;
    }
    let server = lock.start(&["--workers", "2", "--balance", balance]);
    let (workers, queues) = (server.workers(), Queues::of(&server));
    let helper = workers[&1];
    // The first worker learns of the later ones by messages.
    wait_until(SOON, "both workers are idle", || {
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
        line.has("accept queue takeover failed") || line.has("message ignored")
    });
    // Longer than the time between two attempts: another one fails as well.
    thread::sleep(secs(1));
    assert!(queues.lengths()[&2] > 0, "no worker could take them over: {:?}", queues.lengths());
    limit_descriptors(helper, 1000);
    wait_until(SOON, "the queue of worker 2 is empty", || queues.lengths()[&2] == 0);
    clients.iter_mut().for_each(|client| client.expect(100));
    assert!(proc::is_stopped(workers[&2]), "worker 2 has served none of them");
    let more = if balance == "hash" { 1 } else { 2 };
    clients.into_iter().for_each(Client::finish);
    wait_until(SOON, "worker 1 has taken over every queue", || {
        proc::descriptors(helper).len() == numbers.len() + more
    });
    send_signal(workers[&2], Signal::SIGCONT);
    server.log.wait_for(SOON, "worker responsive again");
    wait_until(SOON, "worker 1 has released them", || {
        proc::descriptors(helper).len() == numbers.len()
    });
    (0..20).for_each(|_| server.assert_echoes());
    assert_eq!(server.workers(), workers, "no worker was replaced");
    server.stop();
}

#[test]
fn an_accept_queue_is_taken_over_once_descriptors_are_free() {
    assert_retried("hash");
}

#[test]
fn a_handoff_queue_is_taken_over_once_descriptors_are_free() {
    assert_retried("least-connections");
}
