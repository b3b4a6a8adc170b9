//! The same as an unprivileged user, and as PID 1 of a pid namespace.

use std::thread;
use std::time::Instant;

use nix::sys::signal::Signal;

use super::operator::builds::Installation;
use super::operator::traffic::under_traffic;
use super::operator::{
    REFUSED, assert_all_new, descriptors_of, freeze, hang_up_and_wait, refused_reload, reload,
    strike, wait_settled,
};
use super::support::{SOON, Server, Turn, assert_between, ms, permitted, secs, wait_until};

/// `unshare` with what makes its first process PID 1 of a new namespace.
const NAMESPACE: [&str; 5] = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"];

/// `setpriv` with what makes a process nobody's.
const NOBODY: [&str; 6] = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"];

const ARGS: [&str; 6] = ["--workers", "2", "--idle-timeout", "60", "--drain-spread", "500ms"];

fn is_impossible(wrapper: &[&str]) -> bool {
    !permitted(&[wrapper, &["true"]].concat())
}

/// Starts what is installed as nobody; nothing where that is not permitted.
fn start_as_nobody(turn: &Turn, installation: &Installation) -> Option<Server> {
    if is_impossible(&NOBODY) {
        return None;
    }
    let launch = turn.launch(&ARGS).program(installation.program());
    let server = launch.under(&NOBODY).start();
    let path = format!("/proc/{}/status", server.controller());
    let status = std::fs::read_to_string(path).unwrap();
    assert!(status.lines().any(|line| line.starts_with("Uid:\t65534\t65534\t65534\t65534")));
    Some(server)
}

/// Starts what is installed as PID 1; nothing where that is not permitted.
fn start_as_pid_one(turn: &Turn, installation: &Installation) -> Option<Server> {
    if is_impossible(&NAMESPACE) {
        return None;
    }
    let launch = turn.launch(&ARGS).program(installation.program());
    let mut server = launch.under(&NAMESPACE).start_unready();
    server.wait_serving(SOON);
    server.controller_is_inside();
    assert!(server.log.count("controller[1]") > 0, "it really is PID 1");
    Some(server)
}

/// Only the controller, its wrapper if it has one, and its two workers are left.
#[track_caller]
fn wait_for_two(server: &Server, wrappers: usize) {
    wait_until(SOON, "two workers and nobody else", || {
        server.workers().len() == 2 && server.family().len() == 3 + wrappers
    });
}

/// Reloads, upgrades and scales under traffic; nothing is lost.
fn operate(server: &mut Server, installation: &Installation, wrappers: usize) {
    let (this, other) = installation.make_other();
    let before = server.workers();
    let descriptors = descriptors_of(server.controller());
    let ((), ledger) = under_traffic(server.address(), || {
        for round in 0..2 {
            installation.install_for(round);
            reload(server);
            server.signal(if round % 2 == 0 { Signal::SIGTTIN } else { Signal::SIGTTOU });
            thread::sleep(ms(200));
        }
        reload(server);
    });
    ledger.assert_nothing_lost();
    assert_eq!(server.exit_code(), None, "the controller is still the one that was started");
    assert_eq!(server.log.count(&format!("taking over from={this} version={other}")), 1);
    assert_eq!(server.log.count(REFUSED) + server.log.count("given up"), 0);
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
    hang_up_and_wait(server, SOON, "reload given up");
    assert_eq!(server.workers(), before, "the old ones stay");
    freeze(before[&2]);
    let begin = Instant::now();
    server.log.wait_for(SOON, "worker does not respond");
    assert_between("time to notice", begin.elapsed(), ms(0), secs(2));
    (0..40).for_each(|_| server.assert_echoes());
    assert!(begin.elapsed() < secs(3), "nobody stalls: {:?}", begin.elapsed());
    strike(before[&2], Signal::SIGCONT);
    server.log.wait_for(SOON, "worker responds again");
}

#[test]
fn an_unprivileged_user_reloads_upgrades_and_scales_without_a_loss() {
    let turn = Turn::alone();
    let installation = Installation::new();
    let Some(mut server) = start_as_nobody(&turn, &installation) else { return };
    operate(&mut server, &installation, 0);
    endure(&server, &installation);
    wait_settled(&server, 2);
    server.stop();
}

#[test]
fn pid_one_reloads_upgrades_and_scales_without_a_loss() {
    let turn = Turn::alone();
    let installation = Installation::new();
    let Some(mut server) = start_as_pid_one(&turn, &installation) else { return };
    operate(&mut server, &installation, 1);
    endure(&server, &installation);
    server.stop();
}
