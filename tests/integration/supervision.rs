//! Supervision: workers that die, hang, or crash are replaced, and no waiting client is lost.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::Signal;

use super::support::baseline::{bare_process, with_baseline};
use super::support::log::Line;
use super::support::operations::send_signal;
use super::support::pattern::Random;
use super::support::{
    Client, SOON, Server, TestLock, assert_between, ms, permitted, proc, secs,
    under_connecting_load, wait_until,
};

/// Kills one worker and waits until its slot serves again. Returns the time from the signal to the
/// timestamp of the log line.
fn kill_and_time(server: &Server, slot: u32, pid: i32) -> Duration {
    let killed = SystemTime::now();
    send_signal(pid, Signal::SIGKILL);
    let what = format!("slot {slot} is ready again");
    let since = |line: &Line| line.stamp().and_then(|stamp| stamp.duration_since(killed).ok());
    let ready = server.log.wait_for_line(secs(2), &what, |line| {
        since(line).is_some()
            && line.has("worker ready")
            && line.number("slot") == Some(i64::from(slot))
            && line.number("worker_pid") != Some(i64::from(pid))
    });
    since(&ready).expect("it is a later line")
}

#[test]
fn twenty_random_kills_under_connecting_load_refuse_no_connection() {
    let lock = TestLock::exclusive();
    let server = lock.start(&["--workers", "6", "--enable-log-timestamps"]);
    let mut random = Random::new(20);
    let kills = || {
        let mut times = Vec::new();
        for _ in 0..20 {
            let workers: Vec<(u32, i32)> = server.workers().into_iter().collect();
            let (slot, pid) = workers[random.below(workers.len() as u64) as usize];
            times.push(kill_and_time(&server, slot, pid));
            wait_until(SOON, "six workers again", || server.workers().len() == 6);
            // They shall be killed in service, not at birth: that is another test.
            thread::sleep(ms(300));
        }
        times
    };
    let ((mut times, baseline), load) =
        under_connecting_load(server.address(), || with_baseline(bare_process(), ms(50), kills));
    println!("slot back after {times:?}");
    times.sort();
    let (median, worst) = (times[10], times[19]);
    println!("median {median:?}, worst {worst:?}; {load:?}");
    let (late, latest) = (baseline.median(), baseline.worst());
    println!("a baseline's processes were late by {late:?}, at worst by {latest:?}");
    assert!(worst <= secs(1) + latest, "every slot is back within a second: {times:?}");
    assert!(median <= ms(20) + late, "the median slot is back within 20 ms: {times:?}");
    assert!(load.failures.is_empty(), "no client is refused or times out: {load:?}");
    // A killed worker takes with it only what it had accepted: at most one short_exchange a client.
    assert!(load.broken <= 20 * 4, "{load:?}");
    assert!(load.served > 100, "the load was real: {load:?}");
    server.stop();
}

#[test]
fn forty_queued_connections_survive_the_kill_of_all_workers() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "3"]);
    let before = server.workers();
    for &pid in before.values() {
        send_signal(pid, Signal::SIGSTOP);
        wait_until(SOON, "the worker stands still", || proc::is_stopped(pid));
    }
    let mut queued: Vec<Client> = (0..40).map(|_| server.connect()).collect();
    queued.iter_mut().for_each(|client| client.send(1000));
    for &pid in before.values() {
        send_signal(pid, Signal::SIGKILL);
    }
    for client in &mut queued {
        client.expect(1000);
    }
    queued.into_iter().for_each(Client::finish);
    wait_until(SOON, "three new workers", || {
        let now = server.workers();
        now.len() == 3 && now.values().all(|pid| !before.values().any(|old| old == pid))
    });
    server.stop();
}

#[test]
fn a_stopped_worker_is_replaced_after_the_worker_timeout() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "2", "--worker-timeout", "2"]);
    let before = server.workers();
    let stopped = Instant::now();
    send_signal(before[&2], Signal::SIGSTOP);
    wait_until(SOON, "the worker stands still", || proc::is_stopped(before[&2]));
    let mut queued: Vec<Client> = (0..20).map(|_| server.connect()).collect();
    queued.iter_mut().for_each(|client| client.send(100));

    let hung = server.log.wait_for(secs(5), "worker hung");
    assert_eq!(hung.number("slot"), Some(2));
    assert_eq!(hung.number("worker_pid"), Some(i64::from(before[&2])));
    // The last heartbeat was up to a second before the stop.
    assert_between("time to the verdict", hung.at - stopped, ms(900), ms(4500));

    let back = |line: &Line| line.has("worker ready") && line.at > stopped;
    let ready = server.log.wait_for_line(secs(8), "slot 2 is back", back);
    assert_eq!(ready.number("slot"), Some(2));
    queued.iter_mut().for_each(|client| client.expect(100));
    let after = server.workers();
    assert_eq!(after[&1], before[&1], "the healthy worker was left alone");
    assert_ne!(after[&2], before[&2], "the stopped worker was replaced");
    queued.into_iter().for_each(Client::finish);
    // A stopped process does not take SIGABRT: SIGKILL follows after 5 s.
    let old = before[&2];
    wait_until(secs(8), "the stopped worker is killed", || !proc::is_alive(old));
    server.stop();
}

#[test]
fn busy_and_idle_workers_are_not_considered_hung() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "2", "--worker-timeout", "2"]);
    let before = server.workers();
    let (_, load) = under_connecting_load(server.address(), || thread::sleep(secs(3)));
    load.assert_all_served();
    thread::sleep(secs(3));
    assert_eq!(server.log.count("worker hung"), 0);
    assert_eq!(server.workers(), before);
    server.stop();
}

