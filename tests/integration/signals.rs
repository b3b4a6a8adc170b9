//! Signals: documented effects, and no effect of all others.

use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::support::log::Line;
use super::support::{
    Client, SOON, Server, TestLock, assert_between, ms, secs, under_connecting_load, wait_until,
};

/// Signals that must not end or replace any process at any time.
const HARMLESS: [Signal; 4] = [Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGWINCH, Signal::SIGPIPE];

/// Signals that mean something to the controller and nothing to a worker.
const FOR_CONTROLLER: [Signal; 4] =
    [Signal::SIGHUP, Signal::SIGTTIN, Signal::SIGTTOU, Signal::SIGINT];

/// The same controller and the same workers as before, and they serve.
#[track_caller]
fn assert_untouched(server: &mut Server, before: &std::collections::BTreeMap<u32, i32>) {
    server.assert_echoes();
    assert_eq!(server.exit_code(), None, "the controller lives");
    assert_eq!(&server.workers(), before, "every worker lives");
    assert_eq!(server.log.count("worker exited"), 0);
}

#[test]
fn harmless_signals_to_the_controller_end_no_process() {
    let lock = TestLock::shared();
    let mut server = lock.start(&["--workers", "2"]);
    let before = server.workers();
    let mut client = server.connect();
    for signal in HARMLESS {
        server.signal(signal);
        client.echo(100);
    }
    client.finish();
    assert_untouched(&mut server, &before);
    server.stop();
}

#[test]
fn harmless_signals_do_not_end_a_worker() {
    let lock = TestLock::shared();
    let mut server = lock.start(&["--workers", "2"]);
    let before = server.workers();
    let mut clients: Vec<Client> = (0..10).map(|_| server.connect()).collect();
    for signal in HARMLESS.into_iter().chain(FOR_CONTROLLER) {
        for &pid in before.values() {
            kill(Pid::from_raw(pid), signal).unwrap();
        }
        clients.iter_mut().for_each(|client| _ = client.echo(100));
    }
    clients.into_iter().for_each(Client::finish);
    assert_untouched(&mut server, &before);
    server.stop();
}

#[test]
fn many_signals_to_the_group_lose_no_byte() {
    let lock = TestLock::shared();
    let mut server = lock.start(&["--workers", "2"]);
    let before = server.workers();
    let (_, load) = under_connecting_load(server.address(), || {
        for _ in 0..50 {
            HARMLESS.into_iter().for_each(|signal| server.signal_group(signal));
            thread::sleep(ms(5));
        }
    });
    load.assert_all_served();
    assert_untouched(&mut server, &before);
    server.stop();
}

#[test]
fn signals_do_not_end_a_starting_worker() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "4"]);
    for _ in 0..3 {
        let before = server.workers();
        before.values().for_each(|&pid| kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap());
        // USR1 is forwarded to workers whatever their state; the group gets it, too.
        wait_until(SOON, "four new workers under a hail of USR1", || {
            server.signal(Signal::SIGUSR1);
            server.signal_group(Signal::SIGUSR1);
            let ready = server.logged_workers();
            ready.len() == 4 && !ready.values().any(|pid| before.values().any(|old| old == pid))
        });
    }
    assert_eq!(server.log.count("signal SIGUSR1"), 0);
    assert_eq!(server.log.count("signal SIGKILL"), 12, "only the killed workers died");
    server.assert_echoes();
    server.stop();
}

/// The number in parentheses: `Worker has handled (17) connections`.
fn counted(line: &Line) -> u32 {
    let inner = line.text.split_once(") connections").unwrap().0;
    inner.rsplit_once('(').unwrap().1.parse().unwrap()
}

