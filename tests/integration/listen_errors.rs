//! Errors of listening: one line, an exit status, within a second.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use super::support::launch::{Launch, Outcome, binary};
use super::support::{TestLock, lack, secs, skip};

/// One line that begins with the program's name or with a log level, and says what is wrong.
#[track_caller]
fn assert_refused(outcome: &Outcome, names: &[&str]) {
    outcome.assert_one_line(1, names);
    assert!(outcome.took < secs(1), "within a second: {outcome:?}");
}

#[test]
fn a_port_in_use_by_another_program_is_named() {
    let lock = TestLock::shared();
    let other = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let port = other.local_addr().unwrap().port().to_string();
    let outcome = lock.launch(&["--port", &port, "--workers", "2"]).run();
    assert_refused(&outcome, &[&port, "in use"]);
}

#[test]
fn errors_are_printed_at_every_log_level_and_format() {
    let lock = TestLock::shared();
    let other = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let port = other.local_addr().unwrap().port().to_string();
    let refused = |more: &[&str]| {
        let outcome = lock.launch(&[&["--port", port.as_str()][..], more].concat()).run();
        assert_refused(&outcome, &[&port, "in use"]);
        outcome.stderr[0].clone()
    };
    refused(&["--log-level", "FATAL"]);
    let line = refused(&["--log-format", "json"]);
    let object: serde_json::Value = serde_json::from_str(&line).expect("also this line is JSON");
    assert_eq!(object["level"], "FATAL", "{line}");
}

#[test]
fn a_port_in_use_on_the_loopback_only_is_named() {
    let lock = TestLock::shared();
    let other = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = other.local_addr().unwrap().to_string();
    let outcome = lock.launch(&["--listen", &address, "--workers", "2"]).run();
    assert_refused(&outcome, &[&address, "in use"]);
}

#[test]
fn a_port_in_use_by_ipv6_is_named() {
    let lock = TestLock::shared();
    let Ok(other) = TcpListener::bind(SocketAddr::from((Ipv6Addr::LOCALHOST, 0))) else {
        return skip("this machine has no IPv6");
    };
    let port = other.local_addr().unwrap().port().to_string();
    let outcome = lock.launch(&["--port", &port, "--workers", "2"]).run();
    assert_refused(&outcome, &[&port, "in use"]);
}

#[test]
fn one_address_in_use_among_several_is_named() {
    let lock = TestLock::shared();
    let other = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = other.local_addr().unwrap().to_string();
    let args = ["--listen", "127.0.0.1:0", "--listen", &address, "--workers", "2"];
    assert_refused(&lock.launch(&args).run(), &[&address, "in use"]);
}

#[test]
fn a_non_local_address_is_named() {
    let lock = TestLock::shared();
    let outcome = lock.launch(&["--listen", "203.0.113.7:0", "--workers", "2"]).run();
    assert_refused(&outcome, &["203.0.113.7"]);
}

#[test]
fn a_privileged_port_without_the_capability_is_named() {
    let lock = TestLock::shared();
    let lowest = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    let lowest: u16 = lowest.map_or(1024, |text| text.trim().parse().unwrap());
    if lowest == 0 {
        return skip("every user may bind every port here");
    }
    let port = (lowest - 1).to_string();
    let arguments = ["--port", port.as_str(), "--workers", "2"];
    if !nix::unistd::geteuid().is_root() {
        return assert_refused(&lock.launch(&arguments).run(), &[&port, "ermission"]);
    }
    if Command::new("setpriv").arg("--version").output().is_err() {
        return lack("setpriv");
    }
    let directory = tempfile::tempdir().unwrap();
    let launch = unprivileged(lock.launch(&arguments), directory.path());
    assert_refused(&launch.run(), &[&port, "ermission"]);
}

/// A copy of the program that every user may run, started as an unprivileged user.
pub(super) fn unprivileged(launch: Launch, directory: &std::path::Path) -> Launch {
    let copy = directory.join("tcp-echo");
    // By another process: one that another test forks meanwhile would keep our descriptor open, and
    // a file that is open for writing cannot be executed.
    assert!(Command::new("cp").arg(binary()).arg(&copy).status().unwrap().success());
    for path in [directory, &copy] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let unprivileged = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"];
    launch.program(copy).under(&unprivileged)
}

#[test]
fn an_unprivileged_user_can_run_the_daemon() {
    let lock = TestLock::shared();
    if !nix::unistd::geteuid().is_root() {
        return skip("every other test shows it already");
    }
    if Command::new("setpriv").arg("--version").output().is_err() {
        return lack("setpriv");
    }
    let directory = tempfile::tempdir().unwrap();
    let server = unprivileged(lock.launch(&["--workers", "2"]), directory.path()).start();
    server.assert_echoes();
    server.stop();
}

#[test]
fn an_instance_of_another_user_on_the_same_port_is_rejected() {
    let lock = TestLock::shared();
    if !nix::unistd::geteuid().is_root() {
        return skip("only root can start instances of two users");
    }
    if Command::new("setpriv").arg("--version").output().is_err() {
        return lack("setpriv");
    }
    let directory = tempfile::tempdir().unwrap();
    for root_first in [true, false] {
        let launch = |args: &[&str], as_root: bool| match as_root {
            true => lock.launch(args),
            false => unprivileged(lock.launch(args), directory.path()),
        };
        // The kernel lets only processes of one user share a port, whatever they agree on.
        for share in [&[][..], &["--allow-shared-port"]] {
            let server = launch(&[&["--workers", "2"][..], share].concat(), root_first).start();
            let port = server.port().to_string();
            let local = format!("127.0.0.1:{port}");
            for address in [["--port", port.as_str()], ["--listen", &local]] {
                let args = [&["--workers", "2"][..], share, &address].concat();
                let outcome = launch(&args, !root_first).run();
                assert_refused(&outcome, &[&port, "cannot listen on", "address already in use"]);
            }
            (0..20).for_each(|_| server.assert_echoes());
            server.stop();
        }
    }
}
