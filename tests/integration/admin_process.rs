//! Lifecycle of the admin process: death, hang, reload, and shutdown.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::sys::signal::Signal;

use super::support::http::{Http, admin_of, admin_pid, admin_pids, get};
use super::support::load::stream_until;
use super::support::operations::{descriptors_of, reload, send_signal};
use super::support::{
    SOON, Server, TestLock, ms, proc, secs, under_connecting_load, wait_for, wait_until,
    with_background,
};

/// Waits until the controller, an admin process, `workers` workers, and no other process exist.
#[track_caller]
fn wait_whole(server: &Server, workers: usize) {
    wait_until(SOON, "no other process", || {
        (server.workers().len(), admin_pids(server).len()) == (workers, 1)
            && server.family().len() == workers + 2
    });
}

/// Waits until a new admin process has replaced `former` and answers; returns its pid.
#[track_caller]
fn wait_replaced(server: &Server, former: i32) -> i32 {
    wait_for(SOON, "a new admin process", || match admin_pids(server)[..] {
        [pid] if pid != former && get(admin_of(server), "/healthz").status == 200 => Some(pid),
        _ => None,
    })
}

#[test]
fn killing_the_admin_process_does_not_affect_the_echo() {
    let lock = TestLock::exclusive();
    let server = lock.start(&["--workers", "2", "--admin", "0"]);
    let (address, workers) = (server.address(), server.workers());
    let (((), load), bytes) = with_background(
        |over| stream_until(address, over),
        || {
            under_connecting_load(address, || {
                for _ in 0..10 {
                    let pid = admin_pid(&server);
                    // Long enough for one that is replaced at once.
                    thread::sleep(ms(600));
                    send_signal(pid, Signal::SIGKILL);
                    wait_replaced(&server, pid);
                }
            })
        },
    );
    load.assert_all_served();
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
fn killing_workers_does_not_affect_the_admin_process() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "2", "--admin", "0"]);
    let (address, pid) = (admin_of(&server), admin_pid(&server));
    let mut http = Http::connect(address);
    for count in 1..=4 {
        send_signal(server.worker(), Signal::SIGKILL);
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
fn a_hung_admin_process_is_replaced() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "1", "--admin", "0", "--worker-timeout", "2"]);
    let pid = admin_pid(&server);
    send_signal(pid, Signal::SIGSTOP);
    server.log.wait_for(secs(8), "killing admin process");
    wait_replaced(&server, pid);
    server.assert_echoes();
    assert_eq!(server.log.count("worker hung"), 0);
    server.stop();
}

#[test]
fn a_stopped_admin_process_does_not_delay_the_shutdown() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "1", "--admin", "0"]);
    send_signal(admin_pid(&server), Signal::SIGSTOP);
    server.stop();
}

#[test]
fn the_admin_process_does_not_outlive_the_controller() {
    let lock = TestLock::shared();
    let mut server = lock.start(&["--workers", "1", "--admin", "0"]);
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
fn a_signal_to_the_group_ends_all_processes_in_order() {
    let lock = TestLock::shared();
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let mut server = lock.start(&["--workers", "2", "--admin", "0"]);
        admin_of(&server);
        server.signal_group(signal);
        assert_eq!(server.wait_exit(SOON), Some(0));
    }
}

#[test]
fn the_admin_process_answers_during_the_drain() {
    let lock = TestLock::shared();
    let args = ["--workers", "1", "--admin", "0", "--graceful-timeout", "3s"];
    let mut server = lock.start(&args);
    let address = admin_of(&server);
    let mut client = server.connect();
    client.echo(100);
    let ((), ()) = with_background(
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
fn reloads_replace_the_admin_process_and_fail_no_scrape() {
    let lock = TestLock::exclusive();
    let server = lock.start(&["--workers", "2", "--admin", "0"]);
    let address = admin_of(&server);
    let mut pid = admin_pid(&server);
    server.assert_echoes();
    let descriptors = descriptors_of(server.controller());
    let ((), scrapes) = with_background(
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
fn configured(
    lock: &TestLock,
    directory: &tempfile::TempDir,
    admin: &str,
) -> (Server, impl Fn(&str)) {
    let file = directory.path().join("tcp-echo.toml");
    let path = file.to_str().unwrap().to_owned();
    let write = move |admin: &str| fs::write(&file, format!("workers = 1\n{admin}\n")).unwrap();
    write(admin);
    (lock.start(&["--config", &path]), write)
}

#[test]
fn a_reload_changes_removes_and_adds_the_address() {
    let lock = TestLock::shared();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("admin");
    let unix = format!("admin = \"unix:{}\"", path.display());
    let (server, write) = configured(&lock, &directory, "admin = \"0\"");
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
    wait_until(SOON, "its new address is logged", || server.log.count("listening on http://") == 2);
    let pid = admin_pid(&server);
    assert!(pid != first && get(admin_of(&server), "/readyz").status == 200);
    server.stop();
}

#[test]
fn an_address_in_use_rejects_the_reload() {
    let lock = TestLock::shared();
    let directory = tempfile::tempdir().unwrap();
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap();
    let (server, write) = configured(&lock, &directory, "admin = \"0\"");
    let (address, workers, pid) = (admin_of(&server), server.workers(), admin_pid(&server));
    write(&format!("admin = \"{taken}\""));
    let line = super::support::operations::refused_reload(&server);
    assert!(
        line.has(&format!("cannot listen on {taken} (--admin): address already in use")),
        "{line:?}"
    );
    assert_eq!(get(address, "/readyz").status, 200);
    assert_eq!(
        (server.workers(), admin_pids(&server)),
        (workers, vec![pid]),
        "no process is replaced"
    );
    drop(holder);
    reload(&server);
    wait_until(SOON, "the second time it can", || {
        std::net::TcpStream::connect(address).is_err() && get(taken, "/readyz").status == 200
    });
    server.stop();
}

#[test]
fn metrics_and_stats_agree() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "2", "--admin", "0"]);
    let mut http = Http::connect(admin_of(&server));
    for _ in 0..20 {
        server.assert_echoes();
    }
    send_signal(server.worker(), Signal::SIGKILL);
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