#[test]
fn usr1_logs_the_connections_of_each_worker() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "2"]);
    for _ in 0..95 {
        server.assert_echoes();
    }
    let mut open: Vec<Client> = (0..5).map(|_| server.connect()).collect();
    open.iter_mut().for_each(|client| _ = client.echo(10));
    let report = |needle: &str| {
        let lines = server.log.with(needle);
        let recent = lines.len().saturating_sub(2)..;
        (lines.len(), lines[recent].to_vec())
    };
    let (now, total) = ("Worker is currently handling (", "Worker has handled (");
    server.signal(Signal::SIGUSR1);
    wait_until(SOON, "two lines a worker", || report(now).0 == 2 && report(total).0 == 2);
    let sum = |lines: Vec<Line>| lines.iter().map(counted).sum::<u32>();
    assert_eq!(sum(report(now).1), 5, "{:?}", report(now));
    assert_eq!(sum(report(total).1), 100, "{:?}", report(total));
    for slot in [" slot=1 ", " slot=2 "] {
        let lines = server.log.with(slot);
        let handled = lines.iter().find(|line| line.has(total)).expect("a line of each worker");
        assert!(counted(handled) > 0, "both get some of a hundred connections: {handled:?}");
    }
    open.into_iter().for_each(Client::finish);
    // Closing is seen by the worker a moment later than by us.
    wait_until(SOON, "no connection is handled", || {
        server.signal(Signal::SIGUSR1);
        let before = report(now).0;
        thread::sleep(ms(20));
        report(now).0 > before && sum(report(now).1) == 0
    });
    server.stop();
}

#[test]
fn a_stopped_controller_continues_without_replacements() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "2", "--worker-timeout", "1"]);
    let before = server.workers();
    server.signal(Signal::SIGSTOP);
    let begin = Instant::now();
    while begin.elapsed() < secs(3) {
        server.assert_echoes();
        thread::sleep(ms(50));
    }
    server.signal(Signal::SIGCONT);
    assert_between("stopped", begin.elapsed(), secs(3), secs(6));
    thread::sleep(ms(1500));
    assert_eq!(server.workers(), before, "no worker was blamed for the controller's sleep");
    server.stop();
}

/// When a line was written, by the clock of who wrote it, within its minute.
fn second_of(line: &Line) -> f64 {
    let stamp = line.text.split('Z').next().unwrap();
    stamp.rsplit(':').next().unwrap().parse().expect("a line begins with its time")
}

/// Starts a server with a client that is busy, and sends two signals to stop that the controller
/// receives between `least` and `most` after each other. They differ: two equal ones may be one.
fn stop_twice(
    lock: &TestLock,
    pause: Duration,
    least: Duration,
    most: Duration,
) -> (Server, Client) {
    let args = ["--workers", "1", "--graceful-timeout", "60s", "--enable-log-timestamps"];
    for _ in 0..20 {
        let server = lock.start(&args);
        let mut client = server.connect();
        client.echo(100);
        server.signal(Signal::SIGTERM);
        thread::sleep(pause);
        server.signal(Signal::SIGINT);
        let [first, second] = ["received SIGTERM", "received SIGINT"]
            .map(|words| second_of(&server.log.wait_for(SOON, words)));
        let gap = Duration::from_secs_f64((second - first).rem_euclid(60.0));
        if (least..=most).contains(&gap) {
            return (server, client);
        }
        println!("the machine is busy: {gap:?} instead of {pause:?}");
    }
    panic!("the controller never got two signals {pause:?} apart");
}

#[test]
fn two_signals_to_stop_20_ms_apart_are_one() {
    let lock = TestLock::shared();
    let (mut server, mut client) = stop_twice(&lock, ms(20), ms(15), ms(90));
    let begin = Instant::now();
    while begin.elapsed() < secs(2) {
        client.echo(100);
        thread::sleep(ms(50));
    }
    assert_eq!(server.exit_code(), None, "it still drains");
    client.finish();
    assert_eq!(server.wait_exit(SOON), Some(0));
}

#[test]
fn two_signals_to_stop_300_ms_apart_are_two() {
    let lock = TestLock::shared();
    let (mut server, mut client) = stop_twice(&lock, ms(300), ms(250), secs(1));
    let begin = Instant::now();
    while begin.elapsed() < secs(3) && client.try_send(100).is_ok() {
        thread::sleep(ms(50));
    }
    assert_eq!(server.wait_exit(SOON), Some(0));
    assert!(begin.elapsed() < secs(3), "the second one ends it: {:?}", begin.elapsed());
}
