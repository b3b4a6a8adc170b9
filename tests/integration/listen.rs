//! Addresses: IPv4, IPv6, both, several, and port 0.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};

use super::support::{Client, SOON, Server, TestLock, ms, proc, skip, wait_until};

fn ipv6_is_missing() -> bool {
    let missing = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err();
    if missing {
        skip("this machine has no IPv6");
    }
    missing
}

#[track_caller]
fn assert_serves(host: impl Into<IpAddr>, port: u16) {
    let mut client = Client::connect(SocketAddr::new(host.into(), port));
    client.echo(100);
    client.finish();
}

#[track_caller]
fn assert_refuses(host: impl Into<IpAddr>, port: u16) {
    let address = SocketAddr::new(host.into(), port);
    let error =
        TcpStream::connect_timeout(&address, ms(1000)).expect_err("no socket listens there");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn by_default_ipv4_and_ipv6_are_served() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "2"]);
    assert_serves(Ipv4Addr::LOCALHOST, server.port());
    if !ipv6_is_missing() {
        assert_serves(Ipv6Addr::LOCALHOST, server.port());
    }
    server.stop();
}

#[test]
fn an_ipv4_address_alone_is_ipv4_only() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "2", "--listen", "127.0.0.1"]);
    assert_eq!(server.addresses(), [SocketAddr::from((Ipv4Addr::LOCALHOST, server.port()))]);
    assert_serves(Ipv4Addr::LOCALHOST, server.port());
    assert_refuses(Ipv4Addr::new(127, 0, 0, 2), server.port());
    if !ipv6_is_missing() {
        assert_refuses(Ipv6Addr::LOCALHOST, server.port());
    }
    server.stop();
}

#[test]
fn an_ipv6_address_alone_is_ipv6_only() {
    let lock = TestLock::shared();
    if ipv6_is_missing() {
        return;
    }
    for written in ["::1", "[::1]", "[::1]:0"] {
        let server = lock.start(&["--workers", "1", "--listen", written]);
        assert_serves(Ipv6Addr::LOCALHOST, server.port());
        assert_refuses(Ipv4Addr::LOCALHOST, server.port());
        server.stop();
    }
}

/// Starts on a recently free port; `None` if another test has taken it.
fn start_on_both_families(lock: &TestLock) -> Option<Server> {
    let probe = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap();
    let port = probe.local_addr().unwrap().port().to_string();
    drop(probe);
    let args = ["--workers", "2", "--listen", "0.0.0.0", "--listen", "[::]", "--port", &port];
    let mut server = lock.launch(&args).start_unready();
    wait_until(SOON, "it serves or ends", || {
        server.log.count("serving on") > 0 || server.exit_code().is_some()
    });
    server.exit_code().is_none().then(|| {
        server.wait_serving(SOON);
        server
    })
}

#[test]
fn two_families_can_be_listed_with_the_same_port() {
    let lock = TestLock::shared();
    if ipv6_is_missing() {
        return;
    }
    let started = (0..5).find_map(|_| start_on_both_families(&lock));
    let server = started.expect("one of five ports was free");
    assert_eq!(server.addresses().len(), 2);
    assert_serves(Ipv4Addr::LOCALHOST, server.port());
    assert_serves(Ipv6Addr::LOCALHOST, server.port());
    server.stop();
}

#[test]
fn several_addresses_are_all_served_by_all_workers() {
    let lock = TestLock::shared();
    let args = ["--workers", "2", "--listen", "127.0.0.1:0", "--listen", "127.0.0.2:0"];
    let server = lock.start(&args);
    let hosts: Vec<IpAddr> = server.addresses().iter().map(SocketAddr::ip).collect();
    assert_eq!(hosts, [IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2])]);
    for &address in server.addresses() {
        (0..10).for_each(|_| assert_serves(address.ip(), address.port()));
    }
    for pid in server.workers().into_values() {
        assert_eq!(proc::listeners_of(pid).len(), 2, "each worker listens on both");
    }
    server.stop();
}

#[test]
fn a_star_listens_on_every_address() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "1", "--listen", "*"]);
    assert_serves(Ipv4Addr::LOCALHOST, server.port());
    assert_serves(Ipv4Addr::new(127, 0, 0, 2), server.port());
    server.stop();
}

#[test]
fn port_zero_selects_one_port_for_all_workers() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "4"]);
    assert_eq!(server.addresses().len(), 1);
    assert_ne!(server.port(), 0);
    assert_eq!(server.log.with("serving on")[0].number("workers"), Some(4));
    let mut inodes = BTreeSet::new();
    for pid in server.workers().into_values() {
        let listeners = proc::listeners_of(pid);
        assert_eq!(listeners.len(), 1, "a worker holds its own listener only: {listeners:?}");
        assert_eq!(listeners[0].local.port(), server.port());
        inodes.insert(listeners[0].inode);
    }
    assert_eq!(inodes.len(), 4, "every worker has a listener of its own");
    server.assert_echoes();
    server.stop();
}
