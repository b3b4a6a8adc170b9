//! SIGHUP under full traffic: nothing is lost.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use nix::sys::signal::Signal;

use super::support::operations::{
    REFUSED, assert_all_new, descriptors_of, reload, twenty_reloads, wait_for_workers,
};
use super::support::traffic::{TRANSFERS, under_traffic};
use super::support::{
    Client, SOON, Server, TestLock, ms, proc, secs, wait_for, wait_until, with_background,
};

#[test]
fn twenty_reloads_under_traffic_lose_nothing() {
    let lock = TestLock::exclusive();
    let args = ["--workers", "2", "--idle-timeout", "60", "--drain-spread", "1s"];
    let mut server = lock.start(&args);
    let before = server.workers();
    let descriptors = descriptors_of(server.controller());
    let ((), traffic) = under_traffic(server.address(), || twenty_reloads(&server, |_| ()));
    traffic.assert_nothing_lost();
    assert_eq!(traffic.transfers, TRANSFERS, "{traffic:?}");
    assert!(traffic.closed > 0, "silent connections do not keep old workers: {traffic:?}");
    let reloads = server.log.count(": reloaded ");
    println!("{reloads} reloads");
    assert!(reloads >= 10, "most of the 20 were reloads of their own: {reloads}");
    assert_eq!(server.log.count(REFUSED) + server.log.count("reload aborted"), 0);
    assert_eq!(server.exit_code(), None, "the controller is still the one that was started");
    assert_all_new(&before, &wait_for_workers(&server, 2));
    wait_until(SOON, "no descriptor is left over", || {
        descriptors_of(server.controller()) == descriptors
    });
    assert_eq!(server.log.count("signal SIG"), 0, "every old worker ended by itself");
    server.assert_echoes();
    server.stop();
}

#[test]
fn a_reload_without_clients_completes_at_once() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "2"]);
    let time = || {
        let begin = Instant::now();
        reload(&server).at - begin
    };
    let best = [time(), time(), time()].into_iter().min().unwrap();
    assert!(best < ms(500), "nothing is waited for: {best:?}");
    wait_for_workers(&server, 2);
    server.stop();
}

#[test]
fn a_free_port_stays_the_same_over_reloads() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "2", "--listen", "127.0.0.1", "--listen", "127.0.0.2"]);
    let addresses = server.addresses().to_vec();
    for _ in 0..3 {
        reload(&server);
        addresses.iter().for_each(|&address| _ = Client::connect(address).echo(100));
    }
    let workers = wait_for_workers(&server, 2);
    for pid in workers.into_values() {
        let mut bound: Vec<_> = proc::listeners_of(pid).iter().map(|one| one.local).collect();
        bound.sort();
        assert_eq!(bound, addresses, "where a new worker listens");
    }
    server.stop();
}

#[test]
fn a_reload_keeps_process_titles_and_thread_counts() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "2"]);
    reload(&server);
    let workers = wait_for_workers(&server, 2);
    let all = [(server.controller(), "tcp-echo[ctrlr]".to_owned())].into_iter();
    let all = all.chain(workers.iter().map(|(slot, &pid)| (pid, format!("tcp-echo[wrk{slot}]"))));
    for (pid, title) in all {
        assert_eq!(proc::process(pid).expect("it lives").title, title);
        assert!(proc::command_line(pid).starts_with(&title), "{:?}", proc::command_line(pid));
        assert_eq!(fs::read_dir(format!("/proc/{pid}/task")).unwrap().count(), 1, "{title}");
    }
    server.stop();
}

/// The pid file names this server, and is the same file, held by it.
fn assert_held(lock: &TestLock, path: &Path, inode: u64, server: &Server) {
    let pid = fs::read_to_string(path).unwrap();
    assert_eq!(pid.trim().parse(), Ok(server.controller()));
    assert_eq!(fs::metadata(path).unwrap().ino(), inode, "the file was never away");
    let name = path.to_str().unwrap();
    let second = lock.launch(&["--port", "0", "--workers", "1", "--pid-file", name]).run();
    second.assert_one_line(1, &[name]);
}

