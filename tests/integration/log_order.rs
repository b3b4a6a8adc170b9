//! Order of log lines and effects: a line is logged after its effects.

use super::support::http::{admin_of, get};
use super::support::operations::connection_counts;
use super::support::{Client, SOON, Server, TestLock, permitted, wait_for};
use nix::sys::signal::Signal;

/// Delays the controller by 200 ms after each write, so that a test sees what happens after a log line.
const DELAYED: [&str; 7] =
    ["strace", "-o", "/dev/null", "-e", "trace=write", "-e", "inject=write:delay_exit=200000"];

/// Starts a daemon with a delayed controller; returns `None` if tracing is not permitted.
fn start_delayed(lock: &TestLock, args: &[&str]) -> Option<Server> {
    if !permitted(&[&DELAYED[..], &["true"]].concat()) {
        return None;
    }
    let mut server = lock.launch(args).under(&DELAYED).start_unready();
    server.wait_serving(SOON);
    server.controller_is_inside();
    Some(server)
}

#[test]
fn readiness_ends_before_the_drain_is_logged() {
    let lock = TestLock::shared();
    for (delay, said) in [("0", ": draining"), ("2s", ": shutdown delayed, still accepting")] {
        let args = ["--workers", "2", "--admin", "0", "--shutdown-delay", delay];
        let Some(mut server) = start_delayed(&lock, &args) else { return };
        let address = admin_of(&server);
        assert_eq!(get(address, "/readyz").status, 200, "ready when it logs that it serves");
        server.signal(Signal::SIGTERM);
        server.log.wait_for_line(SOON, said, |line| line.has("controller[") && line.has(said));
        let reply = get(address, "/readyz");
        assert_eq!((reply.status, &*reply.body), (503, "draining\n"));
        assert_eq!(server.wait_exit(SOON), Some(0));
    }
}

#[test]
fn balancing_begins_before_serving_is_logged() {
    let lock = TestLock::shared();
    let args = ["--workers", "6", "--balance", "least-connections", "--idle-timeout", "60"];
    let Some(server) = start_delayed(&lock, &args) else { return };
    let mut clients: Vec<Client> = (0..12).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|client| _ = client.echo(100));
    let counts = wait_for(SOON, "every connection has a worker", || {
        let counts: Vec<usize> =
            connection_counts(&server).into_values().map(|(now, _)| now).collect();
        (counts.iter().sum::<usize>() == 12).then_some(counts)
    });
    assert_eq!(counts, [2; 6]);
    drop(clients);
    server.stop();
}
