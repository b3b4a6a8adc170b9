//! Messages to the service manager: readiness, status, watchdog, and stored sockets.

use std::thread;

use nix::sys::signal::Signal;

use super::support::operations::{ConfigFile, freeze, send_signal};
use super::support::service_manager::{Manager, monotonic_usec, normalised, number_in};
use super::support::{Launch, SOON, Server, TestLock, assert_between, ms, secs, wait_until};

const READY: &str = "READY=1\nSTATUS=2/2 workers, 0 connections";
const RELOADING: &str = "RELOADING=1\nMONOTONIC_USEC=*\nSTATUS=reloading";
const STORE: [&str; 2] =
    ["FDSTORE=1\nFDPOLL=0\nFDNAME=slot-1-0", "FDSTORE=1\nFDPOLL=0\nFDNAME=slot-2-0"];

/// What was said, normalised. The build that takes over says RELOADING once more, as it cannot know
/// whether that was heard; the manager takes no notice of the second time.
fn transcript(texts: &[String]) -> Vec<String> {
    let mut all: Vec<String> = texts.iter().map(|text| normalised(text)).collect();
    all.dedup_by(|next, before| next == before && next == RELOADING);
    all
}

/// Starts two workers under the manager and hears everything until they are ready.
fn start_under(manager: &Manager, launch: Launch) -> Server {
    let server = manager.watch(launch).start();
    let mut said = transcript(&manager.messages_until(SOON, "READY=1"));
    assert_eq!(said.pop().as_deref(), Some(READY));
    said.sort();
    assert_eq!(said, STORE, "the sockets of both slots, whichever was ready first");
    server
}

/// The exact transcript of a start, two reloads, a refused one, and a stop.
fn a_life(lock: &TestLock, manager: &Manager) {
    let file = ConfigFile::new("workers = 2\n");
    let mut server = start_under(manager, lock.launch(&["--config", file.name()]));
    for _ in 0..2 {
        let before = monotonic_usec();
        server.signal(Signal::SIGHUP);
        let said = manager.messages_until(secs(8), "READY=1");
        assert_eq!(transcript(&said), [RELOADING, READY]);
        let stamp = number_in(&said[0], "MONOTONIC_USEC").unwrap();
        assert!(before <= stamp && stamp <= monotonic_usec(), "when the reload began: {stamp}");
    }
    file.write("workers = many\n");
    server.signal(Signal::SIGHUP);
    let said = transcript(&manager.messages_until(SOON, "READY=1"));
    assert_eq!(said, [RELOADING, READY], "the manager waits for the end of a refused one, too");
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait_exit(SOON), Some(0));
    let said = transcript(&manager.messages_until(SOON, "STOPPING=1"));
    assert_eq!(said, ["STOPPING=1\nSTATUS=draining, 0 connections"]);
    assert_eq!(manager.next_message(ms(1)), None, "nothing more");
}

#[test]
fn a_manager_at_a_path_receives_exactly_the_documented_messages() {
    let lock = TestLock::shared();
    a_life(&lock, &Manager::at_path());
}

#[test]
fn a_manager_at_an_abstract_name_receives_exactly_the_documented_messages() {
    let lock = TestLock::shared();
    a_life(&lock, &Manager::at_abstract_name(1));
}

#[test]
fn the_status_counts_workers_and_connections() {
    let lock = TestLock::shared();
    let manager = Manager::at_path();
    let mut server = start_under(&manager, lock.launch(&["--workers", "2"]));
    let mut clients = [server.connect(), server.connect()];
    clients.iter_mut().for_each(|client| _ = client.echo(10));
    manager.messages_until(secs(4), "STATUS=2/2 workers, 2 connections");
    let [client, last] = clients;
    client.finish();
    manager.messages_until(secs(4), "STATUS=2/2 workers, 1 connection");
    server.signal(Signal::SIGTTIN);
    let said = manager.messages_until(secs(4), "STATUS=3/3 workers, 1 connection");
    assert!(said.contains(&STORE[0].replace("slot-1", "slot-3")), "{said:?}");
    server.signal(Signal::SIGTTOU);
    let said = manager.messages_until(secs(4), "STATUS=2/2 workers");
    let removed = |text: &String| text == "FDSTOREREMOVE=1\nFDNAME=slot-3-0";
    assert!(said.iter().any(removed), "what it keeps is dropped with the slot: {said:?}");
    server.signal(Signal::SIGTERM);
    manager.messages_until(SOON, "STOPPING=1\nSTATUS=draining, 1 connection");
    last.finish();
    assert_eq!(server.wait_exit(SOON), Some(0));
}

