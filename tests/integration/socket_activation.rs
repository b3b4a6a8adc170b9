//! Socket activation: sockets of a socket unit, and sockets from the service manager's store.

use std::net::{SocketAddr, TcpListener};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::support::operations::{assert_all_new, freeze, reload, send_signal, wait_for_workers};
use super::support::service_manager::{Manager, pass, reuseport_group};
use super::support::traffic::under_short_exchanges;
use super::support::{Client, SOON, Server, TestLock, proc, secs, wait_until};

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
    let lock = TestLock::exclusive();
    let socket = [TcpListener::bind("127.0.0.1:0").unwrap()];
    let address = socket[0].local_addr().unwrap();
    // A client connected before the daemon started.
    let mut early = Client::connect(address);
    early.send(1000);
    let mut server = pass(&socket, lock.launch(&["--workers", "3"])).start();
    assert_eq!(server.addresses(), [address], "it replaces --port");
    early.expect(1000);
    early.finish();
    let shared = inodes(&server);
    assert_eq!((shared.len(), shared[0].len()), (3, 1), "{shared:?}");
    assert!(shared.iter().all(|one| one == &shared[0]), "{shared:?}");
    let before = server.workers();
    let ((), traffic) = under_short_exchanges(address, || {
        reload(&server);
        let victim = server.logged_workers()[&2];
        kill(Pid::from_raw(victim), Signal::SIGSTOP).unwrap();
        reload(&server);
        kill(Pid::from_raw(victim), Signal::SIGCONT).unwrap();
    });
    traffic.assert_nothing_lost();
    assert_all_new(&before, &wait_for_workers(&server, 3));
    assert_eq!(inodes(&server), shared, "the same socket after a reload");
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait_exit(SOON), Some(0));
    // The manager holds the socket, too: new clients wait for the next start.
    Client::connect(address);
}

#[test]
fn with_a_passed_socket_per_worker_each_serves_one() {
    let lock = TestLock::exclusive();
    let sockets = reuseport_group(SocketAddr::from(([127, 0, 0, 1], 0)), 3);
    let address = sockets[0].local_addr().unwrap();
    let server = pass(&sockets, lock.launch(&["--workers", "3"])).start();
    assert_eq!(server.addresses(), [address]);
    let mut own = inodes(&server).concat();
    own.sort();
    own.dedup();
    assert_eq!(own.len(), 3, "each worker has one of its own");
    (0..60).for_each(|_| server.assert_echoes());
    let before = inodes(&server);
    reload(&server);
    wait_for_workers(&server, 3);
    assert_eq!(inodes(&server), before, "and its successor has the same");
    for worker in server.workers().into_values() {
        kill(Pid::from_raw(worker), Signal::SIGKILL).unwrap();
        (0..10).for_each(|_| server.assert_echoes());
    }
    server.stop();
}

#[test]
fn passed_sockets_of_several_addresses_are_served_by_all_workers() {
    let lock = TestLock::exclusive();
    let sockets = ["127.0.0.1:0", "127.0.0.2:0", "[::1]:0"].map(TcpListener::bind);
    let sockets: Vec<TcpListener> = sockets.into_iter().flatten().collect();
    let server = pass(&sockets, lock.launch(&["--workers", "2"])).start();
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
fn sockets_passed_to_another_process_are_ignored() {
    let lock = TestLock::shared();
    let launch = lock.launch(&["--workers", "1"]).env("LISTEN_FDS", "1").env("LISTEN_PID", "1");
    launch.start().stop();
}

#[test]
fn a_passed_socket_that_does_not_listen_is_rejected() {
    let lock = TestLock::shared();
    let line = "exec 3</dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$0\" \"$@\"";
    let outcome = lock.launch(&["--workers", "1"]).under_shell(line).run();
    outcome.assert_one_line(1, &["descriptor 3", "LISTEN_FDS"]);
}

/// Kills all of a daemon's workers while its controller cannot replace them, lets connections come,
/// and kills the controller, too.
fn die_with_full_queues(mut server: Server) -> Vec<Client> {
    freeze(server.controller());
    for worker in server.workers().into_values() {
        send_signal(worker, Signal::SIGKILL);
        wait_until(SOON, "the worker is dead", || !proc::is_alive(worker));
    }
    let mut queued: Vec<Client> = (0..40).map(|_| server.connect()).collect();
    queued.iter_mut().for_each(|client| client.send(1000));
    server.signal(Signal::SIGKILL);
    server.wait_exit(secs(1));
    wait_until(secs(2), "no process is left", || server.family().is_empty());
    queued
}

#[test]
fn queued_connections_survive_the_controllers_death_in_the_fd_store() {
    let lock = TestLock::exclusive();
    // As many workers as before, and one more.
    for workers in ["2", "3"] {
        let mut manager = Manager::at_path();
        let server = manager.watch(lock.launch(&["--workers", "2"])).start();
        manager.store_until_ready();
        let mut names = manager.stored_names();
        names.sort();
        assert_eq!(names, ["slot-1-0", "slot-2-0"]);
        let address = server.address();
        let slots = inodes(&server);
        let mut queued = die_with_full_queues(server);
        // No process accepts, and no client is refused.
        queued.extend((0..10).map(|_| Client::connect(address)));
        queued[40..].iter_mut().for_each(|client| client.send(1000));
        let next = manager.pass_stored(lock.launch(&["--workers", workers])).start();
        queued.iter_mut().for_each(|client| client.expect(1000));
        queued.into_iter().for_each(Client::finish);
        assert_eq!(inodes(&next)[..2], slots, "each slot has got its own socket back");
        (0..20).for_each(|_| _ = Client::connect(address).echo(100));
        next.stop();
    }
}
