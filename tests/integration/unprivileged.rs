//! Reloads, upgrades, and scaling as an unprivileged user and as PID 1 of a namespace.

use std::thread;
use std::time::Instant;

use nix::sys::signal::Signal;

use super::support::builds::Installation;
use super::support::operations::{
    REFUSED, assert_all_new, descriptors_of, freeze, refused_reload, reload, send_signal,
    sighup_and_wait, wait_for_workers,
};
use super::support::traffic::under_traffic;
use super::support::{SOON, Server, TestLock, assert_between, ms, permitted, secs, wait_until};

/// `unshare` with what makes its first process PID 1 of a new namespace.
const NAMESPACE: [&str; 5] = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"];

/// Wrapper that runs a command as user 65534 without privileges.
const UNPRIVILEGED: [&str; 6] =
    ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"];

const ARGS: [&str; 6] = ["--workers", "2", "--idle-timeout", "60", "--drain-spread", "500ms"];

fn is_impossible(wrapper: &[&str]) -> bool {
    !permitted(&[wrapper, &["true"]].concat())
}

/// Starts the installed program without privileges; `None` if that is not permitted.
fn start_unprivileged(lock: &TestLock, installation: &Installation) -> Option<Server> {
    if is_impossible(&UNPRIVILEGED) {
        return None;
    }
    let launch = lock.launch(&ARGS).program(installation.program());
    let server = launch.under(&UNPRIVILEGED).start();
    let path = format!("/proc/{}/status", server.controller());
    let status = std::fs::read_to_string(path).unwrap();
    assert!(status.lines().any(|line| line.starts_with("Uid:\t65534\t65534\t65534\t65534")));
    Some(server)
}

/// Starts what is installed as PID 1; nothing where that is not permitted.
fn start_as_pid_one(lock: &TestLock, installation: &Installation) -> Option<Server> {
    if is_impossible(&NAMESPACE) {
        return None;
    }
    let launch = lock.launch(&ARGS).program(installation.program());
    let mut server = launch.under(&NAMESPACE).start_unready();
    server.wait_serving(SOON);
    server.controller_is_inside();
    assert!(server.log.count("controller[1]") > 0, "it really is PID 1");
    Some(server)
}

/// Only the controller, its wrapper if it has one, and its two workers are left.
#[track_caller]
fn wait_for_two(server: &Server, wrappers: usize) {
    wait_until(SOON, "two workers and no other process", || {
        server.workers().len() == 2 && server.family().len() == 3 + wrappers
    });
}

/// Reloads, upgrades and scales under traffic; nothing is lost.
fn operate(server: &mut Server, installation: &Installation, wrappers: usize) {
    let (this, other) = installation.make_other();
    let before = server.workers();
    let descriptors = descriptors_of(server.controller());
    let ((), traffic) = under_traffic(server.address(), || {
        for round in 0..2 {
            installation.install_for(round);
            reload(server);
            server.signal(if round % 2 == 0 { Signal::SIGTTIN } else { Signal::SIGTTOU });
            thread::sleep(ms(200));
        }
        reload(server);
    });
    traffic.assert_nothing_lost();
    assert_eq!(server.exit_code(), None, "the controller is still the one that was started");
    assert_eq!(server.log.count(&format!("state restored from={this} version={other}")), 1);
    assert_eq!(server.log.count(REFUSED) + server.log.count("reload aborted"), 0);
    wait_for_two(server, wrappers);
    assert_all_new(&before, &server.workers());
    wait_until(SOON, "no descriptor is left over", || {
        descriptors_of(server.controller()) == descriptors
    });
}

/// Refuses what is not fit, and avoids a worker that stands still.
fn endure(server: &Server, installation: &Installation) {
    let before = server.workers();
    installation.install_script("exit 1");
    assert!(refused_reload(server).has("(exit code 1)"));
    installation.install_with_fault("crash-at-boot:0");
    sighup_and_wait(server, SOON, "reload aborted");
    assert_eq!(server.workers(), before, "the old ones stay");
    freeze(before[&2]);
    let begin = Instant::now();
    server.log.wait_for(SOON, "worker unresponsive");
    assert_between("time to notice", begin.elapsed(), ms(0), secs(2));
    (0..40).for_each(|_| server.assert_echoes());
    assert!(begin.elapsed() < secs(3), "no client stalls: {:?}", begin.elapsed());
    send_signal(before[&2], Signal::SIGCONT);
    server.log.wait_for(SOON, "worker responsive again");
}

#[test]
fn an_unprivileged_daemon_reloads_upgrades_and_scales_without_loss() {
    let lock = TestLock::exclusive();
    let installation = Installation::new();
    let Some(mut server) = start_unprivileged(&lock, &installation) else { return };
    operate(&mut server, &installation, 0);
    endure(&server, &installation);
    wait_for_workers(&server, 2);
    server.stop();
}

#[test]
fn pid_one_reloads_upgrades_and_scales_without_loss() {
    let lock = TestLock::exclusive();
    let installation = Installation::new();
    let Some(mut server) = start_as_pid_one(&lock, &installation) else { return };
    operate(&mut server, &installation, 1);
    endure(&server, &installation);
    server.stop();
}
