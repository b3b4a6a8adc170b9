//! Signals during a reload, in bursts, and at the wrong time.

use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::support::operations::{
    assert_all_new, assert_no_replacements, descriptors_of, reload, wait_for_the_last_reload,
    wait_for_workers,
};
use super::support::traffic::under_short_exchanges;
use super::support::{
    Client, End, SOON, Server, TestLock, assert_between, ms, proc, secs, wait_until,
};

#[test]
fn fifty_simultaneous_hups_lose_nothing() {
    let lock = TestLock::shared();
    let mut server = lock.start(&["--workers", "2"]);
    let before = server.workers();
    let descriptors = descriptors_of(server.controller());
    let ((), traffic) = under_short_exchanges(server.address(), || {
        for _ in 0..3 {
            (0..50).for_each(|_| server.signal(Signal::SIGHUP));
            wait_for_the_last_reload(&server);
        }
    });
    traffic.assert_nothing_lost();
    assert_eq!(server.exit_code(), None, "the controller is still the one that was started");
    assert_all_new(&before, &wait_for_workers(&server, 2));
    assert_eq!(descriptors_of(server.controller()), descriptors);
    server.stop();
}

#[test]
fn mixed_signals_during_reloads_lose_nothing() {
    let lock = TestLock::shared();
    let mut server = lock.start(&["--workers", "3"]);
    let mixture =
        [Signal::SIGHUP, Signal::SIGTTIN, Signal::SIGUSR1, Signal::SIGHUP, Signal::SIGTTOU];
    let ((), traffic) = under_short_exchanges(server.address(), || {
        for step in 0..100 {
            server.signal(mixture[step % mixture.len()]);
            thread::sleep(ms(7));
        }
        wait_for_the_last_reload(&server);
    });
    traffic.assert_nothing_lost();
    assert_eq!(server.exit_code(), None, "the controller is still the one that was started");
    let line = reload(&server);
    assert!(line.has("version="), "{line:?}");
    assert_eq!(server.log.count("signal SIG"), 0, "no process was killed");
    server.assert_echoes();
    server.stop();
}

#[test]
fn hup_during_startup_reloads_after_it() {
    let lock = TestLock::shared();
    let mut server = lock.launch(&["--workers", "24"]).start_unready();
    server.log.wait_for(SOON, "worker ready");
    server.signal(Signal::SIGHUP);
    server.wait_serving(secs(10));
    server.log.wait_for(SOON, ": reloaded ");
    let at = |words: &str| server.log.with(words)[0].at;
    assert!(at("serving on") <= at(": reloading "), "first the boot, then the reload");
    wait_for_workers(&server, 24);
    server.assert_echoes();
    server.stop();
}

#[test]
fn hup_while_draining_is_ignored() {
    let lock = TestLock::shared();
    let mut server = lock.start(&["--workers", "2", "--graceful-timeout", "1s"]);
    let workers = server.workers();
    let mut stalled = server.connect();
    stalled.send_until_stalled(ms(100), 32 << 20);
    let begin = Instant::now();
    server.signal(Signal::SIGTERM);
    server.log.wait_for(SOON, "draining");
    (0..5).for_each(|_| server.signal(Signal::SIGHUP));
    assert_eq!(server.wait_exit(SOON), Some(0));
    assert_between("time to the end", begin.elapsed(), ms(900), secs(3));
    assert_no_replacements(&mut server, &workers);
    assert_eq!(server.log.count("state restored"), 0);
}

#[test]
fn hup_and_ttin_during_the_shutdown_delay_are_ignored() {
    let lock = TestLock::shared();
    let mut server = lock.start(&["--workers", "1", "--shutdown-delay", "500ms"]);
    let workers = server.workers();
    server.signal(Signal::SIGTERM);
    server.log.wait_for(SOON, "shutdown delayed, still accepting");
    server.signal(Signal::SIGHUP);
    server.signal(Signal::SIGTTIN);
    server.assert_echoes();
    assert_eq!(server.wait_exit(SOON), Some(0));
    assert_no_replacements(&mut server, &workers);
    assert_eq!(server.log.count("state restored") + server.log.count(": scaled"), 0);
}

/// Sends TERM this long after HUP. The daemon exits with 0, its clients get a FIN, and no process is left.
fn stop_in_the_middle_of_a_reload(lock: &TestLock, after: Duration) {
    let mut server = lock.start(&["--workers", "4"]);
    let mut client = server.connect();
    client.echo(1000);
    server.signal(Signal::SIGHUP);
    thread::sleep(after);
    let begin = Instant::now();
    server.signal(Signal::SIGTERM);
    client.half_close();
    client.expect_fin();
    drop(client);
    assert_eq!(server.wait_exit(SOON), Some(0), "exit code, TERM {after:?} after HUP");
    assert!(begin.elapsed() < secs(3), "TERM {after:?} after HUP: {:?}", begin.elapsed());
    server.log.wait_for(SOON, ": stopped");
}

#[test]
fn term_at_any_point_of_a_reload_ends_all_processes_in_time() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "4"]);
    let begin = Instant::now();
    server.signal(Signal::SIGHUP);
    let takes_over = server.log.wait_for(SOON, ": state restored ").at - begin;
    server.log.wait_for(SOON, ": reloaded ");
    server.stop();
    // Many moments of the check and of the exec, some of the first messages and of the last workers.
    for step in 0..80 {
        stop_in_the_middle_of_a_reload(&lock, takes_over * step / 80);
    }
    for step in 0..10 {
        stop_in_the_middle_of_a_reload(&lock, takes_over * (10 + step) / 10);
    }
}

/// Old workers that still serve are left to by a killed controller no more than young ones.
fn kill_with_old_workers(server: &mut Server, busy: &mut Client) {
    let family = server.family();
    assert!(family.len() > 3, "an old worker is still there");
    server.signal(Signal::SIGKILL);
    server.wait_exit(secs(1));
    let alive = || family.iter().filter(|&&pid| proc::is_alive(pid)).count();
    wait_until(secs(2), "no process is left", || alive() == 0);
    assert_ne!(busy.end_within(secs(1)), End::Open, "the client learns of it");
}

#[test]
fn no_process_outlives_a_controller_killed_after_a_reload() {
    let lock = TestLock::shared();
    let mut server = lock.start(&["--workers", "2"]);
    let mut busy = server.connect();
    busy.echo(1000);
    reload(&server);
    busy.echo(1000);
    kill_with_old_workers(&mut server, &mut busy);
    let port = server.port().to_string();
    // The port is free: another instance needs no --allow-shared-port.
    lock.launch(&["--port", &port, "--workers", "1"]).start().stop();
}

#[test]
fn no_process_outlives_a_controller_killed_during_a_reload() {
    let lock = TestLock::shared();
    for milliseconds in [0, 2, 4, 6, 8, 10, 15, 20] {
        let mut server = lock.start(&["--workers", "4"]);
        server.signal(Signal::SIGHUP);
        thread::sleep(ms(milliseconds));
        server.signal(Signal::SIGKILL);
        server.wait_exit(secs(1));
        wait_until(secs(2), "no process is left", || server.family().is_empty());
    }
}

#[test]
fn a_worker_killed_during_a_reload_is_replaced() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "4"]);
    for milliseconds in [0, 3, 6, 9, 12, 15] {
        let workers = server.workers();
        server.signal(Signal::SIGHUP);
        thread::sleep(ms(milliseconds));
        for &pid in workers.values() {
            // It may have retired already.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        wait_for_the_last_reload(&server);
        assert_all_new(&workers, &wait_for_workers(&server, 4));
        server.assert_echoes();
    }
    server.stop();
}
