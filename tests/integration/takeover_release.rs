//! Release of accept queues after a takeover, when the original worker continues.

use nix::sys::signal::Signal;

use super::support::operations::{descriptors_of, freeze, send_signal};
use super::support::{SOON, Server, TestLock, wait_until};

/// Stops worker 2 twice. Each time worker 1 must hold `queues` descriptors more, and none of them
/// once worker 2 responds again.
#[track_caller]
fn assert_released(server: &Server, queues: usize) {
    let workers = server.workers();
    let [helper, stopped] = [workers[&1], workers[&2]];
    // Idle workers have the same descriptors. The first worker learns of the later ones by messages.
    wait_until(SOON, "both workers are idle", || descriptors_of(helper) == descriptors_of(stopped));
    let level = descriptors_of(stopped);
    for _ in 0..2 {
        freeze(stopped);
        wait_until(SOON, "the helper has taken over", || descriptors_of(helper) == level + queues);
        send_signal(stopped, Signal::SIGCONT);
        wait_until(SOON, "the helper has released what it took over", || {
            descriptors_of(helper) == level
        });
    }
    assert_eq!(server.workers(), workers, "no worker was replaced");
    (0..20).for_each(|_| server.assert_echoes());
}

#[test]
fn an_accept_queue_is_released_when_its_worker_continues() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "2"]);
    assert_released(&server, 1);
    server.stop();
}

#[test]
fn a_handoff_queue_is_released_when_its_worker_continues() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "2", "--balance", "least-connections"]);
    // The accept queue and the handoff queue.
    assert_released(&server, 2);
    server.stop();
}
