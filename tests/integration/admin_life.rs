//! The admin process comes, goes, and is replaced; the echo does not notice, nor the other way round.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::sys::signal::Signal;

use super::operator::{descriptors_of, reload, strike};
use super::support::http::{Http, admin_of, admin_pid, admin_pids, get};
use super::support::load::stream_until;
use super::support::{
    SOON, Server, Turn, alongside, ms, proc, secs, under_connecting_load, wait_for, wait_until,
};

/// There are the controller, an admin process, `workers` workers, and nobody else.
#[track_caller]
fn wait_whole(server: &Server, workers: usize) {
    wait_until(SOON, "nobody else", || {
        (server.workers().len(), admin_pids(server).len()) == (workers, 1)
            && server.family().len() == workers + 2
    });
}

/// A new admin process answers in place of `former`.
#[track_caller]
fn wait_replaced(server: &Server, former: i32) -> i32 {
    wait_for(SOON, "a new admin process", || match admin_pids(server)[..] {
        [pid] if pid != former && get(admin_of(server), "/healthz").status == 200 => Some(pid),
        _ => None,
    })
}

#[test]
fn killing_it_never_touches_the_echo() {
    let turn = Turn::alone();
    let server = turn.start(&["--workers", "2", "--admin", "0"]);
    let (address, workers) = (server.address(), server.workers());
    let (((), tally), bytes) = alongside(
        |over| stream_until(address, over),
        || {
            under_connecting_load(address, || {
                for _ in 0..10 {
                    let pid = admin_pid(&server);
                    // Long enough for one that is replaced at once.
                    thread::sleep(ms(600));
                    strike(pid, Signal::SIGKILL);
                    wait_replaced(&server, pid);
                }
            })
        },
    );
    tally.assert_unnoticed();
    assert!(bytes > 0);
    assert_eq!(server.workers(), workers);
    let stats = get(admin_of(&server), "/stats").json();
    assert_eq!(stats["admin_restarts"], 10);
    let events = stats["events"].as_array().unwrap();
    assert_eq!(events.iter().filter(|event| event["kind"] == "admin_exited").count(), 10);
    assert_eq!(server.log.count("admin process exited, replacing it"), 10);
    server.stop();
}

#[test]
fn killing_workers_never_touches_it() {
    let turn = Turn::shared();
    let server = turn.start(&["--workers", "2", "--admin", "0"]);
    let (address, pid) = (admin_of(&server), admin_pid(&server));
    let mut http = Http::connect(address);
    for count in 1..=4 {
        strike(server.worker(), Signal::SIGKILL);
        wait_until(SOON, "the restart is counted", || {
            let stats = http.get("/stats").json();
            let of_slot = |slot: &serde_json::Value| slot["restarts"]["signal"].as_u64().unwrap();
            stats["slots"].as_array().unwrap().iter().map(of_slot).sum::<u64>() == count
        });
        wait_whole(&server, 2);
    }
    assert_eq!(admin_pids(&server), [pid]);
    server.stop();
}

#[test]
fn one_that_hangs_is_replaced() {
    let turn = Turn::shared();
    let server = turn.start(&["--workers", "1", "--admin", "0", "--worker-timeout", "2"]);
    let pid = admin_pid(&server);
    strike(pid, Signal::SIGSTOP);
    server.log.wait_for(secs(8), "killing the admin process");
    wait_replaced(&server, pid);
    server.assert_echoes();
    assert_eq!(server.log.count("worker hung"), 0);
    server.stop();
}

#[test]
fn one_that_is_stopped_does_not_keep_the_daemon_from_ending() {
    let turn = Turn::shared();
    let server = turn.start(&["--workers", "1", "--admin", "0"]);
    strike(admin_pid(&server), Signal::SIGSTOP);
    server.stop();
}

