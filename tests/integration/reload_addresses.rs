//! Reloads that change the addresses: new ones open, removed ones drain.

use std::net::{SocketAddr, TcpListener};

use nix::sys::signal::Signal;

use super::support::operations::{
    ConfigFile, assert_all_new, assert_untouched, descriptors_of, free_port, freeze,
    refused_reload, reload, send_signal, wait_for_workers,
};
use super::support::traffic::{finish, under_short_exchanges};
use super::support::{Client, SOON, Server, TestLock, proc, secs, wait_until};

pub(super) fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn text(addresses: &[SocketAddr]) -> String {
    let list: Vec<String> = addresses.iter().map(|address| format!("\"{address}\"")).collect();
    format!("workers = 2\nidle-timeout = 60\ndrain-spread = 60\nlisten = [{}]\n", list.join(", "))
}

/// A server that listens where its file says, and nowhere else.
fn start_at(lock: &TestLock, file: &ConfigFile, addresses: &[SocketAddr]) -> Server {
    file.write(&text(addresses));
    let server = lock.start(&["--config", file.name()]);
    assert_eq!(server.addresses(), addresses);
    server
}

/// Waits until every worker listens at these addresses and no others.
#[track_caller]
fn assert_listens_at(server: &Server, addresses: &[SocketAddr]) {
    for pid in wait_for_workers(server, 2).into_values() {
        let mut found: Vec<_> = proc::listeners_of(pid).iter().map(|one| one.local).collect();
        found.sort();
        assert_eq!(found, addresses, "where a worker listens");
    }
    let mut found: Vec<_> =
        proc::listeners_of(server.controller()).iter().map(|one| one.local).collect();
    found.sort();
    found.dedup();
    assert_eq!(found, addresses, "what the controller keeps");
}

#[track_caller]
pub(super) fn assert_closed(address: SocketAddr) {
    let refused = || Client::try_connect(address).is_err_and(|e| e.raw_os_error() == Some(111));
    wait_until(SOON, "no socket listens there", refused);
    TcpListener::bind(address).expect("the old address is free for others");
}

#[test]
fn an_address_restored_while_it_drains_is_kept() {
    let lock = TestLock::shared();
    let (stays, comes_back) = (local(free_port()), local(free_port()));
    let both = [stays.min(comes_back), stays.max(comes_back)];
    let file = ConfigFile::new("");
    let server = start_at(&lock, &file, &both);
    file.write(&text(&[stays]));
    reload(&server);
    // Its queues are open for one more second.
    file.write(&text(&both));
    reload(&server);
    assert_eq!(server.log.count("reload rejected"), 0);
    assert_listens_at(&server, &both);
    for address in both {
        Client::connect(address).echo(100);
    }
    server.stop();
}

#[test]
fn the_new_address_opens_and_the_old_one_drains() {
    let lock = TestLock::shared();
    let (old, new) = (local(free_port()), local(free_port()));
    let file = ConfigFile::new("");
    let server = start_at(&lock, &file, &[old]);
    let before = server.workers();
    // One that is being served, one that is half-way through a line, and twenty in the queues.
    let mut served = Client::connect(old);
    served.echo(1000);
    before.values().for_each(|&pid| freeze(pid));
    served.send(100_000);
    let mut queued: Vec<Client> = (0..20).map(|_| Client::connect(old)).collect();
    queued.iter_mut().for_each(|client| client.send(1000));
    file.write(&text(&[new]));
    reload(&server);
    (0..10).for_each(|_| _ = Client::connect(new).echo(100));
    before.values().for_each(|&pid| send_signal(pid, Signal::SIGCONT));
    served.expect(100_000);
    queued.iter_mut().for_each(|client| client.expect(1000));
    assert_closed(old);
    // They are served to the end, although no socket listens there.
    served.echo(1000);
    queued.into_iter().chain([served]).for_each(|client| finish(client).expect("in order"));
    assert_listens_at(&server, &[new]);
    assert_all_new(&before, &server.workers());
    server.stop();
}

#[test]
fn a_kept_address_loses_nothing_while_others_change() {
    let lock = TestLock::shared();
    let [stays, first, second] = [(); 3].map(|()| local(free_port()));
    let file = ConfigFile::new("");
    let server = start_at(&lock, &file, &[first.min(stays), first.max(stays)]);
    let descriptors = descriptors_of(server.controller());
    let ((), traffic) = under_short_exchanges(stays, || {
        for other in [second, first] {
            // The one that stays is named first, then last.
            file.write(&text(&if other == second { [stays, other] } else { [other, stays] }));
            reload(&server);
            Client::connect(other).echo(100);
            assert_closed(if other == second { first } else { second });
        }
    });
    traffic.assert_nothing_lost();
    assert_listens_at(&server, &[first.min(stays), first.max(stays)]);
    assert_eq!(descriptors_of(server.controller()), descriptors);
    server.stop();
}

#[test]
fn a_changed_port_applies_to_all_addresses_without_one() {
    let lock = TestLock::shared();
    let (old, new) = (free_port(), free_port());
    let text =
        |port| format!("workers = 1\nlisten = [\"127.0.0.1\", \"127.0.0.2\"]\nport = {port}\n");
    let file = ConfigFile::new(&text(old));
    // Without the free port that servers of this suite are given: it would win over the file's.
    let launch = lock.launch(&["--config", file.name()]);
    let server = launch.under_shell("shift 2; exec \"$0\" \"$@\"").start();
    assert_eq!(server.port(), old);
    file.write(&text(new));
    reload(&server);
    for host in [[127, 0, 0, 1], [127, 0, 0, 2]] {
        Client::connect((host, new).into()).echo(100);
        assert_closed((host, old).into());
    }
    server.stop();
}

#[test]
fn an_address_in_use_rejects_the_reload_and_keeps_the_configuration() {
    let lock = TestLock::shared();
    let old = local(free_port());
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = other.local_addr().unwrap();
    let file = ConfigFile::new("");
    let mut server = start_at(&lock, &file, &[old]);
    let before = server.workers();
    let mut served = server.connect();
    served.echo(100);
    for count in 1..=2 {
        file.write(&text(&[old, taken]));
        let refusal = refused_reload(&server);
        assert!(refusal.has(&taken.to_string()) && refusal.has("in use"), "{refusal:?}");
        assert_eq!(refusal.number("failed"), Some(count), "{refusal:?}");
        served.echo(100);
        assert_untouched(&mut server, &before);
    }
    drop(other);
    reload(&server);
    Client::connect(taken).echo(100);
    served.finish();
    assert_listens_at(&server, &[old.min(taken), old.max(taken)]);
    server.stop();
}

#[test]
fn after_a_rejected_address_new_workers_use_the_old_configuration() {
    let lock = TestLock::shared();
    let old = local(free_port());
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let file = ConfigFile::new("");
    let server = start_at(&lock, &file, &[old]);
    file.write(&format!("{}worker-timeout = 5\n", text(&[other.local_addr().unwrap()])));
    refused_reload(&server);
    let before = server.workers();
    send_signal(before[&1], Signal::SIGKILL);
    server.log.wait_for_line(secs(3), "slot 1 is back", |line| {
        line.has("worker ready") && line.number("worker_pid") > Some(i64::from(before[&2]))
    });
    assert_listens_at(&server, &[old]);
    (0..10).for_each(|_| server.assert_echoes());
    server.stop();
}
