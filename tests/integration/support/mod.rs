//! Test support: the lock that orders tests, waiting with deadlines, skipping, and helpers by topic.
//!
//! A test takes a [`TestLock`], launches servers with it, and talks to them through a
//! [`Client`](client::Client). Helpers wait for evidence until a deadline instead of sleeping.

use std::env;
use std::fs::File;
use std::io::Write;
use std::process::Command;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread;
use std::time::{Duration, Instant};

pub(crate) mod accept_queues;
pub(crate) mod baseline;
pub(crate) mod browser;
pub(crate) mod builds;
pub(crate) mod client;
pub(crate) mod faulty_servers;
pub(crate) mod flow;
pub(crate) mod http;
pub(crate) mod launch;
pub(crate) mod load;
pub(crate) mod log;
pub(crate) mod network_namespace;
pub(crate) mod operations;
pub(crate) mod pattern;
pub(crate) mod proc;
pub(crate) mod seccomp;
pub(crate) mod server;
pub(crate) mod server_socket;
pub(crate) mod service_manager;
pub(crate) mod sock_diag;
pub(crate) mod statistics;
pub(crate) mod strace;
pub(crate) mod traffic;

pub(crate) use client::{Client, End};
pub(crate) use launch::Launch;
pub(crate) use load::{under_connecting_load, with_background};
pub(crate) use server::Server;
pub(crate) use statistics::{stats, sum, total};

/// Time limit for effects that are immediate on an idle machine.
pub(crate) const SOON: Duration = Duration::from_secs(5);

/// Interval between checks of a condition.
const POLL: Duration = Duration::from_millis(5);

/// Shorthand that lets tests read as sentences.
pub(crate) const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// Shorthand that lets tests read as sentences.
pub(crate) const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Orders the tests of this binary, which run in parallel threads.
static TEST_LOCK: RwLock<()> = RwLock::new(());

/// Permission to start servers. Tests that measure time or load all processors take an
/// [`exclusive`](TestLock::exclusive) lock; all others share it.
pub(crate) struct TestLock {
    _guard: Guard,
}

/// Never read: dropping it at the end of the test releases the lock.
enum Guard {
    Shared { _guard: RwLockReadGuard<'static, ()> },
    Exclusive { _guard: RwLockWriteGuard<'static, ()> },
}

impl TestLock {
    /// Waits until no test holds an exclusive lock. A test takes one lock only: a second one can deadlock.
    pub(crate) fn shared() -> Self {
        pattern::prepare();
        let guard = TEST_LOCK.read().unwrap_or_else(PoisonError::into_inner);
        Self { _guard: Guard::Shared { _guard: guard } }
    }

    /// Waits until no other test runs.
    pub(crate) fn exclusive() -> Self {
        pattern::prepare();
        let guard = TEST_LOCK.write().unwrap_or_else(PoisonError::into_inner);
        Self { _guard: Guard::Exclusive { _guard: guard } }
    }

    /// Prepares a start of the binary with these arguments.
    pub(crate) fn launch(&self, args: &[&str]) -> Launch {
        Launch::new(args)
    }

    /// Starts a server on a free port and waits until it serves.
    pub(crate) fn start(&self, args: &[&str]) -> Server {
        self.launch(args).start()
    }
}

/// Waits until `holds` returns `true`; fails the test, naming `what`, after `limit`.
#[track_caller]
pub(crate) fn wait_until(limit: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    wait_for(limit, what, || holds().then_some(()));
}

/// Waits until `probe` returns a value, and returns it; fails the test, naming `what`, after `limit`.
#[track_caller]
pub(crate) fn wait_for<T>(limit: Duration, what: &str, probe: impl FnMut() -> Option<T>) -> T {
    match try_for(limit, probe) {
        Some(found) => found,
        None => panic!("not within {limit:?}: {what}"),
    }
}

/// Waits until `probe` returns a value; returns `None` after `limit`.
pub(crate) fn try_for<T>(limit: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        // The time is read first: a probe that starts before the deadline is never cut off by it.
        let late = Instant::now() >= deadline;
        match probe() {
            Some(found) => return Some(found),
            None if late => return None,
            None => thread::sleep(POLL),
        }
    }
}

/// Records the calling test as skipped because this machine lacks a permission or a feature.
pub(crate) fn skip(why: &str) {
    record_skip(77, why);
}

/// Records the calling test as skipped because `tool` is not installed; `test.sh --strict` fails it.
pub(crate) fn lack(tool: &str) {
    record_skip(78, &format!("{tool} is not installed"));
}

/// Appends a line to the file that `TCP_ECHO_SKIPS` names; tests/steps.sh defines the two kinds.
fn record_skip(kind: u8, why: &str) {
    println!("skipped: {why}");
    let Some(path) = env::var_os("TCP_ECHO_SKIPS") else { return };
    let test = thread::current().name().unwrap_or_default().to_owned();
    let mut file = File::options().append(true).create(true).open(path).unwrap();
    // One write, because other tests append to the same file.
    file.write_all(format!("{kind} {test} ({why})\n").as_bytes()).unwrap();
}

/// Returns `true` if this command succeeds; otherwise records the calling test as skipped.
pub(crate) fn permitted(command: &[&str]) -> bool {
    match Command::new(command[0]).args(&command[1..]).output() {
        Ok(output) if output.status.success() => return true,
        Ok(_) => skip(&format!("{} {} is not permitted here", command[0], command[1])),
        Err(_) => lack(command[0]),
    }
    false
}

/// Fails unless `took` lies within the two bounds, both included.
#[track_caller]
pub(crate) fn assert_between(what: &str, took: Duration, least: Duration, most: Duration) {
    assert!(least <= took && took <= most, "{what}: {took:?} is not in {least:?} ..= {most:?}");
}