#[test]
fn it_does_not_outlive_the_controller() {
    let turn = Turn::shared();
    let mut server = turn.start(&["--workers", "1", "--admin", "0"]);
    let (address, pid) = (admin_of(&server), admin_pid(&server));
    let mut http = Http::connect(address);
    assert_eq!(http.get("/healthz").status, 200);
    server.signal(Signal::SIGKILL);
    server.wait_exit(SOON);
    wait_until(SOON, "it is gone", || !proc::is_alive(pid));
    assert!(std::net::TcpListener::bind(address).is_ok(), "the port is free");
    wait_until(SOON, "all are", || server.family().is_empty());
}

#[test]
fn a_signal_to_the_group_ends_everything_in_order() {
    let turn = Turn::shared();
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let mut server = turn.start(&["--workers", "2", "--admin", "0"]);
        admin_of(&server);
        server.signal_group(signal);
        assert_eq!(server.wait_exit(SOON), Some(0));
    }
}

#[test]
fn it_answers_while_the_daemon_drains() {
    let turn = Turn::shared();
    let args = ["--workers", "1", "--admin", "0", "--graceful-timeout", "3s"];
    let mut server = turn.start(&args);
    let address = admin_of(&server);
    let mut client = server.connect();
    client.echo(100);
    let ((), ()) = alongside(
        |over| {
            while !over.load(Ordering::SeqCst) {
                client.echo(10);
                thread::sleep(ms(50));
            }
        },
        || {
            server.signal(Signal::SIGTERM);
            server.log.wait_for(SOON, "draining");
            for _ in 0..10 {
                let reply = get(address, "/readyz");
                assert_eq!((reply.status, &*reply.body), (503, "draining\n"));
                thread::sleep(ms(50));
            }
        },
    );
    client.finish();
    assert_eq!(server.wait_exit(SOON), Some(0));
}

/// Scrapes until told to stop, with a connection each time and with one that lives on; how often.
fn scrape(server: &Server, over: &AtomicBool) -> usize {
    let address = admin_of(server);
    let mut count = 0;
    let mut lasting: Option<Http<_>> = None;
    while !over.load(Ordering::SeqCst) {
        assert_eq!(get(address, "/metrics").status, 200);
        count += 1;
        let mut http = lasting.take().unwrap_or_else(|| Http::connect(address));
        http.send("GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n");
        // One that was closed between two questions is no failure: every client asks again.
        if let Some(reply) = http.reply(false) {
            assert_eq!(reply.status, 200);
            lasting = (reply.header("Connection") != "close").then_some(http);
            count += 1;
        }
    }
    count
}

#[test]
fn reloads_fail_no_scrape_and_make_it_new() {
    let turn = Turn::alone();
    let server = turn.start(&["--workers", "2", "--admin", "0"]);
    let address = admin_of(&server);
    let mut pid = admin_pid(&server);
    server.assert_echoes();
    let descriptors = descriptors_of(server.controller());
    let ((), scrapes) = alongside(
        |over| scrape(&server, over),
        || {
            for _ in 0..5 {
                reload(&server);
                pid = wait_for(SOON, "a new admin process", || match admin_pids(&server)[..] {
                    [new] if new != pid => Some(new),
                    _ => None,
                });
            }
        },
    );
    println!("{scrapes} scrapes over 5 reloads");
    assert!(scrapes > 20);
    assert_eq!(admin_of(&server), address);
    let stats = get(address, "/stats").json();
    assert_eq!((&stats["reloads"]["done"], &stats["admin_restarts"]), (&5.into(), &0.into()));
    assert_eq!(stats["totals"]["connections_accepted"], 1, "the counters live on");
    wait_whole(&server, 2);
    wait_until(SOON, "nothing is left over", || descriptors_of(server.controller()) == descriptors);
    server.stop();
}

