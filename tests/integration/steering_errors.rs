//! Steering on kernels that cannot detach a program, run out of memory, or forbid programs.

use libc::{ENOPROTOOPT, EPERM, SO_ATTACH_REUSEPORT_CBPF, SOL_SOCKET};

use super::steering_alone::{
    assert_served, assert_steered_away_from, freeze_until_noticed, silent,
};
use super::support::accept_queues::{LONG_QUEUES, Queues, resume_all};
use super::support::network_namespace::{in_network_namespace, set};
use super::support::operations::{reload, wait_for_workers};
use super::support::seccomp::Refusal;
use super::support::{Launch, SOON, Server, TestLock, skip, wait_until};

fn launch(lock: &TestLock) -> Launch {
    lock.launch(&[&LONG_QUEUES[..], &["--workers", "2", "--log-level", "debug"]].concat())
}

/// Connects while the worker of slot 2 hangs; some of the connections must wait there. All workers go
/// on then, and serve them.
#[track_caller]
fn assert_not_steered(server: &Server) {
    let queues = Queues::of(server);
    freeze_until_noticed(server, 2);
    server.log.wait_for(SOON, "cannot steer");
    let (lengths, clients) = queues.fill(server);
    assert!(lengths[&2] > 0, "the kernel's hash chooses: {lengths:?}");
    resume_all(server, None);
    assert_served(clients);
    wait_until(SOON, "all workers respond again", || silent(server).is_empty());
}

/// Connects while no worker is known to hang; some of the connections must wait at each.
#[track_caller]
fn assert_both_take_part(server: &Server) {
    let (lengths, clients) = Queues::of(server).fill(server);
    assert!(lengths.values().all(|length| *length > 0), "all take part: {lengths:?}");
    resume_all(server, None);
    assert_served(clients);
    wait_until(SOON, "all workers respond", || silent(server).is_empty());
}

#[test]
fn steering_works_on_kernels_that_cannot_detach_a_program() {
    const SO_DETACH_REUSEPORT_BPF: i32 = 68;
    let lock = TestLock::shared();
    let (level, option, errno) = (SOL_SOCKET, SO_DETACH_REUSEPORT_BPF, ENOPROTOOPT);
    let server = launch(&lock).refusing(Refusal { level, option, errno }).start();
    for victim in [2, 1] {
        assert_steered_away_from(victim, &server);
        assert_both_take_part(&server);
    }
    reload(&server);
    wait_for_workers(&server, 2);
    assert_both_take_part(&server);
    assert_steered_away_from(2, &server);
    assert_eq!(server.log.count("cannot steer"), 0);
    server.stop();
}

#[test]
fn steering_is_retried_after_running_out_of_memory() {
    const LIMIT: &str = "core/optmem_max";
    let lock = TestLock::shared();
    in_network_namespace(|| {
        let server = launch(&lock).start();
        // Less than the shortest program takes.
        let Some(usual) = set(LIMIT, "64") else { return skip("cannot limit socket memory") };
        assert_not_steered(&server);
        let queues = Queues::of(&server);
        freeze_until_noticed(&server, 2);
        assert_eq!(server.log.count("Attach("), 0, "nothing is attached");
        // From here on nothing changes but the kernel's answer.
        set(LIMIT, &usual).unwrap();
        server.log.wait_for(SOON, "Attach(");
        let (lengths, clients) = queues.fill(&server);
        assert_eq!(lengths[&2], 0, "none waits at the worker that hangs: {lengths:?}");
        resume_all(&server, None);
        assert_served(clients);
        wait_until(SOON, "all workers respond again", || silent(&server).is_empty());
        assert_steered_away_from(2, &server);
        let lines = server.log.with("cannot steer");
        let warnings = lines.iter().filter(|line| line.has("WARN")).collect::<Vec<_>>();
        assert!(warnings.iter().all(|line| line.has("trying again")), "{warnings:?}");
        assert_eq!(warnings.len(), 1, "said once: {lines:?}");
        server.stop();
    });
}

#[test]
fn forbidden_programs_are_logged_once_and_all_clients_are_served() {
    let lock = TestLock::shared();
    let (level, option, errno) = (SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, EPERM);
    let server = launch(&lock).refusing(Refusal { level, option, errno }).start();
    (0..2).for_each(|_| assert_not_steered(&server));
    let lines = server.log.with("cannot steer");
    assert!(lines.len() == 1 && lines[0].has("Operation not permitted"), "{lines:?}");
    server.stop();
}
