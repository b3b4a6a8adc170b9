//! `--pid-file` and `--daemon`: locking, replacement, and removal.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::support::operations::reload;
use super::support::{SOON, Server, TestLock, proc, secs, wait_for, wait_until};

fn pid_in(path: &Path) -> Option<i32> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[test]
fn the_pid_file_is_written_and_removed() {
    let lock = TestLock::shared();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tcp-echo.pid");
    let server = lock.start(&["--workers", "2", "--pid-file", path.to_str().unwrap()]);
    assert_eq!(pid_in(&path), Some(server.controller()));
    assert!(fs::read_to_string(&path).unwrap().ends_with('\n'), "a line, as scripts expect it");
    server.stop();
    assert!(!path.exists(), "the pid file is removed at the end");
}

#[test]
fn a_second_instance_with_the_same_pid_file_is_rejected() {
    let lock = TestLock::shared();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tcp-echo.pid");
    let name = path.to_str().unwrap();
    let server = lock.start(&["--workers", "1", "--pid-file", name]);
    let second = lock.launch(&["--port", "0", "--workers", "1", "--pid-file", name]).run();
    second.assert_one_line(1, &[name]);
    assert!(second.took < secs(1), "{second:?}");
    assert_eq!(pid_in(&path), Some(server.controller()), "the file still names the first");
    server.assert_echoes();
    server.stop();
}

#[test]
fn a_pid_file_of_a_killed_controller_is_replaced() {
    let lock = TestLock::shared();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tcp-echo.pid");
    let name = path.to_str().unwrap();
    let mut first = lock.start(&["--workers", "2", "--pid-file", name]);
    first.signal(Signal::SIGKILL);
    first.wait_exit(secs(1));
    wait_until(secs(2), "the first family is gone", || first.family().is_empty());
    assert!(path.exists(), "no process was left to remove it");
    let second = lock.start(&["--workers", "1", "--pid-file", name]);
    assert_eq!(pid_in(&path), Some(second.controller()));
    second.stop();
}

#[test]
fn a_file_that_is_no_pid_file_is_kept() {
    let lock = TestLock::shared();
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    fs::write(path("notes"), "precious\n").unwrap();
    fs::write(path("pid.toml"), "workers = 1\n").unwrap();
    nix::unistd::mkfifo(&path("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    fs::create_dir(path("folder")).unwrap();
    std::os::unix::fs::symlink("/dev/null", path("device")).unwrap();
    for name in ["notes", "pid.toml", "pipe", "folder", "device"] {
        let path = path(name);
        let before = fs::symlink_metadata(&path).unwrap();
        let name = path.to_str().unwrap();
        let refused = lock.launch(&["--workers", "1", "--pid-file", name]).run();
        refused.assert_one_line(1, &["pid file", name]);
        let after = fs::symlink_metadata(&path).unwrap();
        assert_eq!((before.ino(), before.len()), (after.ino(), after.len()), "{name}");
    }
    assert_eq!(fs::read_to_string(path("notes")).unwrap(), "precious\n");
    assert!(Path::new("/dev/null").exists());
}

#[test]
fn a_pid_file_replaced_by_another_instance_is_kept() {
    let lock = TestLock::shared();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tcp-echo.pid");
    let start = || lock.start(&["--workers", "1", "--pid-file", path.to_str().unwrap()]);
    let first = start();
    fs::remove_file(&path).unwrap();
    let second = start();
    reload(&first);
    first.stop();
    assert_eq!(pid_in(&path), Some(second.controller()), "the file is the second instance's");
    second.stop();
    assert!(!path.exists(), "its owner removes it");
}

#[test]
fn a_pid_file_that_names_another_process_is_kept_at_exit() {
    let lock = TestLock::shared();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tcp-echo.pid");
    let server = lock.start(&["--workers", "1", "--pid-file", path.to_str().unwrap()]);
    let inode = fs::metadata(&path).unwrap().ino();
    // In the same file: by a script that knows nothing of the lock.
    fs::write(&path, format!("{}\n", std::process::id())).unwrap();
    reload(&server);
    server.stop();
    assert_eq!(pid_in(&path), Some(std::process::id() as i32), "the file names us");
    assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
}

#[test]
fn killing_a_worker_keeps_the_pid_file() {
    let lock = TestLock::shared();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tcp-echo.pid");
    let server = lock.start(&["--workers", "1", "--pid-file", path.to_str().unwrap()]);
    let worker = server.worker();
    kill(Pid::from_raw(worker), Signal::SIGTERM).unwrap();
    wait_until(SOON, "the worker is replaced", || {
        server.workers().get(&1).is_some_and(|&pid| pid != worker)
    });
    assert_eq!(pid_in(&path), Some(server.controller()));
    server.stop();
}

#[test]
fn an_unwritable_pid_file_is_named() {
    let lock = TestLock::shared();
    let name = "/nonexistent/tcp-echo.pid";
    let outcome = lock.launch(&["--port", "0", "--workers", "1", "--pid-file", name]).run();
    outcome.assert_one_line(1, &[name]);
    assert!(outcome.took < secs(1), "{outcome:?}");
}

/// Starts with --daemon and returns the guard, which knows the controller by the pid file.
fn start_daemon(lock: &TestLock, path: &Path) -> Server {
    let args = ["--daemon", "--workers", "2", "--pid-file", path.to_str().unwrap()];
    let mut server = lock.launch(&args).start_unready();
    assert_eq!(server.wait_exit(SOON), Some(0), "the start reports success");
    let pid = wait_for(SOON, "the pid file names a process", || pid_in(path));
    server.controller_is(pid);
    server.wait_listening(2);
    server
}

#[test]
fn a_daemon_detaches_serves_and_exits_on_term() {
    let lock = TestLock::shared();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tcp-echo.pid");
    let server = start_daemon(&lock, &path);
    let daemon = proc::process(server.controller()).expect("the pid file names the daemon");
    let own = proc::process(std::process::id() as i32).unwrap();
    assert_eq!(daemon.title, "tcp-echo[ctrlr]");
    assert_ne!(daemon.session, own.session, "it has left our session");
    assert_ne!(daemon.ppid, own.pid, "the daemon is not our child");
    for descriptor in [0, 1] {
        let target = fs::read_link(format!("/proc/{}/fd/{descriptor}", daemon.pid)).unwrap();
        assert_eq!(target, Path::new("/dev/null"), "descriptor {descriptor}");
    }
    server.assert_echoes();
    server.signal(Signal::SIGTERM);
    wait_until(SOON, "the daemon ends", || !proc::is_alive(daemon.pid));
    wait_until(SOON, "its pid file is removed", || !path.exists());
}

#[test]
fn a_killed_daemon_leaves_no_process() {
    let lock = TestLock::shared();
    let directory = tempfile::tempdir().unwrap();
    let server = start_daemon(&lock, &directory.path().join("tcp-echo.pid"));
    let workers = server.workers();
    assert_eq!(workers.len(), 2);
    server.signal(Signal::SIGKILL);
    wait_until(secs(2), "no process is left", || !workers.values().any(|&pid| proc::is_alive(pid)));
}

#[test]
fn a_failed_startup_is_reported_before_detaching() {
    let lock = TestLock::shared();
    let other = std::net::TcpListener::bind(("0.0.0.0", 0)).unwrap();
    let port = other.local_addr().unwrap().port().to_string();
    let outcome = lock.launch(&["--daemon", "--port", &port, "--workers", "2"]).run();
    outcome.assert_one_line(1, &[&port, "in use"]);
}
