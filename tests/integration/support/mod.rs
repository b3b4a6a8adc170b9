//! What every test stands on: turns, deadlines, and the doors to the other helpers.
//!
//! A test takes a [`Turn`], launches servers with it, and talks to them through a
//! [`Client`](client::Client). Nothing here sleeps and hopes: evidence is awaited with a deadline.

use std::env;
use std::fs::File;
use std::io::Write;
use std::process::Command;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread;
use std::time::{Duration, Instant};

pub(crate) mod browser;
pub(crate) mod bystander;
pub(crate) mod client;
pub(crate) mod diag;
pub(crate) mod foreign;
pub(crate) mod http;
pub(crate) mod launch;
pub(crate) mod load;
pub(crate) mod log;
pub(crate) mod network;
pub(crate) mod pattern;
pub(crate) mod proc;
pub(crate) mod seccomp;
pub(crate) mod server;
pub(crate) mod statistics;
pub(crate) mod trace;

pub(crate) use client::{Client, End};
pub(crate) use launch::Launch;
pub(crate) use load::{alongside, under_connecting_load};
pub(crate) use server::Server;
pub(crate) use statistics::{stats, sum, total};

/// What the daemon is allowed for anything that ought to happen at once, on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(5);

/// How often a condition is looked at again.
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
static TURNS: RwLock<()> = RwLock::new(());

/// The right to start servers now. Tests that measure time, or that load both processors, take
/// theirs [`alone`](Turn::alone); all others may overlap.
pub(crate) struct Turn {
    _hold: Hold,
}

/// Never read: it is there to be dropped at the end of the test.
enum Hold {
    Shared { _guard: RwLockReadGuard<'static, ()> },
    Alone { _guard: RwLockWriteGuard<'static, ()> },
}

impl Turn {
    /// A turn beside other ordinary tests. One a test: a second one could wait for itself.
    pub(crate) fn shared() -> Self {
        pattern::prepare();
        let guard = TURNS.read().unwrap_or_else(PoisonError::into_inner);
        Self { _hold: Hold::Shared { _guard: guard } }
    }

    /// A turn with no other test running.
    pub(crate) fn alone() -> Self {
        pattern::prepare();
        let guard = TURNS.write().unwrap_or_else(PoisonError::into_inner);
        Self { _hold: Hold::Alone { _guard: guard } }
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

/// Waits until `holds` says yes; fails the test, naming `what`, when `limit` has passed.
#[track_caller]
pub(crate) fn wait_until(limit: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    wait_for(limit, what, || holds().then_some(()));
}

/// Waits until `probe` finds something and returns it; fails the test after `limit`.
#[track_caller]
pub(crate) fn wait_for<T>(limit: Duration, what: &str, probe: impl FnMut() -> Option<T>) -> T {
    match try_for(limit, probe) {
        Some(found) => found,
        None => panic!("waited {limit:?} in vain: {what}"),
    }
}

/// Like [`wait_for`], for callers that have a better answer to failure than a panic.
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

/// Skips the calling test, or what is left of it, because this machine cannot do what it needs.
pub(crate) fn skip(why: &str) {
    record_skip(77, why);
}

/// Skips the calling test, or what is left of it, because `tool` is not installed. `test.sh --strict`
/// fails it.
pub(crate) fn lack(tool: &str) {
    record_skip(78, &format!("{tool} is not installed"));
}

/// Appends a line to the file that `TCP_ECHO_SKIPS` names; tests/steps.sh has the two kinds.
fn record_skip(kind: u8, why: &str) {
    println!("skipped: {why}");
    let Some(path) = env::var_os("TCP_ECHO_SKIPS") else { return };
    let test = thread::current().name().unwrap_or_default().to_owned();
    let mut file = File::options().append(true).create(true).open(path).unwrap();
    // In one write: other tests append to this file.
    file.write_all(format!("{kind} {test} ({why})\n").as_bytes()).unwrap();
}

/// Returns `true` if this command succeeds; otherwise skips the calling test.
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
