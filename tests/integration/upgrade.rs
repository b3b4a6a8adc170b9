//! An upgrade is a reload with another file in the program's place; what is not fit to take over is
//! refused, and everything stays as it was.

use std::collections::BTreeMap;

use nix::sys::signal::Signal;

use super::operator::builds::Installation;
use super::operator::traffic::{TRANSFERS, under_traffic, under_visits};
use super::operator::{
    REFUSED, assert_all_new, assert_given_up, assert_untouched, descriptors_of, refused_reload,
    reload, twenty_reloads, wait_settled,
};
use super::support::{SOON, Server, Turn, wait_until};

fn start_installed(turn: &Turn, installation: &Installation) -> Server {
    turn.launch(&["--workers", "2", "--idle-timeout", "60", "--drain-spread", "1s"])
        .program(installation.program())
        .start()
}

#[test]
fn twenty_upgrades_under_traffic_lose_nothing() {
    let turn = Turn::alone();
    let installation = Installation::new();
    let (this, other) = installation.make_other();
    let mut server = start_installed(&turn, &installation);
    let before = server.workers();
    let descriptors = descriptors_of(server.controller());
    let ((), ledger) = under_traffic(server.address(), || {
        twenty_reloads(&server, |round| installation.install_for(round));
    });
    ledger.assert_nothing_lost();
    assert_eq!(ledger.transfers, TRANSFERS, "{ledger:?}");
    assert_eq!(server.exit_code(), None, "the controller is still the one that was started");
    // On a busy machine a build may be replaced during its check. The daemon rejects it then, and the next
    // signal starts another check.
    let mut refused = server.log.with(REFUSED);
    refused.retain(|line| !line.has("the program was replaced during its check"));
    assert!(refused.is_empty(), "each build is fit: {refused:?}");
    assert_eq!(server.log.count("given up"), 0);
    for (from, to) in [(&this, &other), (&other, &this)] {
        let upgrades = server.log.count(&format!(": taking over from={from} version={to}"));
        assert!(upgrades >= 5, "most of the 20 changed the version: {upgrades}");
        let reloaded = server.log.count(&format!(": reloaded version={to} "));
        assert!(reloaded >= 5, "{to} was up {reloaded} times");
    }
    let last = server.log.with(": reloaded ").pop().unwrap();
    assert!(last.has(&format!("version={this} ")), "the last one counts: {last:?}");
    assert_all_new(&before, &wait_settled(&server, 2));
    wait_until(SOON, "no descriptor is left over", || {
        descriptors_of(server.controller()) == descriptors
    });
    server.stop();
}

#[test]
fn the_log_says_which_build_serves() {
    let turn = Turn::shared();
    let installation = Installation::new();
    let (this, other) = installation.make_other();
    let server = start_installed(&turn, &installation);
    assert!(server.log.with("serving on")[0].has(&format!("version={this}")));
    installation.install_other();
    let line = reload(&server);
    assert!(line.has(&format!("version={other} ")), "{line:?}");
    server.log.wait_for(SOON, &format!(": taking over from={this} version={other}"));
    let path = installation.program().display().to_string();
    assert!(server.log.with(": reloading ")[0].has(&format!("program={path}")));
    server.assert_echoes();
    server.stop();
}

#[test]
fn an_old_worker_is_led_by_the_new_build_until_its_end() {
    let turn = Turn::shared();
    let installation = Installation::new();
    installation.make_other();
    // Long enough that the old worker does not close its idle connection during this test.
    let launch = turn.launch(&["--workers", "2", "--drain-spread", "24h"]);
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
    wait_until(SOON, "nobody is left of the check", || server.family().len() == 3);
}

#[test]
fn a_program_that_cannot_take_over_is_refused_and_everything_stays_as_it_was() {
    let turn = Turn::shared();
    let installation = Installation::new();
    let mut server = start_installed(&turn, &installation);
    let path = installation.program().display().to_string();
    let before = server.workers();
    let mut served = server.connect();
    let cases: [(&str, &[&str]); 6] = [
        ("exit 1", &["(exit code 1)"]),
        ("echo out of order >&2; echo more >&2; exit 3", &["out of order (exit code 3)"]),
        ("exit 0", &["it is no tcp-echo that could take over from this one"]),
        ("echo configuration is valid", &["it is no tcp-echo that could take over"]),
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
    assert_all_new(&before, &wait_settled(&server, 2));
    server.stop();
}

#[test]
fn a_program_that_is_replaced_during_its_check_is_not_run_unchecked() {
    let turn = Turn::shared();
    let installation = Installation::new();
    let mut server = start_installed(&turn, &installation);
    let original = installation.original().display().to_string();
    installation.install_script(&format!("sleep 0.5; exec {original} \"$@\""));
    server.signal(Signal::SIGHUP);
    server.log.wait_for(SOON, ": reloading ");
    // The check of the good one is under way. Somebody installs a bad one and reloads again.
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
fn a_build_whose_workers_crash_at_boot_is_given_up_and_the_old_ones_serve_on() {
    let turn = Turn::shared();
    let installation = Installation::new();
    let mut server = start_installed(&turn, &installation);
    let before = server.workers();
    installation.install_with_fault("crash-at-boot:0");
    let ((), ledger) = under_visits(server.address(), || {
        assert_given_up(&mut server, &before, SOON);
        // Whoever took over has the fault among its arguments, whatever is installed.
        assert_given_up(&mut server, &before, SOON);
    });
    ledger.assert_nothing_lost();
    assert_eq!(wait_settled(&server, 2), before);
    server.stop();
}
