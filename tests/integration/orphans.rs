//! The controller's sudden death leaves nobody behind, and a second instance takes nothing away.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::Mutex;
use std::sync::atomic::Ordering;

use nix::sys::signal::Signal;

use super::operator::free_port;
use super::support::client::End;
use super::support::load::{Tally, one_visit};
use super::support::{Client, SOON, Turn, alongside, ms, proc, secs, wait_until};

/// Nobody of these lives any more, within the two seconds that are promised.
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
fn nobody_outlives_a_killed_controller_and_its_port_is_free() {
    let turn = Turn::shared();
    let mut server = turn.start(&["--workers", "4"]);
    let family: Vec<i32> = server.workers().into_values().collect();
    assert_eq!(family.len(), 4);
    server.signal(Signal::SIGKILL);
    assert_eq!(server.wait_exit(secs(1)), None, "a signal ended the controller");
    assert_gone(&family);
    assert_port_is_free(server.port());
}

#[test]
fn nobody_outlives_a_killed_controller_even_with_clients_in_the_middle_of_something() {
    let turn = Turn::shared();
    let mut server = turn.start(&["--workers", "2"]);
    let family: Vec<i32> = server.workers().into_values().collect();
    let mut idle = server.connect();
    idle.echo(100);
    let mut deaf = server.connect();
    deaf.send_until_stuck(ms(100), 32 << 20);
    server.signal(Signal::SIGKILL);
    server.wait_exit(secs(1));
    assert_gone(&family);
    assert_ne!(idle.end_within(secs(1)), End::Open, "the idle client learns of it");
    drop((idle, deaf));
    assert_port_is_free(server.port());
}

#[test]
fn a_worker_that_boots_does_not_outlive_a_killed_controller() {
    let turn = Turn::shared();
    for serving in [true, false] {
        let fault = if serving { "hang-at-boot:2" } else { "hang-at-boot:0" };
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port())).to_string();
        let args = ["--workers", "2", "--listen", &address, "--fault", fault];
        let mut server = turn.launch(&args).start_unready();
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
fn nobody_outlives_a_controller_that_dies_in_the_same_moment_as_a_worker() {
    let turn = Turn::shared();
    let mut server = turn.start(&["--workers", "2"]);
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
fn a_second_instance_on_the_same_port_is_refused_and_steals_no_traffic() {
    let turn = Turn::shared();
    let server = turn.start(&["--workers", "2"]);
    let port = server.port().to_string();
    let tally = Mutex::new(Tally::default());
    let (outcomes, ()) = alongside(
        |over| {
            while !over.load(Ordering::SeqCst) {
                one_visit(server.address(), &tally);
            }
        },
        || {
            let second = || turn.launch(&["--port", &port, "--workers", "2"]).run();
            [second(), second(), second()]
        },
    );
    for outcome in outcomes {
        outcome.assert_one_line(1, &[&port, "--allow-shared-port"]);
        assert!(outcome.took < secs(1), "{outcome:?}");
    }
    tally.into_inner().unwrap().assert_unnoticed();
    server.stop();
}

#[test]
fn a_second_instance_starts_with_allow_shared_port() {
    let turn = Turn::shared();
    let first = turn.start(&["--workers", "1", "--allow-shared-port"]);
    let port = first.port().to_string();
    let args = ["--port", &port, "--workers", "1", "--allow-shared-port"];
    let second = turn.launch(&args).start();
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
    let turn = Turn::shared();
    let mut first = turn.start(&["--workers", "2"]);
    let port = first.port().to_string();
    // Connections that the server closes first linger in TIME_WAIT on its port.
    let goodbyes: Vec<Client> = (0..10).map(|_| first.connect()).collect();
    first.assert_echoes();
    first.signal(Signal::SIGTERM);
    for mut client in goodbyes {
        client.expect_fin();
    }
    assert_eq!(first.wait_exit(SOON), Some(0));
    let second = turn.launch(&["--port", &port, "--workers", "2"]).start();
    second.assert_echoes();
    second.stop();
}

#[test]
#[should_panic(expected = "these outlived the controller")]
fn the_guard_of_this_suite_notices_whoever_is_left() {
    let turn = Turn::shared();
    let straggler = "sleep 60 & exec \"$0\" \"$@\"";
    turn.launch(&["--workers", "1"]).under_shell(straggler).start().stop();
}
