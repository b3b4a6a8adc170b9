//! Whoever hangs in the course of a reload is waited for, but not for ever.

use std::time::Instant;

use nix::sys::signal::Signal;

use super::operator::builds::Installation;
use super::operator::{
    REFUSED, assert_given_up, assert_untouched, freeze, hang_up_and_wait, reload, wait_settled,
};
use super::support::{SOON, Server, Turn, alongside, assert_between, ms, proc, secs, wait_until};

#[test]
fn a_check_that_hangs_and_workers_that_never_get_ready_are_given_up_after_ten_seconds() {
    let turn = Turn::shared();
    let installations = [Installation::new(), Installation::new()];
    let [mut checking, mut booting] = installations.each_ref().map(|installation| {
        let launch = turn.launch(&["--workers", "2", "--graceful-timeout", "1s"]);
        launch.program(installation.program()).start()
    });
    installations[0].install_script("exec sleep 60");
    installations[1].install_with_fault("hang-at-boot:0");
    let begin = Instant::now();
    let (before, old) = (checking.workers(), booting.workers());
    let (refused, given_up) = alongside(
        |_| assert_given_up(&mut booting, &old, secs(15)),
        || {
            let line = hang_up_and_wait(&checking, secs(15), REFUSED);
            assert!(line.has("the check has taken too long"), "{line:?}");
            line.at
        },
    );
    assert_between("the limit of a check", refused - begin, ms(9900), secs(12));
    assert_between("the limit of a boot", given_up - begin, ms(9900), secs(12));
    assert_untouched(&mut checking, &before);
    assert_eq!(wait_settled(&checking, 2), before, "nobody is left of the check");
    installations[0].install_this();
    reload(&checking);
    [checking, booting].into_iter().for_each(Server::stop);
}

#[test]
fn term_during_a_check_that_hangs_leaves_nobody() {
    let turn = Turn::shared();
    let installation = Installation::new();
    let mut server = turn.launch(&["--workers", "2"]).program(installation.program()).start();
    installation.install_script("exec sleep 60");
    server.signal(Signal::SIGHUP);
    wait_until(SOON, "the check runs", || server.family().len() == 4);
    let begin = Instant::now();
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait_exit(SOON), Some(0));
    assert!(begin.elapsed() < secs(2), "nobody waits for the check: {:?}", begin.elapsed());
    // That the check has not survived is seen by the guard.
}

#[test]
fn a_stopped_old_worker_is_killed_after_the_drain_deadline() {
    let turn = Turn::shared();
    let server = turn.start(&["--workers", "2", "--drain-timeout", "1s"]);
    let old = server.worker();
    let mut client = server.connect();
    client.echo(100);
    freeze(old);
    let begin = Instant::now();
    reload(&server);
    wait_until(SOON, "the old worker is gone", || !proc::is_alive(old));
    assert!(begin.elapsed() < secs(4), "{:?}", begin.elapsed());
    wait_settled(&server, 2);
    server.assert_echoes();
    server.stop();
}
