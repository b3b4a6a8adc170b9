//! Signals that come too often, too early, too late, or in the middle of a reload.

use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::operator::traffic::under_visits;
use super::operator::{
    assert_all_new, assert_no_replacements, descriptors_of, reload, wait_for_the_last_reload,
    wait_settled,
};
use super::support::{Client, End, SOON, Server, Turn, assert_between, ms, proc, secs, wait_until};

#[test]
fn fifty_reloads_at_once_are_as_good_as_one() {
    let turn = Turn::shared();
    let mut server = turn.start(&["--workers", "2"]);
    let before = server.workers();
    let descriptors = descriptors_of(server.controller());
    let ((), ledger) = under_visits(server.address(), || {
        for _ in 0..3 {
            (0..50).for_each(|_| server.signal(Signal::SIGHUP));
            wait_for_the_last_reload(&server);
        }
    });
    ledger.assert_nothing_lost();
    assert_eq!(server.exit_code(), None, "the controller is still the one that was started");
    assert_all_new(&before, &wait_settled(&server, 2));
    assert_eq!(descriptors_of(server.controller()), descriptors);
    server.stop();
}

#[test]
fn a_mixture_of_all_signals_loses_nothing_either() {
    let turn = Turn::shared();
    let mut server = turn.start(&["--workers", "3"]);
    let mixture =
        [Signal::SIGHUP, Signal::SIGTTIN, Signal::SIGUSR1, Signal::SIGHUP, Signal::SIGTTOU];
    let ((), ledger) = under_visits(server.address(), || {
        for step in 0..100 {
            server.signal(mixture[step % mixture.len()]);
            thread::sleep(ms(7));
        }
        wait_for_the_last_reload(&server);
    });
    ledger.assert_nothing_lost();
    assert_eq!(server.exit_code(), None, "the controller is still the one that was started");
    let line = reload(&server);
    assert!(line.has("version="), "{line:?}");
    assert_eq!(server.log.count("signal SIG"), 0, "nobody was killed");
    server.assert_echoes();
    server.stop();
}

#[test]
fn a_reload_that_is_asked_for_during_the_boot_comes_after_it() {
    let turn = Turn::shared();
    let mut server = turn.launch(&["--workers", "24"]).start_unready();
    server.log.wait_for(SOON, "worker ready");
    server.signal(Signal::SIGHUP);
    server.wait_serving(secs(10));
    server.log.wait_for(SOON, ": reloaded ");
    let at = |words: &str| server.log.with(words)[0].at;
    assert!(at("serving on") <= at(": reloading "), "first the boot, then the reload");
    wait_settled(&server, 24);
    server.assert_echoes();
    server.stop();
}

#[test]
fn hup_while_draining_is_ignored() {
    let turn = Turn::shared();
    let mut server = turn.start(&["--workers", "2", "--graceful-timeout", "1s"]);
    let workers = server.workers();
    let mut deaf = server.connect();
    deaf.send_until_stuck(ms(100), 32 << 20);
    let begin = Instant::now();
    server.signal(Signal::SIGTERM);
    server.log.wait_for(SOON, "draining");
    (0..5).for_each(|_| server.signal(Signal::SIGHUP));
    assert_eq!(server.wait_exit(SOON), Some(0));
    assert_between("time to the end", begin.elapsed(), ms(900), secs(3));
    assert_no_replacements(&mut server, &workers);
    assert_eq!(server.log.count("taking over"), 0);
}

#[test]
fn hup_and_ttin_during_the_shutdown_delay_are_ignored() {
    let turn = Turn::shared();
    let mut server = turn.start(&["--workers", "1", "--shutdown-delay", "500ms"]);
    let workers = server.workers();
    server.signal(Signal::SIGTERM);
    server.log.wait_for(SOON, "stopping, still accepting");
    server.signal(Signal::SIGHUP);
    server.signal(Signal::SIGTTIN);
    server.assert_echoes();
    assert_eq!(server.wait_exit(SOON), Some(0));
    assert_no_replacements(&mut server, &workers);
    assert_eq!(server.log.count("taking over") + server.log.count(": scaled"), 0);
}

/// TERM so long after HUP. The daemon ends with 0, its clients see a FIN, and nobody is left.
fn stop_in_the_middle_of_a_reload(turn: &Turn, after: Duration) {
    let mut server = turn.start(&["--workers", "4"]);
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
fn term_at_any_point_of_a_reload_ends_everything_in_time() {
    let turn = Turn::shared();
    let server = turn.start(&["--workers", "4"]);
    let begin = Instant::now();
    server.signal(Signal::SIGHUP);
    let takes_over = server.log.wait_for(SOON, ": taking over ").at - begin;
    server.log.wait_for(SOON, ": reloaded ");
    server.stop();
    // Many moments of the check and of the exec, some of the first messages and of the last workers.
    for step in 0..80 {
        stop_in_the_middle_of_a_reload(&turn, takes_over * step / 80);
    }
    for step in 0..10 {
        stop_in_the_middle_of_a_reload(&turn, takes_over * (10 + step) / 10);
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
fn nobody_outlives_a_controller_that_is_killed_after_a_reload() {
    let turn = Turn::shared();
    let mut server = turn.start(&["--workers", "2"]);
    let mut busy = server.connect();
    busy.echo(1000);
    reload(&server);
    busy.echo(1000);
    kill_with_old_workers(&mut server, &mut busy);
    let port = server.port().to_string();
    // The port is free: another instance needs no --allow-shared-port.
    turn.launch(&["--port", &port, "--workers", "1"]).start().stop();
}

#[test]
fn nobody_outlives_a_controller_that_is_killed_during_a_reload() {
    let turn = Turn::shared();
    for milliseconds in [0, 2, 4, 6, 8, 10, 15, 20] {
        let mut server = turn.start(&["--workers", "4"]);
        server.signal(Signal::SIGHUP);
        thread::sleep(ms(milliseconds));
        server.signal(Signal::SIGKILL);
        server.wait_exit(secs(1));
        wait_until(secs(2), "no process is left", || server.family().is_empty());
    }
}

#[test]
fn a_worker_that_is_killed_during_a_reload_is_replaced_all_the_same() {
    let turn = Turn::shared();
    let server = turn.start(&["--workers", "4"]);
    for milliseconds in [0, 3, 6, 9, 12, 15] {
        let workers = server.workers();
        server.signal(Signal::SIGHUP);
        thread::sleep(ms(milliseconds));
        for &pid in workers.values() {
            // It may have retired already.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        wait_for_the_last_reload(&server);
        assert_all_new(&workers, &wait_settled(&server, 4));
        server.assert_echoes();
    }
    server.stop();
}
