//! Sockets from outside: a socket unit's, and our own that a service manager has kept.

use std::net::{SocketAddr, TcpListener};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::operator::manager::{Manager, group, pass};
use super::operator::traffic::under_visits;
use super::operator::{assert_all_new, freeze, reload, strike, wait_settled};
use super::support::{Client, SOON, Server, Turn, proc, secs, wait_until};

/// The sockets that the workers listen on, by their identities, slot by slot.
fn inodes(server: &Server) -> Vec<Vec<u64>> {
    let of_worker = |pid: i32| {
        let mut own: Vec<u64> = proc::listeners_of(pid).iter().map(|one| one.inode).collect();
        own.sort();
        own
    };
    server.workers().into_values().map(of_worker).collect()
}

#[test]
fn one_passed_socket_is_shared_by_all_workers() {
    let turn = Turn::alone();
    let socket = [TcpListener::bind("127.0.0.1:0").unwrap()];
    let address = socket[0].local_addr().unwrap();
    // Somebody came before the daemon did.
    let mut early = Client::connect(address);
    early.send(1000);
    let mut server = pass(&socket, turn.launch(&["--workers", "3"])).start();
    assert_eq!(server.addresses(), [address], "it replaces --port");
    early.expect(1000);
    early.finish();
    let shared = inodes(&server);
    assert_eq!((shared.len(), shared[0].len()), (3, 1), "{shared:?}");
    assert!(shared.iter().all(|one| one == &shared[0]), "{shared:?}");
    let before = server.workers();
    let ((), ledger) = under_visits(address, || {
        reload(&server);
        let victim = server.logged_workers()[&2];
        kill(Pid::from_raw(victim), Signal::SIGSTOP).unwrap();
        reload(&server);
        kill(Pid::from_raw(victim), Signal::SIGCONT).unwrap();
    });
    ledger.assert_nothing_lost();
    assert_all_new(&before, &wait_settled(&server, 3));
    assert_eq!(inodes(&server), shared, "the same socket after a reload");
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait_exit(SOON), Some(0));
    // It is the manager's, too, and so still there: whoever comes waits for the next start.
    Client::connect(address);
}

#[test]
fn as_many_passed_sockets_as_workers_are_one_each() {
    let turn = Turn::alone();
    let sockets = group(SocketAddr::from(([127, 0, 0, 1], 0)), 3);
    let address = sockets[0].local_addr().unwrap();
    let server = pass(&sockets, turn.launch(&["--workers", "3"])).start();
    assert_eq!(server.addresses(), [address]);
    let mut own = inodes(&server).concat();
    own.sort();
    own.dedup();
    assert_eq!(own.len(), 3, "each worker has one of its own");
    (0..60).for_each(|_| server.assert_echoes());
    let before = inodes(&server);
    reload(&server);
    wait_settled(&server, 3);
    assert_eq!(inodes(&server), before, "and its successor has the same");
    for worker in server.workers().into_values() {
        kill(Pid::from_raw(worker), Signal::SIGKILL).unwrap();
        (0..10).for_each(|_| server.assert_echoes());
    }
    server.stop();
}

#[test]
fn passed_sockets_of_several_addresses_are_all_served_by_everybody() {
    let turn = Turn::alone();
    let sockets = ["127.0.0.1:0", "127.0.0.2:0", "[::1]:0"].map(TcpListener::bind);
    let sockets: Vec<TcpListener> = sockets.into_iter().flatten().collect();
    let server = pass(&sockets, turn.launch(&["--workers", "2"])).start();
    for socket in &sockets {
        let address = socket.local_addr().unwrap();
        assert!(server.addresses().contains(&address), "{address} is named");
        (0..10).for_each(|_| _ = Client::connect(address).echo(100));
    }
    let counts: Vec<usize> = inodes(&server).iter().map(Vec::len).collect();
    assert_eq!(counts, [sockets.len(); 2], "each of two workers has all of them");
    server.stop();
}

#[test]
fn sockets_that_are_meant_for_another_process_are_left_alone() {
    let turn = Turn::shared();
    let launch = turn.launch(&["--workers", "1"]).env("LISTEN_FDS", "1").env("LISTEN_PID", "1");
    launch.start().stop();
}

#[test]
fn what_is_no_listening_socket_is_refused() {
    let turn = Turn::shared();
    let line = "exec 3</dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$0\" \"$@\"";
    let outcome = turn.launch(&["--workers", "1"]).under_shell(line).run();
    outcome.assert_one_line(1, &["descriptor 3", "LISTEN_FDS"]);
}

/// Kills all of a daemon's workers while its controller cannot replace them, lets connections come,
/// and kills the controller, too.
fn die_with_full_queues(mut server: Server) -> Vec<Client> {
    freeze(server.controller());
    for worker in server.workers().into_values() {
        strike(worker, Signal::SIGKILL);
        wait_until(SOON, "the worker is dead", || !proc::is_alive(worker));
    }
    let mut queued: Vec<Client> = (0..40).map(|_| server.connect()).collect();
    queued.iter_mut().for_each(|client| client.send(1000));
    server.signal(Signal::SIGKILL);
    server.wait_exit(secs(1));
    wait_until(secs(2), "nobody is left", || server.family().is_empty());
    queued
}

#[test]
fn queued_connections_survive_the_controllers_death_in_the_managers_store() {
    let turn = Turn::alone();
    // As many workers as before, and one more.
    for workers in ["2", "3"] {
        let mut manager = Manager::at_path();
        let server = manager.watch(turn.launch(&["--workers", "2"])).start();
        manager.store_until_ready();
        let mut names = manager.stored_names();
        names.sort();
        assert_eq!(names, ["slot-1-0", "slot-2-0"]);
        let address = server.address();
        let slots = inodes(&server);
        let mut queued = die_with_full_queues(server);
        // Nobody is there, and nobody is refused.
        queued.extend((0..10).map(|_| Client::connect(address)));
        queued[40..].iter_mut().for_each(|client| client.send(1000));
        let next = manager.pass_stored(turn.launch(&["--workers", workers])).start();
        queued.iter_mut().for_each(|client| client.expect(1000));
        queued.into_iter().for_each(Client::finish);
        assert_eq!(inodes(&next)[..2], slots, "each slot has got its own socket back");
        (0..20).for_each(|_| _ = Client::connect(address).echo(100));
        next.stop();
    }
}