#[test]
fn a_drain_extends_the_stop_timeout_once_a_second() {
    let lock = TestLock::shared();
    let manager = Manager::at_path();
    let args = ["--workers", "2", "--graceful-timeout", "3s"];
    let mut server = start_under(&manager, lock.launch(&args));
    let mut stalled = server.connect();
    stalled.send_until_stalled(ms(100), 64 << 20);
    server.signal(Signal::SIGTERM);
    manager.messages_until(SOON, "STOPPING=1");
    let mut granted = u64::MAX;
    for _ in 0..2 {
        let begin = std::time::Instant::now();
        let said = manager.messages_until(secs(2), "EXTEND_TIMEOUT_USEC=");
        assert_eq!(transcript(&said), ["EXTEND_TIMEOUT_USEC=*\nSTATUS=draining, 1 connection"]);
        assert_between("from one to the next", begin.elapsed(), ms(700), ms(1600));
        let wanted = number_in(&said[0], "EXTEND_TIMEOUT_USEC").unwrap();
        assert!(wanted < granted, "it is less every time: {wanted} after {granted}");
        assert!((1_000_000..10_000_000).contains(&wanted), "what is left, and a bit: {wanted}");
        granted = wanted;
    }
    assert_eq!(server.wait_exit(secs(4)), Some(0));
}

#[test]
fn the_fd_store_follows_the_addresses() {
    let lock = TestLock::shared();
    let manager = Manager::at_path();
    let text = |hosts: &str| format!("workers = 1\nlisten = [{hosts}]\n");
    let file = ConfigFile::new(&text("\"127.0.0.1\""));
    let server = manager.watch(lock.launch(&["--config", file.name()])).start();
    assert_eq!(manager.messages_until(SOON, "READY=1")[0], STORE[0]);
    file.write(&text("\"127.0.0.2\""));
    server.signal(Signal::SIGHUP);
    let said = manager.messages_until(secs(8), "READY=1");
    let mut kept = vec!["slot-1-0"];
    for text in &said {
        match text.split_once("FDNAME=") {
            Some((what, name)) if what.starts_with("FDSTORE=") => kept.push(name),
            Some((_, name)) => kept.retain(|one| *one != name),
            None => {}
        }
    }
    // Under a name of its own: what is dropped by name is only the old one.
    assert_eq!(kept, ["slot-1-1"], "the old one is dropped, the new one kept: {said:?}");
    server.stop();
}

/// How many times the watchdog is fed in 800 ms.
fn meals(manager: &Manager) -> usize {
    while manager.next_message(ms(1)).is_some() {}
    // How many come is what the time is for.
    thread::sleep(ms(800));
    let heard = std::iter::from_fn(|| manager.next_message(ms(1)));
    heard.filter(|text| text == "WATCHDOG=1").count()
}

#[test]
fn watchdog_messages_require_that_most_workers_respond() {
    let lock = TestLock::shared();
    let manager = Manager::at_path();
    let launch = lock.launch(&["--workers", "3"]).env("WATCHDOG_USEC", "400000");
    let server = manager.watch(launch).start();
    manager.messages_until(SOON, "READY=1");
    // Every 200 ms: half of what is granted.
    assert!((2..=5).contains(&meals(&manager)));
    let workers = server.workers();
    let unresponsive = |count| {
        wait_until(secs(4), "the stopped ones do not respond", || {
            server.log.count("worker unresponsive") >= count
        });
    };
    freeze(workers[&1]);
    unresponsive(1);
    assert!((2..=5).contains(&meals(&manager)), "one of three is not the end");
    freeze(workers[&2]);
    freeze(workers[&3]);
    unresponsive(3);
    assert_eq!(meals(&manager), 0, "no watchdog message while no worker responds");
    workers.values().for_each(|&pid| send_signal(pid, Signal::SIGCONT));
    wait_until(SOON, "all respond again", || server.log.count("worker responsive again") == 3);
    server.signal(Signal::SIGHUP);
    server.log.wait_for(secs(8), ": reloaded ");
    assert!(meals(&manager) >= 2, "it is fed again, also by the image that took over");
    server.stop();
}

#[test]
fn a_watchdog_of_another_process_is_ignored() {
    let lock = TestLock::shared();
    let manager = Manager::at_path();
    let launch = lock.launch(&["--workers", "2"]).env("WATCHDOG_USEC", "200000");
    let server = start_under(&manager, launch.env("WATCHDOG_PID", "1"));
    assert_eq!(meals(&manager), 0);
    server.stop();
}

#[test]
fn the_daemon_serves_without_its_manager() {
    let lock = TestLock::shared();
    let manager = Manager::at_path();
    let server = start_under(&manager, lock.launch(&["--workers", "2"]));
    drop(manager);
    server.assert_echoes();
    super::support::operations::reload(&server);
    server.assert_echoes();
    server.stop();
    let launch = lock.launch(&["--workers", "2"]).env("NOTIFY_SOCKET", "/nonexistent/notify");
    let server = launch.start();
    server.log.wait_for(SOON, "service manager");
    server.assert_echoes();
    server.stop();
}
