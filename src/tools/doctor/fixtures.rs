//! Facts and configurations for tests.

use super::cgroup::Cgroup;
use super::facts::{Conntrack, Environment, Facts, Ipv6, Ports};
use super::files::{Fact, ReadError, tree};
use super::findings::{Level, Verdict};
use super::probes::BindResult;
use crate::config::{Config, Layers};
use crate::sys::descriptors::Limits;
use crate::tools::parse_options;

/// Fails unless the verdict has this level, this part of the text, and this part of the advice; an empty
/// part means that there is no advice.
#[track_caller]
pub(super) fn assert_verdict(found: Fact<Verdict>, level: Level, text: &str, advice: &str) {
    let verdict = found.expect("known");
    assert_eq!(verdict.level, level, "{verdict:?}");
    assert!(verdict.text.contains(text), "{text:?} is not in {verdict:?}");
    match &verdict.advice {
        None => assert_eq!(advice, "", "{verdict:?}"),
        Some(given) => assert!(!advice.is_empty() && given.contains(advice), "{verdict:?}"),
    }
}

/// Returns the facts of a machine without any problem.
pub(super) fn fine() -> Facts {
    let listen = config("").listen;
    Facts {
        descriptors: Ok(Limits { soft: 1024, hard: 20_000 }),
        nr_open: Ok(1_048_576),
        file_max: Ok(Some(2_000_000)),
        files_open: Ok(1000),
        cgroup: Cgroup {
            memory: Ok(None),
            oom_group: Ok(false),
            cpu: Ok(None),
            processes: Ok(None),
        },
        memory: Ok(64 << 30),
        cpus: Ok(2),
        somaxconn: Ok(4096),
        syn_backlog: Ok(2048),
        syncookies: Ok(1),
        migrate_req: Ok(0),
        steering: Ok(()),
        ipv6: Ipv6 { sockets: true, addresses: Ok(3), bindv6only: Ok(0) },
        ports: Ports {
            unprivileged: Ok(1024),
            privilege: Ok(false),
            local: Ok("32768\t60999".into()),
            reserved: Ok(String::new()),
        },
        conntrack: Conntrack { max: missing(), count: missing(), time_wait: missing() },
        environment: Environment {
            pid: 77,
            container: None,
            pid_namespace: Ok(false),
            proc: Ok(()),
        },
        addresses: listen.endpoints().map(|it| (it, BindResult::Free)).collect(),
        admin: None,
        files: Vec::new(),
    }
}

/// Returns the fact of a file that the kernel does not have.
pub(super) fn missing<T>() -> Fact<T> {
    let (_root, files) = tree(&[("/proc/sys/x", "")]);
    Err(files.number("/proc/sys/missing").expect_err("missing"))
}

/// Returns the fact of a file that must not be read.
pub(super) fn unreadable<T>() -> Fact<T> {
    Err(ReadError::new("/proc/secret", "Permission denied"))
}

/// Parses a configuration with two workers from a line of options.
pub(super) fn config(line: &str) -> Config {
    let layers: Layers = parse_options(&format!("--workers 2 {line}"));
    Config::load(&layers).expect("a valid configuration")
}
