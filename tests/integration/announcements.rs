//! A log line comes after its effects, so that a reader can act on it at once.

use super::operator::census;
use super::support::http::{admin_of, get};
use super::support::{Client, SOON, Server, Turn, permitted, wait_for};
use nix::sys::signal::Signal;

/// Delays the controller by 200 ms after each write, so that a test sees what happens after a log line.
const DELAYED: [&str; 7] =
    ["strace", "-o", "/dev/null", "-e", "trace=write", "-e", "inject=write:delay_exit=200000"];

/// Starts a daemon with a delayed controller; returns `None` if tracing is not permitted.
fn start_delayed(turn: &Turn, args: &[&str]) -> Option<Server> {
    if !permitted(&[&DELAYED[..], &["true"]].concat()) {
        return None;
    }
    let mut server = turn.launch(args).under(&DELAYED).start_unready();
    server.wait_serving(SOON);
    server.controller_is_inside();
    Some(server)
}

#[test]
fn a_daemon_that_says_that_it_drains_is_not_ready() {
    let turn = Turn::shared();
    for (delay, said) in [("0", ": draining"), ("2s", ": stopping, still accepting")] {
        let args = ["--workers", "2", "--admin", "0", "--shutdown-delay", delay];
        let Some(mut server) = start_delayed(&turn, &args) else { return };
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
fn a_daemon_that_says_that_it_serves_balances() {
    let turn = Turn::shared();
    let args = ["--workers", "6", "--balance", "least-connections", "--idle-timeout", "60"];
    let Some(server) = start_delayed(&turn, &args) else { return };
    let mut clients: Vec<Client> = (0..12).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|client| _ = client.echo(100));
    let counts = wait_for(SOON, "every connection has a worker", || {
        let counts: Vec<usize> = census(&server).into_values().map(|(now, _)| now).collect();
        (counts.iter().sum::<usize>() == 12).then_some(counts)
    });
    assert_eq!(counts, [2; 6]);
    drop(clients);
    server.stop();
}
