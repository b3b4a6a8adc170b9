//! Upgrades: a reload that executes another build, and builds that are rejected.

use std::collections::BTreeMap;

use nix::sys::signal::Signal;

use super::support::builds::Installation;
use super::support::operations::{
    REFUSED, assert_all_new, assert_reload_aborted, assert_untouched, descriptors_of,
    refused_reload, reload, twenty_reloads, wait_for_workers,
};
use super::support::traffic::{TRANSFERS, under_short_exchanges, under_traffic};
use super::support::{SOON, Server, TestLock, wait_until};

fn start_installed(lock: &TestLock, installation: &Installation) -> Server {
    lock.launch(&["--workers", "2", "--idle-timeout", "60", "--drain-spread", "1s"])
        .program(installation.program())
        .start()
}

#[test]
fn twenty_upgrades_under_traffic_lose_nothing() {
    let lock = TestLock::exclusive();
    let installation = Installation::new();
    let (this, other) = installation.make_other();
    let mut server = start_installed(&lock, &installation);
    let before = server.workers();
    let descriptors = descriptors_of(server.controller());
    let ((), traffic) = under_traffic(server.address(), || {
        twenty_reloads(&server, |round| installation.install_for(round));
    });
    traffic.assert_nothing_lost();
    assert_eq!(traffic.transfers, TRANSFERS, "{traffic:?}");
    assert_eq!(server.exit_code(), None, "the controller is still the one that was started");
    // On a busy machine a build may be replaced during its check. The daemon rejects it then, and the next
    // signal starts another check.
    let mut refused = server.log.with(REFUSED);
    refused.retain(|line| !line.has("the program was replaced during its check"));
    assert!(refused.is_empty(), "each build is fit: {refused:?}");
    assert_eq!(server.log.count("reload aborted"), 0);
    for (from, to) in [(&this, &other), (&other, &this)] {
        let upgrades = server.log.count(&format!(": state restored from={from} version={to}"));
        assert!(upgrades >= 5, "most of the 20 changed the version: {upgrades}");
        let reloaded = server.log.count(&format!(": reloaded version={to} "));
        assert!(reloaded >= 5, "{to} was up {reloaded} times");
    }
    let last = server.log.with(": reloaded ").pop().unwrap();
    assert!(last.has(&format!("version={this} ")), "the last one counts: {last:?}");
    assert_all_new(&before, &wait_for_workers(&server, 2));
    wait_until(SOON, "no descriptor is left over", || {
        descriptors_of(server.controller()) == descriptors
    });
    server.stop();
}

#[test]
fn the_log_names_the_serving_build() {
    let lock = TestLock::shared();
    let installation = Installation::new();
    let (this, other) = installation.make_other();
    let server = start_installed(&lock, &installation);
    assert!(server.log.with("serving on")[0].has(&format!("version={this}")));
    installation.install_other();
    let line = reload(&server);
    assert!(line.has(&format!("version={other} ")), "{line:?}");
    server.log.wait_for(SOON, &format!(": state restored from={this} version={other}"));
    let path = installation.program().display().to_string();
    assert!(server.log.with(": reloading ")[0].has(&format!("program={path}")));
    server.assert_echoes();
    server.stop();
}

#[test]
fn the_new_build_supervises_an_old_worker_until_its_exit() {
    let lock = TestLock::shared();
    let installation = Installation::new();
    installation.make_other();
    // Long enough that the old worker does not close its idle connection during this test.
    let launch = lock.launch(&["--workers", "2", "--drain-spread", "24h"]);
    let mut server = launch.program(installation.program()).start();
    let mut veteran = server.connect();
    veteran.echo(1000);
    installation.install_other();
    reload(&server);
    installation.install_this();
    reload(&server);
    veteran.echo(1000);
    // Old workers without connections may exit after the reload is logged.
    wait_until(SOON, "the controller, two workers, and the old worker are left", || {
        server.family().len() == 4
    });
    server.signal(Signal::SIGUSR1);
    wait_until(SOON, "all three workers count their connections", || {
        server.log.count("Worker is currently handling (") == 3
    });
    server.signal(Signal::SIGTERM);
    veteran.expect_fin();
    drop(veteran);
    assert_eq!(server.wait_exit(SOON), Some(0));
}

/// A refused reload: the reason is logged, and everything is as it was.
fn assert_refused(server: &mut Server, before: &BTreeMap<u32, i32>, words: &[&str]) {
    let refusal = refused_reload(server);
    for word in words {
        assert!(refusal.has(word), "{word:?} in {refusal:?}");
    }
    assert_untouched(server, before);
    wait_until(SOON, "no process of the check is left", || server.family().len() == 3);
}

#[test]
fn an_incompatible_program_is_rejected_and_the_configuration_is_kept() {
    let lock = TestLock::shared();
    let installation = Installation::new();
    let mut server = start_installed(&lock, &installation);
    let path = installation.program().display().to_string();
    let before = server.workers();
    let mut served = server.connect();
    let cases: [(&str, &[&str]); 6] = [
        ("exit 1", &["(exit code 1)"]),
        ("echo out of order >&2; echo more >&2; exit 3", &["out of order (exit code 3)"]),
        ("exit 0", &["not a compatible tcp-echo binary"]),
        ("echo configuration is valid", &["not a compatible tcp-echo binary"]),
        ("kill -SEGV $$", &["(signal SIGSEGV)"]),
        ("sleep 0.1; seq 1234 9999 >&2; exit 1", &[": 1234 (exit code 1)"]),
    ];
    for (script, words) in cases {
        installation.install_script(script);
        assert_refused(&mut server, &before, words);
        served.echo(100);
    }
    installation.remove();
    assert_refused(&mut server, &before, &[&path, "No such file"]);
    installation.install_unexecutable();
    assert_refused(&mut server, &before, &[&path, "ermission denied"]);
    assert_eq!(server.log.with(REFUSED).pop().unwrap().number("failed"), Some(8));
    installation.install_this();
    reload(&server);
    served.finish();
    assert_all_new(&before, &wait_for_workers(&server, 2));
    server.stop();
}

#[test]
fn a_program_replaced_during_its_check_is_not_executed() {
    let lock = TestLock::shared();
    let installation = Installation::new();
    let mut server = start_installed(&lock, &installation);
    let original = installation.original().display().to_string();
    installation.install_script(&format!("sleep 0.5; exec {original} \"$@\""));
    server.signal(Signal::SIGHUP);
    server.log.wait_for(SOON, ": reloading ");
    // During the check of the good program, a bad one is installed and another reload requested.
    installation.install_script("exit 1");
    server.signal(Signal::SIGHUP);
    wait_until(SOON, "the bad one is refused", || {
        server.log.count(REFUSED) > 0 || server.exit_code().is_some()
    });
    assert_eq!(server.exit_code(), None, "the daemon never goes away");
    server.assert_echoes();
    server.stop();
}

#[test]
fn a_build_whose_workers_crash_at_startup_aborts_the_reload() {
    let lock = TestLock::shared();
    let installation = Installation::new();
    let mut server = start_installed(&lock, &installation);
    let before = server.workers();
    installation.install_with_fault("crash-at-boot:0");
    let ((), traffic) = under_short_exchanges(server.address(), || {
        assert_reload_aborted(&mut server, &before, SOON);
        // The new controller has the fault among its arguments, independent of the installed file.
        assert_reload_aborted(&mut server, &before, SOON);
    });
    traffic.assert_nothing_lost();
    assert_eq!(wait_for_workers(&server, 2), before);
    server.stop();
}