#[test]
fn the_pid_file_stays_locked_over_a_reload() {
    let lock = TestLock::shared();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tcp-echo.pid");
    let server = lock.start(&["--workers", "1", "--pid-file", path.to_str().unwrap()]);
    let inode = fs::metadata(&path).unwrap().ino();
    for _ in 0..2 {
        reload(&server);
        assert_held(&lock, &path, inode, &server);
    }
    server.assert_echoes();
    server.stop();
    assert!(!path.exists(), "it is removed at the end");
}

#[test]
fn a_background_daemon_stays_in_the_background_after_a_reload() {
    let lock = TestLock::shared();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tcp-echo.pid");
    let args = ["--daemon", "--workers", "2", "--pid-file", path.to_str().unwrap()];
    let mut server = lock.launch(&args).start_unready();
    assert_eq!(server.wait_exit(SOON), Some(0));
    let pid =
        wait_for(SOON, "the pid file", || fs::read_to_string(&path).ok()?.trim().parse().ok());
    server.controller_is(pid);
    server.wait_listening(2);
    let (before, daemon) = (server.workers(), proc::process(pid).unwrap());
    reload(&server);
    let now = proc::process(pid).expect("the same process");
    assert_eq!((now.session, now.ppid), (daemon.session, daemon.ppid));
    assert_all_new(&before, &wait_for_workers(&server, 2));
    server.assert_echoes();
    server.signal(Signal::SIGTERM);
    wait_until(SOON, "the daemon ends", || !proc::is_alive(pid));
    wait_until(SOON, "its pid file is removed", || !path.exists());
}

#[test]
fn an_unread_log_does_not_block_a_reload() {
    let lock = TestLock::shared();
    let mut server = lock.start(&["--workers", "2", "--log-level", "DEBUG"]);
    let before = server.workers();
    server.log.hang_up();
    server.signal(Signal::SIGHUP);
    wait_until(SOON, "two new workers", || {
        let workers = server.workers();
        workers.len() == 2 && !workers.values().any(|pid| before.values().any(|old| old == pid))
    });
    server.assert_echoes();
    server.stop();
}

#[test]
fn a_reload_without_clients_leaves_nothing_behind() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "3"]);
    let descriptors = descriptors_of(server.controller());
    for _ in 0..5 {
        reload(&server);
        assert_eq!(wait_for_workers(&server, 3), server.logged_workers());
        assert_eq!(descriptors_of(server.controller()), descriptors);
    }
    server.stop();
}

/// Keeps all clients busy until told to stop; those that were reset are taken out and counted.
fn keep_busy(clients: &Mutex<Vec<Client>>, over: &AtomicBool) -> usize {
    let mut reset = 0;
    while !over.load(Ordering::SeqCst) {
        clients.lock().unwrap().retain_mut(|client| {
            let good = client.try_send(10).and_then(|()| client.try_expect(10)).is_ok();
            reset += usize::from(!good);
            good
        });
        thread::sleep(ms(30));
    }
    reset
}

#[test]
fn many_reloads_keep_a_bounded_number_of_old_workers() {
    const MOST: usize = 6 + 64;
    let lock = TestLock::shared();
    // On a busy machine a client may be silent for more than a second. It must not be closed for that.
    let args = ["--workers", "1", "--graceful-timeout", "1s", "--drain-spread", "24h"];
    let server = lock.start(&args);
    let old = || server.family().len() - 2;
    // A client in each generation, always busy, so that no old worker ends by itself.
    let clients = Mutex::new(Vec::new());
    let ((), reset) = with_background(
        |over| keep_busy(&clients, over),
        || {
            for _ in 0..MOST + 10 {
                // A worker that is being replaced accepts what waits in its queue.
                let client = wait_for(SOON, "a client of the new worker", || {
                    let mut client = server.connect();
                    client.echo(10);
                    server.is_served_by(&client, server.worker()).then_some(client)
                });
                clients.lock().unwrap().push(client);
                reload(&server);
            }
            let left = || clients.lock().unwrap().len();
            wait_until(secs(30), "the clients of 70 old workers are left", || left() <= MOST);
            wait_until(SOON, "70 old workers are left", || old() <= MOST);
            // Other workers that were ended early would have exited after the graceful timeout.
            thread::sleep(ms(1600));
            assert_eq!((left(), old()), (MOST, MOST), "no worker is ended early");
        },
    );
    assert_eq!(reset, 10, "only the eldest generations had to end");
    clients.into_inner().unwrap().into_iter().for_each(Client::finish);
    wait_for_workers(&server, 1);
    server.stop();
}
