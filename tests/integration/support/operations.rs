//! Operations on a running daemon: signals, reloads, counting, and configuration files.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::support::log::Line;
use crate::support::{SOON, Server, ms, proc, secs, wait_for, wait_until};

/// Time limit from SIGHUP to the last new worker.
const RELOAD: Duration = secs(8);

/// Beginning of the log line of a rejected reload.
pub(crate) const REFUSED: &str = "reload rejected, keeping current configuration: ";

/// Sends a signal to any process.
#[track_caller]
pub(crate) fn send_signal(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).expect("the process lives");
}

/// Sends SIGSTOP and waits until the process is stopped.
#[track_caller]
pub(crate) fn freeze(pid: i32) {
    send_signal(pid, Signal::SIGSTOP);
    wait_until(SOON, "the process is stopped", || proc::is_stopped(pid));
}

/// Sends SIGHUP and waits for the next line that contains `words`.
#[track_caller]
pub(crate) fn sighup_and_wait(server: &Server, limit: Duration, words: &str) -> Line {
    let before = server.log.count(words);
    server.signal(Signal::SIGHUP);
    wait_for(limit, &format!("a line with {words:?}"), || {
        server.log.with(words).into_iter().nth(before)
    })
}

/// Reloads and waits until all workers are new; returns the log line of the reload.
#[track_caller]
pub(crate) fn reload(server: &Server) -> Line {
    sighup_and_wait(server, RELOAD, ": reloaded version=")
}

/// Sends SIGHUP and waits until the reload is rejected; returns the log line.
#[track_caller]
pub(crate) fn refused_reload(server: &Server) -> Line {
    sighup_and_wait(server, RELOAD, REFUSED)
}

/// Waits until the reload that the last SIGHUP requested is complete. Several SIGHUPs can be one reload.
#[track_caller]
pub(crate) fn wait_for_the_last_reload(server: &Server) {
    wait_until(RELOAD, "the last reload is over", || {
        let lines = server.log.lines();
        let last = |words: &str| lines.iter().rposition(|line| line.has(words));
        let taken_over = last(": state restored ");
        last(": received SIGHUP") < taken_over && taken_over < last(": reloaded version=")
    });
}

