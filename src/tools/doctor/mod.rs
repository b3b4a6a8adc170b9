//! `tcp-echo doctor`: checks this machine's limits and settings against the daemon's configuration, with
//! the privileges and namespaces of this process.
//!
//! | module | contents |
//! |---|---|
//! | `facts` | facts about the machine |
//! | `probes` | trial binds, and write permissions |
//! | `files` | small files of /proc and /sys |
//! | `cgroup` | limits of the process's cgroups |
//! | `socket_owner` | the process that listens on an address |
//! | `capacity` | checks of descriptors, memory, CPUs, processes |
//! | `network` | checks of queues, IPv6, steering, ports |
//! | `addresses` | checks of the listen addresses |
//! | `outputs` | checks of the admin address and the files to write |
//! | `environment` | checks of container and /proc |
//! | `findings` | verdicts, and their output |
//!
//! Checks are pure functions of facts and configuration. A fact that cannot be read is a note, never a
//! failure.

mod addresses;
mod capacity;
mod cgroup;
mod environment;
mod facts;
mod files;
mod findings;
#[cfg(test)]
mod fixtures;
mod network;
mod outputs;
mod probes;
mod socket_owner;

use std::io;

use self::facts::Facts;
use self::files::{Fact, Files};
use self::findings::{Diagnosis, Finding, Verdict};
use crate::config::Config;
use crate::exit::Exit;
use crate::sys::output;

/// A check of one subject. The error is a fact that cannot be read.
type Check = fn(&Facts, &Config) -> Fact<Verdict>;

/// All checks except those of addresses and files, by subject.
const CHECKS: [(&str, Check); 16] = [
    ("descriptors", capacity::descriptors),
    ("system files", capacity::system_files),
    ("processes", capacity::processes),
    ("memory", capacity::memory),
    ("oom group", capacity::oom_group),
    ("cpus", capacity::cpus),
    ("queue", network::queue),
    ("handshakes", network::handshakes),
    ("migration", network::migration),
    ("steering", network::steering),
    ("ipv6", network::ipv6),
    ("local ports", network::local_ports),
    ("conntrack", network::conntrack),
    ("container", environment::container),
    ("/proc", environment::proc),
    ("low ports", addresses::low_ports),
];

/// Checks this machine and prints the findings to standard output, as text or as one JSON object.
/// Changes nothing, but binds each address briefly.
///
/// # Errors
/// Standard output cannot be written.
pub fn run(config: &Config, json: bool) -> io::Result<Exit> {
    let facts = Facts::gather(&Files::of_this_machine(), config);
    let diagnosis = Diagnosis(findings(&facts, config));
    output::print(if json { diagnosis.json() } else { diagnosis.text() })?;
    Ok(if diagnosis.is_good() { Exit::Ok } else { Exit::Failure })
}

fn findings(facts: &Facts, config: &Config) -> Vec<Finding> {
    let checked = CHECKS.iter().map(|&(subject, check)| {
        let verdict = check(facts, config).unwrap_or_else(|error| Verdict::note(error.to_string()));
        Finding::new(subject, verdict)
    });
    let addresses = addresses::check(facts).into_iter();
    let addresses = addresses.map(|verdict| Finding::new("address", verdict));
    checked.chain(addresses).chain(outputs::check(facts)).collect()
}

#[cfg(test)]
mod tests {
    use super::findings::Level;
    use super::fixtures::{config, fine};
    use super::*;

    #[test]
    fn a_suitable_machine_has_only_ok_findings() {
        let found = findings(&fine(), &config(""));
        assert_eq!(found.len(), CHECKS.len() + 1);
        for finding in &found {
            assert_eq!(finding.verdict.level, Level::Ok, "{finding:?}");
            assert_eq!(finding.verdict.advice, None, "{finding:?}");
        }
    }

    #[test]
    fn without_any_facts_nothing_is_wrong() {
        let empty = tempfile::tempdir().expect("temporary directory");
        let config = config("--listen 127.0.0.1:0");
        let facts = Facts::gather(&Files::below(empty.path()), &config);
        let found = findings(&facts, &config);
        let notes = found.iter().filter(|finding| finding.verdict.level == Level::Note);
        assert!(notes.count() >= 11, "{found:?}");
        assert!(found.iter().all(|finding| finding.verdict.level != Level::Wrong), "{found:?}");
    }

    #[test]
    fn every_finding_on_this_machine_is_one_line() {
        let config = config("--listen 127.0.0.1:0");
        let facts = Facts::gather(&Files::of_this_machine(), &config);
        let found = findings(&facts, &config);
        assert_eq!(found.len(), CHECKS.len() + 1);
        for Finding { verdict, .. } in found {
            let lines = [Some(&verdict.text), verdict.advice.as_ref()];
            for line in lines.into_iter().flatten() {
                assert!(!line.is_empty() && !line.contains('\n'), "{line:?}");
            }
        }
    }
}
