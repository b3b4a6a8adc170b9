//! Processes: titles, threads, CPU affinity, number of workers, and busy polling.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::Instant;

use super::support::{SOON, Server, TestLock, lack, proc, secs, wait_until};

#[test]
fn every_process_has_its_title() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "2"]);
    let named = |pid: i32, title: &str| {
        wait_until(SOON, title, || proc::process(pid).is_some_and(|one| one.title == title));
        assert!(proc::command_line(pid).starts_with(title), "{:?}", proc::command_line(pid));
    };
    named(server.controller(), "tcp-echo[ctrlr]");
    named(server.workers()[&1], "tcp-echo[wrk1]");
    named(server.workers()[&2], "tcp-echo[wrk2]");
    server.stop();
}

#[test]
fn no_process_has_a_second_thread() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "2"]);
    server.assert_echoes();
    for pid in server.family() {
        let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap().count();
        assert_eq!(threads, 1, "threads of {:?}", proc::process(pid));
    }
    server.stop();
}

/// The processors that a process may use, in the kernel's notation: `0-1`.
fn processors_of(pid: i32) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("Cpus_allowed_list:"));
    line.unwrap().split_whitespace().nth(1).unwrap().to_owned()
}

#[test]
fn workers_are_pinned_only_with_cpu_affinity() {
    let lock = TestLock::shared();
    let all = processors_of(std::process::id() as i32);
    let free = lock.start(&["--workers", "2"]);
    free.workers().values().for_each(|&pid| assert_eq!(processors_of(pid), all));
    free.stop();
    let pinned = lock.start(&["--workers", "2", "--cpu-affinity"]);
    let places: Vec<String> = pinned.workers().into_values().map(processors_of).collect();
    assert_eq!(places.len(), 2);
    assert!(places.iter().all(|place| place.parse::<u32>().is_ok()), "one each: {places:?}");
    if all.parse::<u32>().is_err() {
        assert_ne!(places[0], places[1], "there is more than one processor");
    }
    assert_eq!(processors_of(pinned.controller()), all, "the controller is not pinned");
    pinned.stop();
}

#[test]
fn by_default_there_is_a_worker_for_each_usable_processor() {
    let lock = TestLock::shared();
    let usable = std::thread::available_parallelism().unwrap().get();
    let server = lock.start(&[]);
    assert_eq!(server.workers().len(), usable);
    server.stop();
    if Command::new("taskset").arg("--version").output().is_err() {
        return lack("taskset");
    }
    let all = processors_of(std::process::id() as i32);
    let first: String = all.chars().take_while(char::is_ascii_digit).collect();
    let server = lock.launch(&[]).under(&["taskset", "-c", &first]).start();
    assert_eq!(server.workers().len(), 1, "one is allowed");
    server.stop();
}

/// Returns the share of two seconds for which the idle worker wanted a processor, whether it got one
/// or waited for it: other load on the machine does not change that.
fn share_of_running(server: &Server) -> f64 {
    let worker = server.worker();
    let (begin, before) = (Instant::now(), proc::runnable_time(worker));
    thread::sleep(secs(2));
    let wanted = proc::runnable_time(worker) - before;
    wanted.as_secs_f64() / begin.elapsed().as_secs_f64()
}

#[test]
fn busy_polling_lasts_for_the_configured_time() {
    let lock = TestLock::shared();
    let share = |microseconds: &str| {
        let server = lock.start(&["--workers", "1", "--busy-poll", microseconds]);
        server.assert_echoes();
        let share = share_of_running(&server);
        server.assert_echoes();
        assert_eq!(server.log.count("worker unresponsive"), 0, "its heartbeat is on time");
        server.stop();
        share
    };
    // An idle worker wakes up once a second, and polls each time.
    let (never, part, always) = (share("0"), share("300000"), share("1000000"));
    println!("share of time: {never:.3} without, {part:.3} with 0.3 s, {always:.3} with 1 s");
    assert!(never < 0.2, "without busy polling it sleeps: {never}");
    assert!((0.2..0.7).contains(&part), "0.3 s of each second: {part}");
    assert!(always > 0.8, "a second of each second: {always}");
}