/// Delays of a crash loop, as logged: 100 ms doubled each time, half as much more or less.
fn assert_backs_off(delays: &[i64]) {
    assert!(delays.len() >= 3, "several delayed respawns: {delays:?}");
    for (step, &delay) in delays.iter().enumerate() {
        let nominal = 100_i64 << step;
        assert!(nominal / 2 <= delay && delay <= nominal * 3 / 2, "step {step} of {delays:?}");
    }
    for pair in delays.windows(3) {
        assert!(pair[0] < pair[2], "delays grow, but for the jitter: {delays:?}");
    }
}

/// Of twenty connections some reach a healthy slot.
fn is_served(server: &Server) -> bool {
    let mut clients: Vec<Client> = (0..20).map(|_| server.connect()).collect();
    clients.iter_mut().any(|client| {
        let result = client.stream().set_read_timeout(Some(ms(100)));
        result.and_then(|()| client.try_send(10)).and_then(|()| client.try_expect(10)).is_ok()
    })
}

/// Watches slot 2 crash six times: immediately, then after about 0.1, 0.2, 0.4 and 0.8 s.
fn watch_the_crash_loop(server: &Server) {
    let crashed = || {
        let mut lines = server.log.with("worker exited");
        lines.retain(|line| line.number("slot") == Some(2));
        lines
    };
    let ((), baseline) = with_baseline(bare_process(), ms(50), || {
        wait_until(secs(6), "six crashes", || crashed().len() >= 6);
    });
    // On a busy machine the controller may be late by this much when it reads the clock or logs.
    let late = baseline.worst();
    let crashes: Vec<SystemTime> = crashed().iter().filter_map(Line::stamp).collect();
    let gap = |step: usize| crashes[step + 1].duration_since(crashes[step]).unwrap_or_default();
    assert!(gap(0) < ms(90) + late, "the first respawn is immediate: {:?}", gap(0));
    let respawns = server.log.with("worker restart delayed");
    let delays: Vec<i64> = respawns.iter().filter_map(|line| line.number("delay_ms")).collect();
    assert_backs_off(&delays);
    for (&delay, gap) in delays.iter().take(4).zip((1..).map(gap)) {
        assert!(gap + late >= ms(delay as u64 - 5), "the delay of {delay} ms is kept: {gap:?}");
    }
    let lines = server.log.lines().len();
    assert!(lines <= 40, "{lines} lines of log for {} crashes", crashes.len());
    assert!(server.workers().contains_key(&1), "slot 1 is untouched");
    assert_eq!(server.workers().get(&1), server.logged_workers().get(&1));
}

#[test]
fn a_worker_that_crashes_when_ready_is_restarted_with_backoff() {
    let lock = TestLock::shared();
    let launch = lock.launch(&["--workers", "2", "--fault", "crash-when-ready:2"]);
    let launch = launch.arg("--enable-log-timestamps");
    let mut server = launch.start_unready();
    server.wait_serving(SOON);
    watch_the_crash_loop(&server);
    assert!(is_served(&server), "slot 1 serves beside the crash loop");
    server.stop();
}

#[test]
fn a_worker_that_crashes_at_startup_is_restarted_with_backoff() {
    let lock = TestLock::shared();
    let launch = lock.launch(&["--workers", "2", "--fault", "crash-at-boot:2"]);
    let launch = launch.arg("--enable-log-timestamps");
    let server = launch.start_unready();
    watch_the_crash_loop(&server);
    server.stop();
}

#[test]
fn the_daemon_exits_if_no_worker_becomes_ready_and_starts_if_some_do() {
    let lock = TestLock::shared();
    let start = |fault: &str| lock.launch(&["--workers", "2", "--fault", fault]).start_unready();
    let hopeless = ["crash-at-boot:0", "hang-at-boot:0"].map(start);
    let mut halting = start("hang-at-boot:2");
    for mut server in hopeless {
        assert_eq!(server.wait_exit(secs(15)), Some(1));
        let lines = server.into_output().1;
        assert!(!lines.is_empty() && lines.len() <= 40, "{lines:#?}");
    }
    halting.wait_serving(secs(15));
    assert_eq!(halting.workers().get(&1), halting.logged_workers().get(&1));
    assert!(is_served(&halting), "the worker that is ready serves");
}

#[test]
fn a_worker_that_gets_term_drains_and_is_replaced() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "1"]);
    let worker = server.worker();
    let mut client = server.connect();
    client.echo(1000);
    send_signal(worker, Signal::SIGTERM);
    // The drained worker says goodbye in order.
    client.expect_fin();
    drop(client);
    wait_until(SOON, "the slot is back", || {
        server.workers().get(&1).is_some_and(|&pid| pid != worker)
    });
    server.assert_echoes();
    server.stop();
}

#[test]
fn a_worker_whose_event_loop_fails_is_replaced() {
    if !permitted(&["strace", "-o", "/dev/null", "true"]) {
        return;
    }
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "2"]);
    let workers = server.workers();
    let inject = "inject=?epoll_wait,epoll_pwait:error=EINVAL";
    let victim = workers[&2].to_string();
    let mut strace = Command::new("strace")
        .args(["-qq", "-o", "/dev/null", "-e", inject, "-p", &victim])
        .spawn()
        .unwrap();
    let exited = server.log.wait_for(SOON, "worker exited");
    assert!(strace.wait().is_ok());
    assert_eq!(exited.number("slot"), Some(2));
    assert!(exited.has("exit code 1"), "{exited:?}");
    wait_until(SOON, "the slot has a new worker", || {
        let ready = server.logged_workers();
        ready[&2] != workers[&2] && server.workers() == ready
    });
    assert_eq!(server.workers()[&1], workers[&1]);
    (0..20).for_each(|_| server.assert_echoes());
    server.stop();
}
