//! Timeouts of a reload: hung checks, unready workers, and stopped old workers.

use std::time::Instant;

use nix::sys::signal::Signal;

use super::support::builds::Installation;
use super::support::operations::{
    REFUSED, assert_reload_aborted, assert_untouched, freeze, reload, sighup_and_wait,
    wait_for_workers,
};
use super::support::{
    SOON, Server, TestLock, assert_between, ms, proc, secs, wait_until, with_background,
};

#[test]
fn hung_checks_and_unready_workers_abort_the_reload_after_ten_seconds() {
    let lock = TestLock::shared();
    let installations = [Installation::new(), Installation::new()];
    let [mut checking, mut booting] = installations.each_ref().map(|installation| {
        let launch = lock.launch(&["--workers", "2", "--graceful-timeout", "1s"]);
        launch.program(installation.program()).start()
    });
    installations[0].install_script("exec sleep 60");
    installations[1].install_with_fault("hang-at-boot:0");
    let begin = Instant::now();
    let (before, old) = (checking.workers(), booting.workers());
    let (refused, given_up) = with_background(
        |_| assert_reload_aborted(&mut booting, &old, secs(15)),
        || {
            let line = sighup_and_wait(&checking, secs(15), REFUSED);
            assert!(line.has("configuration check timed out"), "{line:?}");
            line.at
        },
    );
    assert_between("the limit of a check", refused - begin, ms(9900), secs(12));
    assert_between("the limit of a boot", given_up - begin, ms(9900), secs(12));
    assert_untouched(&mut checking, &before);
    assert_eq!(wait_for_workers(&checking, 2), before, "no process of the check is left");
    installations[0].install_this();
    reload(&checking);
    [checking, booting].into_iter().for_each(Server::stop);
}

#[test]
fn term_during_a_hung_check_leaves_no_process() {
    let lock = TestLock::shared();
    let installation = Installation::new();
    let mut server = lock.launch(&["--workers", "2"]).program(installation.program()).start();
    installation.install_script("exec sleep 60");
    server.signal(Signal::SIGHUP);
    wait_until(SOON, "the check runs", || server.family().len() == 4);
    let begin = Instant::now();
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait_exit(SOON), Some(0));
    assert!(begin.elapsed() < secs(2), "TERM does not wait for the check: {:?}", begin.elapsed());
    // That the check has not survived is seen by the guard.
}

#[test]
fn a_stopped_old_worker_is_killed_after_the_drain_timeout() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "2", "--drain-timeout", "1s"]);
    let old = server.worker();
    let mut client = server.connect();
    client.echo(100);
    freeze(old);
    let begin = Instant::now();
    reload(&server);
    wait_until(SOON, "the old worker is gone", || !proc::is_alive(old));
    assert!(begin.elapsed() < secs(4), "{:?}", begin.elapsed());
    wait_for_workers(&server, 2);
    server.assert_echoes();
    server.stop();
}