/// Sends a SIGHUP every 300 ms, twenty times, and waits for the last reload.
pub(crate) fn twenty_reloads(server: &Server, mut before_each: impl FnMut(usize)) {
    for round in 0..20 {
        let next = Instant::now() + ms(300);
        before_each(round);
        server.signal(Signal::SIGHUP);
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    wait_for_the_last_reload(server);
}

/// Waits until the controller, this number of workers, no other process, and no zombie exist; returns the
/// workers.
#[track_caller]
pub(crate) fn wait_for_workers(server: &Server, workers: usize) -> BTreeMap<u32, i32> {
    let what = format!("the controller, {workers} workers, and no other process");
    wait_until(secs(8), &what, || {
        server.workers().len() == workers && server.family().len() == workers + 1
    });
    wait_until(SOON, "no zombie is left", || zombies_of(server.controller()) == 0);
    server.workers()
}

/// Returns the number of children that the process has not reaped.
fn zombies_of(pid: i32) -> usize {
    let is_zombie = |process: &proc::Process| process.ppid == pid && process.state == 'Z';
    proc::processes().into_iter().filter(is_zombie).count()
}

/// Returns the number of open descriptors of a process.
pub(crate) fn descriptors_of(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("the process lives").count()
}

/// Returns the connections that each worker is handling and has handled, by pid, as logged on SIGUSR1.
#[track_caller]
pub(crate) fn connection_counts(server: &Server) -> BTreeMap<i32, (usize, usize)> {
    let (workers, seen) = (server.workers(), server.log.lines().len());
    server.signal(Signal::SIGUSR1);
    wait_for(SOON, "a log line for every worker", || {
        let lines = server.log.lines().split_off(seen);
        let number = |slot, pid, what| {
            let (begin, end) =
                (format!("Worker {what} ("), format!(" slot={slot} worker_pid={pid}"));
            let of_worker = |line: &&Line| line.has(&begin) && line.text.ends_with(&end);
            let line = lines.iter().rev().find(of_worker)?;
            line.text.split_once(&begin)?.1.split_once(')')?.0.parse().ok()
        };
        let count = |(&slot, &pid): (&u32, &i32)| {
            let now = number(slot, pid, "is currently handling")?;
            Some((pid, (now, number(slot, pid, "has handled")?)))
        };
        workers.iter().map(count).collect()
    })
}

/// Fails if a worker of `before` is among the workers of `after`.
#[track_caller]
pub(crate) fn assert_all_new(before: &BTreeMap<u32, i32>, after: &BTreeMap<u32, i32>) {
    let old: Vec<&i32> =
        before.values().filter(|pid| after.values().any(|new| new == *pid)).collect();
    assert!(old.is_empty(), "all workers are new: {old:?} of {before:?} are still in {after:?}");
}

/// Fails unless the ended daemon started these workers only. Each exit is logged, also of workers that
/// never became ready.
#[track_caller]
pub(crate) fn assert_no_replacements(server: &mut Server, workers: &BTreeMap<u32, i32>) {
    server.log.join();
    let exited = server.log.with("worker exited");
    let mut exited: Vec<_> = exited.iter().map(|line| line.number("worker_pid")).collect();
    exited.sort();
    let mut workers: Vec<_> = workers.values().map(|&pid| Some(i64::from(pid))).collect();
    workers.sort();
    assert_eq!(exited, workers, "the workers that have exited are the first ones");
}

/// Fails unless the controller and the workers are the same as before and serve.
#[track_caller]
pub(crate) fn assert_untouched(server: &mut Server, before: &BTreeMap<u32, i32>) {
    assert_eq!(server.exit_code(), None, "the controller lives");
    server.assert_echoes();
    assert_eq!(&server.workers(), before, "the same workers");
    assert_eq!(server.log.count("worker exited"), 0);
}

/// Sends SIGHUP and fails unless the reload is aborted and the old workers stay. Returns the time of the
/// log line.
#[track_caller]
pub(crate) fn assert_reload_aborted(
    server: &mut Server,
    before: &BTreeMap<u32, i32>,
    limit: Duration,
) -> Instant {
    let line = sighup_and_wait(server, limit, "new worker did not become ready");
    assert!(line.has("reload aborted") && line.number("slot") == Some(1), "{line:?}");
    assert_eq!(server.exit_code(), None, "the controller lives");
    assert!(before.values().all(|&pid| proc::is_alive(pid)), "the old workers stay");
    assert_eq!(server.log.count(": reloaded "), 0);
    server.assert_echoes();
    line.at
}

/// Configuration file in a temporary directory.
#[derive(Debug)]
pub(crate) struct ConfigFile {
    path: PathBuf,
    directory: TempDir,
}

impl ConfigFile {
    /// Creates a file with this text.
    pub(crate) fn new(text: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tcp-echo.toml");
        fs::write(&path, text).unwrap();
        Self { path, directory }
    }

    /// Returns the path as it appears in arguments and messages.
    pub(crate) fn name(&self) -> &str {
        self.path.to_str().expect("a temporary directory has a plain name")
    }

    /// Returns the directory of the file.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Replaces the text atomically.
    pub(crate) fn write(&self, text: &str) {
        let next = self.path.with_extension("next");
        fs::write(&next, text).unwrap();
        fs::rename(next, &self.path).unwrap();
    }
}

/// Returns an unused port outside the range from which the kernel picks ephemeral ports.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 20_000 + (std::process::id() % 5000) as u16;
    let is_free = |port: &u16| {
        let all =
            [SocketAddr::from((Ipv4Addr::UNSPECIFIED, *port)), (Ipv6Addr::LOCALHOST, *port).into()];
        let in_use = |error: &std::io::Error| error.kind() == std::io::ErrorKind::AddrInUse;
        !all.iter().any(|address| TcpListener::bind(address).is_err_and(|error| in_use(&error)))
    };
    let ports = (0..).map(|_: u16| first + NEXT.fetch_add(1, Ordering::Relaxed) % 5000);
    ports.take(5000).find(is_free).expect("of 5000 ports one is free")
}
