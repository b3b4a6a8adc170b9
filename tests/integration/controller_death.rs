//! Death of the controller: no process remains, and the port can be used again.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::Mutex;
use std::sync::atomic::Ordering;

use nix::sys::signal::Signal;

use super::support::client::End;
use super::support::load::{LoadStats, connect_and_count};
use super::support::operations::free_port;
use super::support::{Client, SOON, TestLock, ms, proc, secs, wait_until, with_background};

/// Fails unless all these processes exit within two seconds.
#[track_caller]
fn assert_gone(pids: &[i32]) {
    let alive = || pids.iter().filter(|&&pid| proc::is_alive(pid)).count();
    wait_until(secs(2), "no process is left", || alive() == 0);
}

/// A bind without SO_REUSEPORT, as any other program would do it.
#[track_caller]
fn assert_port_is_free(port: u16) {
    let v6 = TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)));
    let refused = |error: &std::io::Error| error.kind() == std::io::ErrorKind::AddrInUse;
    assert!(!v6.as_ref().is_err_and(refused), "the port is free for IPv6: {v6:?}");
    drop(v6);
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).expect("the port is free for IPv4");
}

#[test]
fn no_process_outlives_a_killed_controller_and_its_port_is_free() {
    let lock = TestLock::shared();
    let mut server = lock.start(&["--workers", "4"]);
    let family: Vec<i32> = server.workers().into_values().collect();
    assert_eq!(family.len(), 4);
    server.signal(Signal::SIGKILL);
    assert_eq!(server.wait_exit(secs(1)), None, "a signal ended the controller");
    assert_gone(&family);
    assert_port_is_free(server.port());
}

#[test]
fn no_process_outlives_a_killed_controller_with_active_clients() {
    let lock = TestLock::shared();
    let mut server = lock.start(&["--workers", "2"]);
    let family: Vec<i32> = server.workers().into_values().collect();
    let mut idle = server.connect();
    idle.echo(100);
    let mut stalled = server.connect();
    stalled.send_until_stalled(ms(100), 32 << 20);
    server.signal(Signal::SIGKILL);
    server.wait_exit(secs(1));
    assert_gone(&family);
    assert_ne!(idle.end_within(secs(1)), End::Open, "the idle client learns of it");
    drop((idle, stalled));
    assert_port_is_free(server.port());
}

#[test]
fn a_starting_worker_does_not_outlive_a_killed_controller() {
    let lock = TestLock::shared();
    for serving in [true, false] {
        let fault = if serving { "hang-at-boot:2" } else { "hang-at-boot:0" };
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port())).to_string();
        let args = ["--workers", "2", "--listen", &address, "--fault", fault];
        let mut server = lock.launch(&args).start_unready();
        wait_until(SOON, "both workers are forked", || server.workers().len() == 2);
        if serving {
            server.log.wait_for(secs(15), "serving on");
        }
        // One that hangs is not ready, and nothing that it has set up by then can help it.
        let family: Vec<i32> = server.workers().into_values().collect();
        assert_eq!(family.len(), 2);
        server.signal(Signal::SIGKILL);
        assert_eq!(server.wait_exit(secs(1)), None, "a signal ended the controller");
        assert_gone(&family);
        wait_until(secs(2), "a replacement on its way is gone, too", || server.family().is_empty());
        TcpListener::bind(address).expect("the port is free");
    }
}

#[test]
fn no_process_outlives_a_controller_killed_together_with_a_worker() {
    let lock = TestLock::shared();
    let mut server = lock.start(&["--workers", "2"]);
    let family: Vec<i32> = server.workers().into_values().collect();
    // Both die in the same moment: neither can tidy up after the other.
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(family[0]), Signal::SIGKILL).unwrap();
    server.signal(Signal::SIGKILL);
    server.wait_exit(secs(1));
    assert_gone(&family);
    wait_until(secs(2), "a replacement on its way is gone, too", || server.family().is_empty());
    assert_port_is_free(server.port());
}

#[test]
fn a_second_instance_on_the_same_port_is_rejected_and_receives_no_traffic() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "2"]);
    let port = server.port().to_string();
    let load = Mutex::new(LoadStats::default());
    let (outcomes, ()) = with_background(
        |over| {
            while !over.load(Ordering::SeqCst) {
                connect_and_count(server.address(), &load);
            }
        },
        || {
            let second = || lock.launch(&["--port", &port, "--workers", "2"]).run();
            [second(), second(), second()]
        },
    );
    for outcome in outcomes {
        outcome.assert_one_line(1, &[&port, "--allow-shared-port"]);
        assert!(outcome.took < secs(1), "{outcome:?}");
    }
    load.into_inner().unwrap().assert_all_served();
    server.stop();
}

#[test]
fn a_second_instance_starts_with_allow_shared_port() {
    let lock = TestLock::shared();
    let first = lock.start(&["--workers", "1", "--allow-shared-port"]);
    let port = first.port().to_string();
    let args = ["--port", &port, "--workers", "1", "--allow-shared-port"];
    let second = lock.launch(&args).start();
    assert_eq!(second.port(), first.port());
    for _ in 0..20 {
        first.assert_echoes();
    }
    second.stop();
    first.assert_echoes();
    first.stop();
}

#[test]
fn a_restart_on_the_same_port_works_at_once() {
    let lock = TestLock::shared();
    let mut first = lock.start(&["--workers", "2"]);
    let port = first.port().to_string();
    // Connections that the server closes first linger in TIME_WAIT on its port.
    let goodbyes: Vec<Client> = (0..10).map(|_| first.connect()).collect();
    first.assert_echoes();
    first.signal(Signal::SIGTERM);
    for mut client in goodbyes {
        client.expect_fin();
    }
    assert_eq!(first.wait_exit(SOON), Some(0));
    let second = lock.launch(&["--port", &port, "--workers", "2"]).start();
    second.assert_echoes();
    second.stop();
}

#[test]
#[should_panic(expected = "these outlived the controller")]
fn the_server_guard_detects_leftover_processes() {
    let lock = TestLock::shared();
    let straggler = "sleep 60 & exec \"$0\" \"$@\"";
    lock.launch(&["--workers", "1"]).under_shell(straggler).start().stop();
}
