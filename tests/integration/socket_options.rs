//! What the kernel does for an accepted connection, as options and reloads want it.

use std::time::Duration;

use super::operator::{ConfigFile, reload};
use super::support::foreign::accepted_socket;
use super::support::{Server, Turn, secs};

/// TCP keepalive of an accepted socket.
#[derive(Debug, PartialEq, Eq)]
struct Probing {
    on: bool,
    /// Delay before the first probe, interval, and number of probes.
    probes: Option<(Duration, Duration, u32)>,
    /// TCP_USER_TIMEOUT.
    give_up: Option<Duration>,
}

const OFF: Probing = Probing { on: false, probes: None, give_up: None };

/// Returns how a new connection is probed, and whether it sends small packets at once; nothing where
/// that cannot be found out.
#[track_caller]
fn new_connection(server: &Server) -> Option<(Probing, bool)> {
    let mut client = server.connect();
    client.echo(10);
    let socket = accepted_socket(server, &client)?;
    let on = socket.keepalive().unwrap();
    let probes = || {
        let time = socket.tcp_keepalive_time().unwrap();
        (time, socket.tcp_keepalive_interval().unwrap(), socket.tcp_keepalive_retries().unwrap())
    };
    let give_up = socket.tcp_user_timeout().unwrap().filter(|timeout| !timeout.is_zero());
    let probing = Probing { on, probes: on.then(probes), give_up };
    let nodelay = socket.tcp_nodelay().unwrap();
    drop(socket);
    client.finish();
    Some((probing, nodelay))
}

fn probing(delay: u64, give_up: Option<u64>) -> Probing {
    let probes = Some((secs(delay), secs(10), 3));
    Probing { on: true, probes, give_up: give_up.map(secs) }
}

#[test]
fn keepalive_gives_up_after_all_probes_or_the_write_timeout_if_that_is_longer() {
    let turn = Turn::shared();
    let cases: [(&[&str], Probing); 7] = [
        (&[], OFF),
        (&["--write-timeout", "5m"], OFF),
        (&["--keepalive-delay", "10"], probing(10, Some(60))),
        (&["--keepalive-delay", "45"], probing(45, Some(75))),
        (&["--keepalive-delay", "45", "--write-timeout", "5"], probing(45, Some(75))),
        (&["--keepalive-delay", "45", "--write-timeout", "5m"], probing(45, Some(300))),
        (&["--keepalive-delay", "45", "--write-timeout", "0"], probing(45, None)),
    ];
    for (args, wanted) in cases {
        let server = turn.start(&[&["--workers", "1"][..], args].concat());
        let Some((probing, _)) = new_connection(&server) else { return };
        assert_eq!(probing, wanted, "{args:?}");
        server.stop();
    }
}

#[test]
fn small_packets_are_sent_at_once_unless_that_is_switched_off() {
    let turn = Turn::shared();
    for (args, wanted) in [(&[][..], true), (&["--enable-nodelay=false"], false)] {
        let server = turn.start(&[&["--workers", "1"][..], args].concat());
        let Some((_, nodelay)) = new_connection(&server) else { return };
        assert_eq!(nodelay, wanted, "{args:?}");
        server.stop();
    }
}

#[test]
fn a_reload_changes_the_options_of_new_connections() {
    let turn = Turn::shared();
    let file = ConfigFile::new("workers = 1\n");
    let server = turn.start(&["--config", file.name()]);
    let changed = "keepalive-delay = \"20s\"\nenable-nodelay = false\nwrite-timeout = \"2m\"\n";
    for (text, wanted) in [
        (changed, (probing(20, Some(120)), false)),
        ("keepalive-delay = \"20s\"\nwrite-timeout = 0\n", (probing(20, None), true)),
        (changed, (probing(20, Some(120)), false)),
        ("", (OFF, true)),
    ] {
        file.write(&format!("workers = 1\n{text}"));
        reload(&server);
        let Some(found) = new_connection(&server) else { return };
        assert_eq!(found, wanted, "after a reload with {text:?}");
    }
    server.stop();
}
