//! Reloads of the configuration file: an invalid file is rejected, a valid one is applied.

use std::collections::BTreeMap;
use std::thread;
use std::time::Instant;

use nix::sys::signal::Signal;
use socket2::{Domain, Socket, Type};

use super::support::operations::{
    ConfigFile, REFUSED, assert_all_new, assert_untouched, freeze, refused_reload, reload,
    send_signal, wait_for_workers,
};
use super::support::{End, SOON, Server, TestLock, assert_between, ms, secs, wait_until};

fn start_with(lock: &TestLock, file: &ConfigFile) -> Server {
    lock.start(&["--config", file.name()])
}

#[test]
fn an_invalid_file_is_rejected_with_its_line_and_the_old_configuration_is_kept() {
    let lock = TestLock::shared();
    let file = ConfigFile::new("workers = 2\nidle-timeout = 60\n");
    let mut server = start_with(&lock, &file);
    let before = server.workers();
    let mut old = server.connect();
    old.echo(100);
    let broken = [
        ("workers = 2\nidle-timeout = \"10 parsecs\"\n", 2, "idle-timeout"),
        ("workers = 2\n\n# comment\nwokers = 3\n", 4, "wokers"),
        ("workers = 2\nport = 8\nidle-timeout = [\n", 3, ""),
        ("listen = [\"127.0.0.1\", \"127.0.0.1\"]\n", 1, "listen"),
        ("\nworker-timeout = \"10ms\"\n", 2, "worker-timeout"),
    ];
    for (count, (text, line, key)) in (1..).zip(broken) {
        file.write(text);
        let refusal = refused_reload(&server);
        let location = format!("{}:{line}", file.name());
        assert!(refusal.has(&location) && refusal.has(key), "{location} {key} in {refusal:?}");
        assert!(refusal.has("(exit code 2)") && refusal.has("ERROR"), "{refusal:?}");
        assert_eq!(refusal.number("failed"), Some(count), "{refusal:?}");
        old.echo(100);
    }
    std::fs::remove_file(file.name()).unwrap();
    assert!(refused_reload(&server).has(file.name()), "the missing file is named");
    assert_untouched(&mut server, &before);
    old.finish();
    server.stop();
}

#[test]
fn a_corrected_file_is_applied() {
    let lock = TestLock::shared();
    let file = ConfigFile::new("workers = 1\nidle-timeout = 60\n");
    let server = start_with(&lock, &file);
    let before = server.workers();
    file.write("workers = 1\nidle-timeout = nonsense\n");
    refused_reload(&server);
    let mended =
        "workers = 2\nidle-timeout = \"700ms\"\nlog-level = \"DEBUG\"\nkeepalive-delay = 7\n";
    file.write(mended);
    reload(&server);
    assert_all_new(&before, &wait_for_workers(&server, 2));
    let begin = Instant::now();
    let mut idle = server.connect();
    idle.echo(100);
    server.log.wait_for_line(SOON, "DEBUG lines", |line| line.has("DEBUG worker-"));
    assert!(idle.has_keepalive(), "keepalive-delay");
    idle.expect_fin();
    assert_between("the idle timeout", begin.elapsed(), ms(650), secs(3));
    drop(idle);
    file.write("workers = 2\n");
    reload(&server);
    wait_for_workers(&server, 2);
    let mut idle = server.connect();
    idle.echo(100);
    assert!(!idle.has_keepalive(), "the default: no keepalive");
    assert_eq!(idle.end_within(ms(1000)), End::Open, "the default idle timeout");
    idle.finish();
    server.stop();
}

#[test]
fn the_number_of_workers_follows_the_file() {
    let lock = TestLock::shared();
    let file = ConfigFile::new("workers = 2\n");
    let server = start_with(&lock, &file);
    let mut before = server.workers();
    for workers in [5, 1, 3, 2] {
        file.write(&format!("workers = {workers}\n"));
        reload(&server);
        let after = wait_for_workers(&server, workers);
        assert_all_new(&before, &after);
        let slots: Vec<u32> = after.keys().copied().collect();
        assert_eq!(slots, (1..=workers as u32).collect::<Vec<_>>());
        (0..20).for_each(|_| server.assert_echoes());
        before = after;
    }
    server.stop();
}

#[test]
fn a_reload_resets_the_number_of_workers_after_scaling() {
    let lock = TestLock::shared();
    let file = ConfigFile::new("workers = 2\n");
    let server = start_with(&lock, &file);
    server.signal(Signal::SIGTTIN);
    wait_until(SOON, "three workers", || server.workers().len() == 3);
    reload(&server);
    wait_for_workers(&server, 2);
    server.assert_echoes();
    server.stop();
}

/// How many of 20 connections the kernel takes while the only worker stands still.
fn connections_that_fit(server: &Server) -> usize {
    let connect = |_| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_nonblocking(true).unwrap();
        // In progress is an error, too.
        let _ = socket.connect(&server.address().into());
        socket
    };
    let worker = server.worker();
    freeze(worker);
    let sockets: Vec<Socket> = (0..20).map(connect).collect();
    let connected = || sockets.iter().filter(|socket| socket.peer_addr().is_ok()).count();
    // What does not fit is tried again by the kernel after a second.
    thread::sleep(ms(300));
    let count = connected();
    send_signal(worker, Signal::SIGCONT);
    wait_until(SOON, "all are connected in the end", || connected() == 20);
    count
}

#[test]
fn the_connection_backlog_follows_the_file() {
    let lock = TestLock::shared();
    let file = ConfigFile::new("workers = 1\nlisten = \"127.0.0.1\"\nconnection-backlog = 4\n");
    let server = start_with(&lock, &file);
    // The kernel lets one more in than the backlog says.
    assert_eq!(connections_that_fit(&server), 5);
    file.write("workers = 1\nlisten = \"127.0.0.1\"\nconnection-backlog = 9\n");
    reload(&server);
    wait_for_workers(&server, 1);
    assert_eq!(connections_that_fit(&server), 10, "the queue is longer after the reload");
    server.stop();
}

#[test]
fn the_pid_file_follows_the_file() {
    let lock = TestLock::shared();
    let file = ConfigFile::new("");
    let paths = ["one.pid", "two.pid"].map(|name| file.directory().join(name));
    let text = |path: &std::path::Path| format!("workers = 1\npid-file = {:?}\n", path.display());
    file.write(&text(&paths[0]));
    let server = start_with(&lock, &file);
    file.write(&text(&paths[1]));
    reload(&server);
    let pid = std::fs::read_to_string(&paths[1]).unwrap();
    assert_eq!(pid.trim().parse(), Ok(server.controller()));
    assert!(!paths[0].exists(), "the former one is removed");
    file.write("workers = 1\n");
    reload(&server);
    assert!(!paths[1].exists(), "none is wanted any more");
    server.stop();
}

#[test]
fn after_a_rejected_reload_scaling_and_replacing_work() {
    let lock = TestLock::shared();
    let file = ConfigFile::new("workers = 2\n");
    let server = start_with(&lock, &file);
    file.write("workers = two\n");
    refused_reload(&server);
    server.signal(Signal::SIGTTIN);
    wait_until(SOON, "three workers", || server.workers().len() == 3);
    let workers: BTreeMap<u32, i32> = server.workers();
    send_signal(workers[&2], Signal::SIGKILL);
    wait_until(SOON, "slot 2 has a new worker", || {
        server.workers().get(&2).is_some_and(|pid| *pid != workers[&2])
    });
    assert!(refused_reload(&server).has("failed=2"), "the count goes on");
    assert_eq!(server.log.count(REFUSED), 2);
    server.assert_echoes();
    server.stop();
}
