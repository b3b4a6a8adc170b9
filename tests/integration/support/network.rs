//! A network of ones own, whose settings can be changed without anybody else noticing.

use std::fs;
use std::panic;
use std::thread;

use nix::sched::{CloneFlags, unshare};

use super::{permitted, skip};

/// Runs `body` in a thread, and in what it starts, with a new network: only loopback, and the kernel's
/// defaults. Skips the test where that is not permitted.
pub(crate) fn in_own_network(body: impl FnOnce() + Send) {
    // The name of a test's thread is the name under which it is skipped.
    let name = thread::current().name().unwrap_or_default().to_owned();
    let body = || {
        if enter() {
            body();
        }
    };
    let ended = thread::scope(|scope| {
        thread::Builder::new().name(name).spawn_scoped(scope, body).expect("a thread").join()
    });
    if let Err(reason) = ended {
        panic::resume_unwind(reason);
    }
}

/// Gives the calling thread a new network; skips the test where that is not possible.
fn enter() -> bool {
    if let Err(errno) = unshare(CloneFlags::CLONE_NEWNET) {
        skip(&format!("no network of its own: {errno}"));
        return false;
    }
    permitted(&["ip", "link", "set", "lo", "up"])
}

/// Changes a setting of the calling thread's network, by its name below `/proc/sys/net`, and returns
/// the former value; `None` where that is not permitted.
pub(crate) fn set(name: &str, value: &str) -> Option<String> {
    let path = format!("/proc/sys/net/{name}");
    let former = fs::read_to_string(&path).ok()?;
    fs::write(&path, value).ok()?;
    Some(former)
}
