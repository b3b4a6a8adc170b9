//! What the processes look like from outside: titles, threads, processors, how many there are.

use std::fs;
use std::process::Command;

use super::support::{SOON, Turn, lack, proc, wait_until};

#[test]
fn every_process_has_its_title() {
    let turn = Turn::shared();
    let server = turn.start(&["--workers", "2"]);
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
    let turn = Turn::shared();
    let server = turn.start(&["--workers", "2"]);
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
fn workers_are_pinned_only_when_that_is_wanted() {
    let turn = Turn::shared();
    let all = processors_of(std::process::id() as i32);
    let free = turn.start(&["--workers", "2"]);
    free.workers().values().for_each(|&pid| assert_eq!(processors_of(pid), all));
    free.stop();
    let pinned = turn.start(&["--workers", "2", "--cpu-affinity"]);
    let places: Vec<String> = pinned.workers().into_values().map(processors_of).collect();
    assert!(places.iter().all(|place| place.parse::<u32>().is_ok()), "one each: {places:?}");
    if all.parse::<u32>().is_err() {
        assert_ne!(places[0], places[1], "there is more than one processor");
    }
    assert_eq!(processors_of(pinned.controller()), all, "the controller is not pinned");
    pinned.stop();
}

#[test]
fn by_default_there_is_a_worker_for_each_usable_processor() {
    let turn = Turn::shared();
    let usable = std::thread::available_parallelism().unwrap().get();
    let server = turn.start(&[]);
    assert_eq!(server.workers().len(), usable);
    server.stop();
    if Command::new("taskset").arg("--version").output().is_err() {
        return lack("taskset");
    }
    let all = processors_of(std::process::id() as i32);
    let first: String = all.chars().take_while(char::is_ascii_digit).collect();
    let server = turn.launch(&[]).under(&["taskset", "-c", &first]).start();
    assert_eq!(server.workers().len(), 1, "one is allowed");
    server.stop();
}
