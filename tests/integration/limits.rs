//! Limits on connections and descriptors: recycling, pausing, and resuming.

use std::fs;
use std::io::{ErrorKind, Read};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::support::client::uninterrupted;
use super::support::operations::{REFUSED, reload, send_signal};
use super::support::{
    Client, SOON, Server, TestLock, ms, proc, secs, stats, total, try_for, under_connecting_load,
    wait_for, wait_until,
};

#[test]
fn recycling_after_max_connections_loses_no_connection() {
    let lock = TestLock::exclusive();
    let server = lock.start(&["--workers", "2", "--max-connections", "50"]);
    let (_, load) = under_connecting_load(server.address(), || {
        wait_until(secs(15), "ten workers have retired", || server.log.count("retiring") >= 10);
    });
    println!("{} retired: {load:?}", server.log.count("retiring"));
    load.assert_all_served();
    assert!(load.slowest < secs(1), "no client waits for the replacement: {load:?}");
    wait_until(SOON, "two workers at the end", || server.workers().len() == 2);
    assert_eq!(server.log.count("signal SIG"), 0, "they retire in good health");
    server.stop();
}

#[test]
fn a_connection_outlives_the_retirement_of_its_worker() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "1", "--max-connections", "5"]);
    let first = server.worker();
    let mut veteran = server.connect();
    veteran.echo(1000);
    for _ in 0..4 {
        server.assert_echoes();
    }
    server.log.wait_for(SOON, "retiring");
    let fresh = |pid: &i32| *pid != first;
    wait_until(SOON, "the slot has a new worker", || {
        server.logged_workers().get(&1).is_some_and(fresh)
    });
    for _ in 0..20 {
        server.assert_echoes();
        veteran.echo(1000);
    }
    veteran.finish();
    wait_until(SOON, "the retired worker has gone", || !server.family().contains(&first));
    server.stop();
}

#[test]
fn forty_retired_workers_do_not_prevent_replacements() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "1", "--max-connections", "1"]);
    let mut veterans = Vec::new();
    for _ in 0..40 {
        let mut veteran = server.connect();
        veteran.echo(100);
        veterans.push(veteran);
    }
    veterans.iter_mut().for_each(|veteran| _ = veteran.echo(100));
    veterans.into_iter().for_each(Client::finish);
    server.stop();
}

#[test]
fn a_retired_worker_with_a_connection_exits_at_the_drain_timeout() {
    let lock = TestLock::shared();
    let args = ["--workers", "1", "--max-connections", "3", "--drain-timeout", "1s"];
    let server = lock.start(&args);
    let first = server.worker();
    let mut veteran = server.connect();
    veteran.echo(1000);
    (0..2).for_each(|_| server.assert_echoes());
    server.log.wait_for(SOON, "retiring");
    let begin = Instant::now();
    wait_until(SOON, "the retired worker has gone", || !server.family().contains(&first));
    assert!(begin.elapsed() > ms(500), "it was given its second: {:?}", begin.elapsed());
    server.assert_echoes();
    server.stop();
}

/// Returns `true` if `length` bytes come back.
fn is_echoed(client: &mut Client, length: usize) -> bool {
    let mut chunk = vec![0; length];
    client.stream().set_nonblocking(true).unwrap();
    let result = uninterrupted(|| client.stream().read(&mut chunk));
    client.stream().set_nonblocking(false).unwrap();
    match result {
        Ok(got) => {
            assert_eq!(got, length, "an echo of {length} bytes comes in one piece");
            client.verify(&chunk).unwrap();
            true
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => false,
        Err(error) => panic!("the connection broke: {error}"),
    }
}

#[test]
fn max_concurrent_connections_pauses_accepting_and_keeps_the_queue() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "1", "--max-concurrent-connections", "10"]);
    let mut inside: Vec<Client> = (0..10).map(|_| server.connect()).collect();
    inside.iter_mut().for_each(|client| _ = client.echo(100));
    let paused = server.log.wait_for(SOON, "accept paused");
    assert!(paused.has("worker-1[") && paused.has("reason="), "{paused:?}");
    let mut queued: Vec<Client> = (0..15).map(|_| server.connect()).collect();
    queued.iter_mut().for_each(|client| client.send(100));
    // That nothing comes is what the time is for.
    thread::sleep(ms(500));
    assert!(queued.iter_mut().all(|client| !is_echoed(client, 100)), "the limit holds");
    // Room for half is enough to go on with.
    inside.drain(..5).for_each(Client::finish);
    server.log.wait_for(SOON, "accept resumed");
    serve_from_queue(&mut queued, 5);
    inside.iter_mut().for_each(|client| _ = client.echo(100));
    inside.into_iter().for_each(Client::finish);
    serve_from_queue(&mut queued, 10);
    server.stop();
}

