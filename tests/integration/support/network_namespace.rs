//! Network namespaces, whose kernel settings a test can change.

use std::fs;
use std::panic;
use std::thread;

use nix::sched::{CloneFlags, unshare};

use super::{permitted, skip};

/// Runs `body` in a thread with a new network namespace: only loopback, and the kernel's
/// default settings. Skips the test if that is not permitted.
pub(crate) fn in_network_namespace(body: impl FnOnce() + Send) {
    // Skips are recorded under the name of the thread.
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

/// Moves the calling thread into a new network namespace; skips the test if that is not possible.
fn enter() -> bool {
    if let Err(errno) = unshare(CloneFlags::CLONE_NEWNET) {
        skip(&format!("no network of its own: {errno}"));
        return false;
    }
    permitted(&["ip", "link", "set", "lo", "up"])
}

/// Changes a setting below `/proc/sys/net` in the calling thread's namespace, and returns
/// the previous value; `None` if that is not permitted.
pub(crate) fn set(name: &str, value: &str) -> Option<String> {
    let path = format!("/proc/sys/net/{name}");
    let former = fs::read_to_string(&path).ok()?;
    fs::write(&path, value).ok()?;
    Some(former)
}
