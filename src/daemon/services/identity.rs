//! The worker that answers, as services name it to clients.

use nix::unistd;

/// Host, process, and version of a worker. It is created in the worker's process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Name of the host; empty if the system does not tell it.
    pub hostname: String,
    /// Process id.
    pub pid: u32,
    /// Number of the worker's slot, from 1.
    pub worker: u32,
    /// Version of the program.
    pub version: &'static str,
}

impl Identity {
    /// Returns the identity of this process, which is the worker of slot `worker`.
    #[must_use]
    pub fn of_worker(worker: u32) -> Self {
        let hostname = unistd::gethostname().unwrap_or_default();
        Self {
            hostname: hostname.to_string_lossy().into_owned(),
            pid: std::process::id(),
            worker,
            version: env!("CARGO_PKG_VERSION"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_identity_is_that_of_this_process_and_host() {
        let identity = Identity::of_worker(3);
        let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").expect("procfs");
        assert_eq!(identity.hostname, hostname.trim_end());
        let process = std::fs::read_link("/proc/self").expect("procfs");
        assert_eq!(process.to_str(), Some(identity.pid.to_string().as_str()));
        assert_eq!(identity.worker, 3);
        assert_eq!(identity.version, env!("CARGO_PKG_VERSION"));
    }
}
