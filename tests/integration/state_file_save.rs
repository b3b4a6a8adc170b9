//! Saves of the state file that are interrupted or impossible.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::thread;

use nix::sys::signal::Signal;

use super::listen_errors::unprivileged;
use super::state_file::{KEPT, NOT_KEPT, StateFile};
use super::support::load::in_parallel;
use super::support::strace::Tracer;
use super::support::{SOON, Server, TestLock, ms, permitted, stats, total, wait_until};

/// System calls of one save on the file and its draft, in order.
const CALLS: [&str; 7] =
    ["openat", "ftruncate", "lseek", "write", "fsync", "?rename,renameat,renameat2", "close"];

/// Lets the controller be killed before a system call on the state file; `None` where that is not
/// possible.
fn kill_before(server: &Server, state_file: &StateFile, calls: &str) -> Option<Tracer> {
    let path = state_file.path.to_str().unwrap();
    let draft = format!("{path}.tmp");
    let inject = format!("inject={calls}:signal=SIGKILL");
    Tracer::attach(server.controller(), &["-P", path, "-P", &draft, "-e", &inject])
}

/// The totals on disk are those of before the save or after it, and the next instance goes on with
/// them.
#[track_caller]
fn assert_whole(lock: &TestLock, state_file: &StateFile, least: u64, most: u64, when: &str) {
    let saved = state_file.saved("accepted");
    assert!(saved.is_some_and(|saved| (least..=most).contains(&saved)), "{when}: {saved:?}");
    let server = state_file.start(lock);
    assert_eq!(Some(total(&stats(&server), "connections_accepted")), saved, "{when}");
    state_file.wait_saved(saved.unwrap());
    assert_eq!(server.log.count(NOT_KEPT) + server.log.count("damaged"), 0, "{when}");
    server.stop();
    assert_eq!(state_file.names(), ["state"], "{when}: nothing is left beside it");
}

#[test]
fn a_kill_before_any_system_call_of_a_save_leaves_a_complete_file() {
    if !permitted(&["strace", "-o", "/dev/null", "true"]) {
        return;
    }
    let lock = TestLock::shared();
    in_parallel(CALLS.len(), |index| {
        let call = CALLS[index];
        let state_file = StateFile::new();
        let mut server = state_file.start(&lock);
        (0..5).for_each(|_| server.assert_echoes());
        state_file.wait_saved(5);
        server.assert_echoes();
        let Some(_tracer) = kill_before(&server, &state_file, call) else { return };
        assert_eq!(server.wait_exit(SOON), None, "killed before {call}");
        wait_until(SOON, "all are gone", || server.family().is_empty());
        assert_whole(&lock, &state_file, 5, 6, &format!("killed before {call}"));
    });
}

#[test]
fn a_kill_during_the_last_save_leaves_a_complete_file() {
    let lock = TestLock::shared();
    let was_last = || {
        let state_file = StateFile::new();
        let mut server = state_file.start(&lock);
        (0..5).for_each(|_| server.assert_echoes());
        // The next save is a second away; a signal is faster, unless the machine is busy.
        state_file.wait_saved(5);
        let _tracer = kill_before(&server, &state_file, "fsync")?;
        server.signal(Signal::SIGTERM);
        assert_eq!(server.wait_exit(SOON), None, "killed at the end");
        wait_until(SOON, "all are gone", || server.family().is_empty());
        assert_whole(&lock, &state_file, 5, 5, "killed at the end");
        Some(server.log.count("worker exited") == 1)
    };
    // Without a tracer it is skipped.
    let done = (0..10).any(|_| was_last().unwrap_or(true));
    assert!(done, "never killed during the last save");
}

#[test]
fn an_unwritable_directory_is_logged_once() {
    let lock = TestLock::shared();
    let programs = tempfile::tempdir().unwrap();
    let state_file = StateFile::new();
    let permit = |mode: u32| {
        let permissions = fs::Permissions::from_mode(mode);
        fs::set_permissions(state_file.folder.path(), permissions).unwrap();
    };
    let launch =
        lock.launch(&["--workers", "1", "--state-file", state_file.path.to_str().unwrap()]);
    // Root may write everywhere.
    let launch = match nix::unistd::geteuid().is_root() {
        true if !permitted(&["setpriv", "--reuid", "65534", "true"]) => return,
        true => unprivileged(launch, programs.path()),
        false => launch,
    };
    permit(0o555);
    let server = launch.start();
    let line = server.log.wait_for(SOON, NOT_KEPT);
    assert!(
        line.has(state_file.path.to_str().unwrap()) && line.has("ermission denied"),
        "{line:?}"
    );
    for writable in [true, false, true] {
        let said = [NOT_KEPT, KEPT].map(|words| server.log.count(words));
        // It tries once a second.
        thread::sleep(ms(2500));
        assert_eq!([NOT_KEPT, KEPT].map(|words| server.log.count(words)), said, "no line more");
        server.assert_echoes();
        permit(if writable { 0o777 } else { 0o555 });
        let (words, before) = if writable { (KEPT, said[1]) } else { (NOT_KEPT, said[0]) };
        wait_until(SOON, words, || server.log.count(words) == before + 1);
    }
    state_file.wait_saved(3);
    server.stop();
    assert_eq!(state_file.names(), ["state"], "nothing is left beside it");
}
