//! A network of ones own, whose settings can be changed without anybody else noticing.

use std::fs;
use std::process::Command;
use std::thread;

use nix::sched::{CloneFlags, unshare};

use super::skip;

/// Runs `body` in a thread, and in what it starts, with a new network: only loopback, and the kernel's
/// defaults. Skips the test where that is not permitted.
pub(crate) fn in_own_network(body: impl FnOnce() + Send) {
    let enter = || {
        unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| errno.to_string())?;
        let up = Command::new("ip").args(["link", "set", "lo", "up"]).status();
        let is_up = up.is_ok_and(|status| status.success());
        is_up.then_some(()).ok_or_else(|| "cannot set loopback up".to_owned())
    };
    let body = || match enter() {
        Ok(()) => body(),
        Err(reason) => skip(&format!("no network of its own: {reason}")),
    };
    if let Err(panic) = thread::scope(|scope| scope.spawn(body).join()) {
        std::panic::resume_unwind(panic);
    }
}

/// Changes a setting of the calling thread's network, by its name below `/proc/sys/net`, and returns
/// the former value; `None` where that is not permitted.
pub(crate) fn set(name: &str, value: &str) -> Option<String> {
    let path = format!("/proc/sys/net/{name}");
    let former = fs::read_to_string(&path).ok()?;
    fs::write(&path, value).ok()?;
    Some(former)
}
