//! Socket options of accepted connections, and kernels that reject an option.

use std::time::Duration;

use libc::{EINVAL, IPPROTO_TCP, TCP_KEEPIDLE};

use super::support::operations::{ConfigFile, assert_all_new, reload, wait_for_workers};
use super::support::seccomp::Refusal;
use super::support::server_socket::accepted_socket;
use super::support::{SOON, Server, TestLock, ms, secs};

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

/// The longest `TCP_USER_TIMEOUT`: the kernel counts its milliseconds in an int.
const LONGEST: Duration = ms(i32::MAX as u64);

/// A kernel that refuses to set the delay of TCP keepalive.
const NO_DELAY: Refusal = Refusal { level: IPPROTO_TCP, option: TCP_KEEPIDLE, errno: EINVAL };

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

fn probing(delay: u64, give_up: Option<Duration>) -> Probing {
    let probes = Some((secs(delay), secs(10), 3));
    Probing { on: true, probes, give_up }
}

#[test]
fn keepalive_gives_up_after_all_probes_or_the_write_timeout_if_that_is_longer() {
    let lock = TestLock::shared();
    let cases: [(&[&str], Probing); 8] = [
        (&[], OFF),
        (&["--write-timeout", "5m"], OFF),
        (&["--keepalive-delay", "10"], probing(10, Some(secs(60)))),
        (&["--keepalive-delay", "45"], probing(45, Some(secs(75)))),
        (&["--keepalive-delay", "45", "--write-timeout", "5"], probing(45, Some(secs(75)))),
        (&["--keepalive-delay", "45", "--write-timeout", "5m"], probing(45, Some(secs(300)))),
        (&["--keepalive-delay", "45", "--write-timeout", "720h"], probing(45, Some(LONGEST))),
        (&["--keepalive-delay", "45", "--write-timeout", "0"], probing(45, None)),
    ];
    for (args, wanted) in cases {
        let server = lock.start(&[&["--workers", "1"][..], args].concat());
        let Some((probing, _)) = new_connection(&server) else { return };
        assert_eq!(probing, wanted, "{args:?}");
        server.stop();
    }
}

#[test]
fn nodelay_is_on_unless_disabled() {
    let lock = TestLock::shared();
    for (args, wanted) in [(&[][..], true), (&["--enable-nodelay=false"], false)] {
        let server = lock.start(&[&["--workers", "1"][..], args].concat());
        let Some((_, nodelay)) = new_connection(&server) else { return };
        assert_eq!(nodelay, wanted, "{args:?}");
        server.stop();
    }
}

#[test]
fn a_reload_changes_the_options_of_new_connections() {
    let lock = TestLock::shared();
    let file = ConfigFile::new("workers = 1\n");
    let server = lock.start(&["--config", file.name()]);
    let changed = "keepalive-delay = \"20s\"\nenable-nodelay = false\nwrite-timeout = \"2m\"\n";
    for (text, wanted) in [
        (changed, (probing(20, Some(secs(120))), false)),
        ("keepalive-delay = \"20s\"\nwrite-timeout = 0\n", (probing(20, None), true)),
        ("keepalive-delay = 20\nwrite-timeout = \"720h\"\n", (probing(20, Some(LONGEST)), true)),
        (changed, (probing(20, Some(secs(120))), false)),
        ("", (OFF, true)),
    ] {
        file.write(&format!("workers = 1\n{text}"));
        reload(&server);
        wait_for_workers(&server, 1);
        let Some(found) = new_connection(&server) else { return };
        assert_eq!(found, wanted, "after a reload with {text:?}");
    }
    assert_eq!(server.log.count("cannot change options of listening socket"), 0);
    server.stop();
}

#[test]
fn an_unsupported_socket_option_does_not_abort_a_reload() {
    let lock = TestLock::shared();
    let file = ConfigFile::new("workers = 1\n");
    let mut server = lock.launch(&["--config", file.name()]).refusing(NO_DELAY).start();
    let before = wait_for_workers(&server, 1);
    file.write("workers = 1\nkeepalive-delay = 60\n");
    reload(&server);
    assert_all_new(&before, &wait_for_workers(&server, 1));
    assert_eq!(server.exit_code(), None, "the controller lives");
    server.assert_echoes();
    let lines = server.log.with("cannot change options of listening socket");
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].has("WARN") && lines[0].has("cannot set --keepalive-delay: "), "{lines:?}");
    server.stop();
}

#[test]
fn an_unsupported_socket_option_at_startup_is_named() {
    let lock = TestLock::shared();
    let args = ["--port", "0", "--workers", "1", "--keepalive-delay", "60"];
    let mut server = lock.launch(&args).refusing(NO_DELAY).start_unready();
    assert_eq!(server.wait_exit(SOON), Some(1));
    let line = server.log.wait_for(SOON, "cannot listen on");
    assert!(line.has("cannot set --keepalive-delay: invalid argument"), "{line:?}");
}