/// Stalls the only client of a server; returns the bytes that its worker keeps in the write buffer.
#[track_caller]
pub(crate) fn bytes_buffered_for(client: &mut Client, server: &Server) -> u64 {
    wait_for(SOON, "bytes wait in the worker", || {
        client.send_until_stalled(ms(100), 64 << 20);
        Some(total(&stats(server), "bytes_buffered")).filter(|bytes| *bytes > 0)
    })
}

/// The client begins to read, and gets everything.
#[track_caller]
pub(crate) fn read_everything(mut client: Client) {
    client.half_close();
    client.expect(client.outstanding());
    client.expect_fin();
}

#[test]
fn the_write_buffer_of_a_stalled_client_is_at_most_the_buffer_size() {
    let lock = TestLock::shared();
    for (setting, most) in [("256KiB", 256 << 10), ("4KiB", 4 << 10)] {
        let args = ["--workers", "1", "--buffer-size", setting, "--splice", "off"];
        let server = lock.start(&args);
        // How much it is in the end is chance, so there are several.
        for _ in 0..8 {
            let mut client = server.connect();
            let kept = bytes_buffered_for(&mut client, &server);
            println!("--buffer-size {setting}: {kept}");
            assert!(kept <= most, "{kept} bytes with --buffer-size {setting}");
            read_everything(client);
        }
        server.stop();
    }
}

#[test]
fn a_full_worker_accepts_again_at_the_low_watermark() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "1", "--max-concurrent-connections", "20"]);
    let mut inside: Vec<Client> = (0..20).map(|_| server.connect()).collect();
    inside.iter_mut().for_each(|client| _ = client.echo(100));
    let mut queued: Vec<Client> = (0..5).map(|_| server.connect()).collect();
    queued.iter_mut().for_each(|client| client.send(100));
    let active = |count| total(&stats(&server), "connections_active") == count;
    server.log.wait_for(SOON, "accept paused");
    inside.pop().into_iter().for_each(Client::finish);
    wait_until(SOON, "one place of twenty is free", || active(19));
    // That nothing comes is what the time is for.
    thread::sleep(ms(500));
    assert!(queued.iter_mut().all(|client| !is_echoed(client, 100)), "a twentieth is too little");
    assert!(active(19) && server.log.count("accept resumed") == 0);
    inside.pop().into_iter().for_each(Client::finish);
    server.log.wait_for(SOON, "accept resumed");
    serve_from_queue(&mut queued, 5);
    inside.into_iter().for_each(Client::finish);
    server.stop();
}

/// The soft and the hard limit of open descriptors of a process.
fn descriptor_limits(pid: i32) -> [u64; 2] {
    let text = fs::read_to_string(format!("/proc/{pid}/limits")).expect("the process lives");
    let line = text.lines().find(|line| line.starts_with("Max open files")).expect("a limit");
    let numbers: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    numbers.try_into().expect("two numbers")
}

#[test]
fn the_soft_limit_of_descriptors_is_raised_to_the_hard_one() {
    const HARD: u64 = 400;
    let lock = TestLock::shared();
    let launch = lock.launch(&["--workers", "2", "--idle-timeout", "60"]);
    let limits = format!("ulimit -Sn 40; ulimit -Hn {HARD}; exec \"$0\" \"$@\"");
    let server = launch.under_shell(&limits).start();
    for pid in server.workers().into_values().chain([server.controller()]) {
        assert_eq!(descriptor_limits(pid), [HARD; 2], "{}", proc::command_line(pid));
    }
    // More than twice forty, whichever worker they fall to.
    let mut clients: Vec<Client> = (0..200).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|client| _ = client.echo(100));
    assert_eq!(server.log.count("accept paused"), 0);
    clients.into_iter().for_each(Client::finish);
    server.stop();
}