/// A server whose settings are in a file, and how to change them.
fn configured(turn: &Turn, directory: &tempfile::TempDir, admin: &str) -> (Server, impl Fn(&str)) {
    let file = directory.path().join("tcp-echo.toml");
    let path = file.to_str().unwrap().to_owned();
    let write = move |admin: &str| fs::write(&file, format!("workers = 1\n{admin}\n")).unwrap();
    write(admin);
    (turn.start(&["--config", &path]), write)
}

#[test]
fn the_address_can_change_go_and_come() {
    let turn = Turn::shared();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("admin");
    let unix = format!("admin = \"unix:{}\"", path.display());
    let (server, write) = configured(&turn, &directory, "admin = \"0\"");
    let (address, first) = (admin_of(&server), admin_pid(&server));
    write(&unix);
    reload(&server);
    let unix_answers = || {
        let Ok(stream) = UnixStream::connect(&path) else { return false };
        stream.set_read_timeout(Some(secs(5))).unwrap();
        Http::over(stream).get("/readyz").status == 200
    };
    wait_until(SOON, "it answers at the new address", unix_answers);
    wait_until(SOON, "and no more at the old", || std::net::TcpStream::connect(address).is_err());
    let inode = fs::metadata(&path).unwrap().ino();
    reload(&server);
    wait_until(SOON, "one process", || admin_pids(&server).len() == 1);
    assert_eq!(fs::metadata(&path).unwrap().ino(), inode, "never away");
    write("");
    reload(&server);
    wait_until(SOON, "it is gone", || admin_pids(&server).is_empty() && !path.exists());
    server.assert_echoes();
    write("admin = \"127.0.0.1:0\"");
    reload(&server);
    let pid = admin_pid(&server);
    assert!(pid != first && get(admin_of(&server), "/readyz").status == 200);
    server.stop();
}

#[test]
fn an_address_in_use_changes_nothing() {
    let turn = Turn::shared();
    let directory = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let holder = std::net::TcpListener::bind(taken).unwrap();
    let (server, write) = configured(&turn, &directory, "admin = \"0\"");
    let (address, workers, pid) = (admin_of(&server), server.workers(), admin_pid(&server));
    write(&format!("admin = \"{taken}\""));
    let line = super::operator::refused_reload(&server);
    assert!(line.has(&format!("cannot listen on {taken} (--admin): address in use")), "{line:?}");
    assert_eq!(get(address, "/readyz").status, 200);
    assert_eq!((server.workers(), admin_pids(&server)), (workers, vec![pid]), "nobody is replaced");
    drop(holder);
    reload(&server);
    wait_until(SOON, "the second time it can", || {
        std::net::TcpStream::connect(address).is_err() && get(taken, "/readyz").status == 200
    });
    server.stop();
}

#[test]
fn the_counters_of_two_forms_agree() {
    let turn = Turn::shared();
    let server = turn.start(&["--workers", "2", "--admin", "0"]);
    let mut http = Http::connect(admin_of(&server));
    for _ in 0..20 {
        server.assert_echoes();
    }
    strike(server.worker(), Signal::SIGKILL);
    wait_whole(&server, 2);
    let sum = |text: &str, name: &str| -> u64 {
        let lines = text.lines().filter(|line| line.starts_with(&format!("{name}{{")));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
    };
    wait_until(SOON, "all is counted", || {
        http.get("/stats").json()["totals"]["connections_closed"]["client_fin"] == 20
    });
    let (stats, metrics) = (http.get("/stats").json(), http.get("/metrics").body);
    for (figure, name) in [
        ("connections_accepted", "tcp_echo_connections_accepted_total"),
        ("messages", "tcp_echo_messages_total"),
        ("bytes_received", "tcp_echo_received_bytes_total"),
        ("bytes_sent", "tcp_echo_sent_bytes_total"),
    ] {
        let value = stats["totals"][figure].as_u64().unwrap();
        assert!(value >= 20);
        assert_eq!(sum(&metrics, name), value, "{name}");
    }
    assert_eq!(sum(&metrics, "tcp_echo_connections_closed_total"), 20);
    server.stop();
}
