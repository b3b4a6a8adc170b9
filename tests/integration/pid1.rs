//! The daemon as PID 1 of a namespace: default signal actions, and reaping of adopted processes.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::support::{Launch, SOON, Server, TestLock, permitted, proc, wait_for, wait_until};

/// `unshare` with what makes its first process PID 1 of a new namespace.
const NAMESPACE: [&str; 5] = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"];

fn namespaces_are_missing() -> bool {
    !permitted(&[&NAMESPACE[..], &["true"]].concat())
}

/// Waits until the server serves and finds out who PID 1 of its namespace is.
fn serve_as_pid_one(launch: Launch) -> Server {
    let mut server = launch.start_unready();
    server.wait_serving(SOON);
    server.controller_is_inside();
    assert!(server.log.count("controller[1]") > 0, "it really is PID 1");
    server
}

/// Processes of that name, dead ones included, that the controller would have to collect.
fn reparented_children(server: &Server, title: &str) -> Vec<proc::Process> {
    let of_ours = |process: &proc::Process| process.ppid == server.controller();
    let all = proc::processes().into_iter().filter(of_ours);
    all.filter(|process| process.title == title).collect()
}

#[test]
fn pid_one_serves_replaces_workers_and_exits_on_term() {
    let lock = TestLock::shared();
    if namespaces_are_missing() {
        return;
    }
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let launch = lock.launch(&["--workers", "2"]).under(&NAMESPACE);
        let mut server = serve_as_pid_one(launch);
        server.assert_echoes();
        let worker = server.worker();
        kill(Pid::from_raw(worker), Signal::SIGKILL).unwrap();
        wait_until(SOON, "the worker is replaced", || {
            let workers = server.workers();
            workers.len() == 2 && !workers.values().any(|&pid| pid == worker)
        });
        server.assert_echoes();
        server.signal(signal);
        assert_eq!(server.wait_exit(SOON), Some(0), "exit code after {signal}");
    }
}

#[test]
fn pid_one_reaps_adopted_processes_silently() {
    let lock = TestLock::shared();
    if namespaces_are_missing() {
        return;
    }
    // One orphan is there from the start, one is orphaned by a shell that exits at once.
    let shell = "sleep 0.7 & (sleep 0.8 &); exec \"$0\" \"$@\"";
    let wrapper: Vec<&str> = NAMESPACE.iter().copied().chain(["sh", "-c", shell]).collect();
    let server = serve_as_pid_one(lock.launch(&["--workers", "2"]).under(&wrapper));
    let orphans = wait_for(SOON, "both orphans are there", || {
        let found = reparented_children(&server, "sleep");
        (found.len() == 2).then_some(found)
    });
    wait_until(SOON, "both are reaped, not left as zombies", || {
        orphans.iter().all(|orphan| proc::process(orphan.pid).is_none())
    });
    assert_eq!(server.log.count("worker exited"), 0, "orphans are not taken for workers");
    assert_eq!(server.workers().len(), 2);
    server.assert_echoes();
    server.stop();
}