/// Takes out `count` clients, whichever are echoed first, one after the other.
#[track_caller]
fn serve_from_queue(queued: &mut Vec<Client>, count: usize) {
    for _ in 0..count {
        let index = try_for(SOON, || queued.iter_mut().position(|one| is_echoed(one, 100)));
        queued.remove(index.expect("the queue moves on")).finish();
    }
}

#[test]
fn a_full_worker_uses_no_cpu_time() {
    let lock = TestLock::exclusive();
    let server = lock.start(&["--workers", "1", "--max-concurrent-connections", "5"]);
    let mut inside: Vec<Client> = (0..5).map(|_| server.connect()).collect();
    inside.iter_mut().for_each(|client| _ = client.echo(10));
    let queued: Vec<Client> = (0..20).map(|_| server.connect()).collect();
    server.log.wait_for(SOON, "accept paused");
    let share = processor_share(&server, secs(1));
    assert!(share < 0.1, "a full worker uses {share:.3} of a processor");
    drop((inside, queued));
    server.assert_echoes();
    server.stop();
}

/// Processor time of the whole server by elapsed time: 1.0 is one processor kept busy.
fn processor_share(server: &Server, span: Duration) -> f64 {
    let (begin, before) = (Instant::now(), server.cpu_time());
    thread::sleep(span);
    let used = server.cpu_time().saturating_sub(before);
    used.as_secs_f64() / begin.elapsed().as_secs_f64()
}

#[test]
fn out_of_descriptors_accepting_pauses_and_all_clients_are_served_later() {
    let lock = TestLock::exclusive();
    let launch = lock.launch(&["--workers", "2", "--idle-timeout", "60"]);
    let server = launch.under_shell("ulimit -n 48; exec \"$0\" \"$@\"").start();
    let mut waiting: Vec<Client> = (0..200).map(|_| server.connect()).collect();
    waiting.iter_mut().for_each(|client| client.send(100));
    server.log.wait_for(SOON, "accept paused");
    let lines = server.log.lines().len();
    let share = processor_share(&server, secs(2));
    let lines = server.log.lines().len() - lines;
    println!("full: {share:.4} of a processor, {lines} lines of log in 2 s");
    assert!(share < 0.1, "a full server uses {share:.3} of a processor");
    assert!(lines <= 20, "{lines} lines of log in two seconds");
    let begin = Instant::now();
    serve_from_queue(&mut waiting, 200);
    println!("all 200 served after {:?}", begin.elapsed());
    assert!(begin.elapsed() < secs(30));
    let workers = server.workers();
    assert_eq!(workers, server.logged_workers(), "no worker died of it");
    server.stop();
}

#[test]
fn a_reload_that_needs_too_many_descriptors_is_rejected_by_the_check() {
    let lock = TestLock::exclusive();
    let args = ["--workers", "8", "--idle-timeout", "0", "--drain-spread", "1h"];
    let launch = lock.launch(&args).under_shell("ulimit -n 48; exec \"$0\" \"$@\"");
    let server = launch.start();
    let mut held: Vec<Client> = Vec::new();
    let refusal = (0..6).find_map(|_| {
        // Enough for every worker to have one, and to drain for a long time.
        let mut clients: Vec<Client> = (0..48).map(|_| server.connect()).collect();
        clients.iter_mut().for_each(|client| _ = client.echo(10));
        held.extend(clients);
        let answers = || server.log.count(": reloaded ") + server.log.count(REFUSED);
        let before = answers();
        server.signal(Signal::SIGHUP);
        wait_until(secs(8), "it is reloaded or refused", || {
            assert_eq!(server.log.count("cannot fork worker"), 0, "not halfway");
            answers() > before
        });
        server.log.with(REFUSED).pop()
    });
    let refusal = refusal.expect("the limit is reached");
    assert!(refusal.has("8 workers and ") && refusal.has(" that drain: "), "{refusal:?}");
    assert!(refusal.has("the limit is 48 (raise ulimit -n)"), "{refusal:?}");
    // There is room for the successor of a worker.
    let victim = server.logged_workers()[&1];
    send_signal(victim, Signal::SIGKILL);
    wait_until(SOON, "it is replaced", || server.logged_workers()[&1] != victim);
    drop(held);
    wait_until(secs(10), "no worker drains", || server.family().len() == 9);
    reload(&server);
    server.assert_echoes();
    server.stop();
}
