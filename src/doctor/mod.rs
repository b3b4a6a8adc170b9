//! The doctor: `tcp-echo doctor` says whether this machine, as this process is allowed to see and
//! use it, suits the daemon's configuration, and what to do where it does not.
//!
//! | module | what it is |
//! |---|---|
//! | `facts` | what there is: the only part that asks the system |
//! | `files` | small files of /proc and /sys, below a root |
//! | `cgroup` | the limits of the cgroups that the process is in |
//! | `holder` | who listens on an address |
//! | `capacity` | judgements: descriptors, memory, CPUs, processes |
//! | `network` | judgements: queues, IPv6, steering, load tests |
//! | `addresses` | judgements: can the daemon listen where it is told to |
//! | `outlets` | judgements: the admin address, and files that are to be written |
//! | `place` | judgements: container, /proc |
//! | `report` | findings, for people and for programs |
//!
//! Judgements are pure: facts and configuration in, a verdict out. What cannot be read is a note,
//! never a failure.

mod addresses;
mod capacity;
mod cgroup;
mod facts;
mod files;
mod holder;
mod network;
mod outlets;
mod place;
mod report;

use std::io::Write;

use self::facts::Facts;
use self::files::{Fact, Files};
use self::report::{Finding, Report, Verdict};
use crate::config::Config;
use crate::exit::Exit;

/// Says how one matter stands; an error is the file that would have told.
type Judge = fn(&Facts, &Config) -> Fact<Verdict>;

/// All matters but the addresses, by the name that stands before the verdict.
const MATTERS: [(&str, Judge); 16] = [
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
    ("container", place::container),
    ("/proc", place::proc),
    ("low ports", addresses::low_ports),
];

/// Examines this machine and prints what it has found on standard output: a line for each matter, or
/// one JSON object. Changes nothing, but binds each address for a moment.
pub fn run(config: &Config, json: bool) -> Exit {
    let facts = Facts::gather(&Files::of_this_machine(), config);
    let report = Report::new(findings(&facts, config));
    let text = if json { report.json() } else { report.text() };
    // The exit code is the answer, whether anybody reads the text or not.
    let _ = std::io::stdout().write_all(text.as_bytes());
    if report.is_good() { Exit::Ok } else { Exit::Failure }
}

fn findings(facts: &Facts, config: &Config) -> Vec<Finding> {
    let matters = MATTERS.iter().map(|&(subject, judge)| {
        let unread = |unread: files::Unread| Verdict::note(unread.to_string());
        Finding::new(subject, judge(facts, config).unwrap_or_else(unread))
    });
    let addresses = addresses::judge(facts).into_iter();
    let addresses = addresses.map(|verdict| Finding::new("address", verdict));
    matters.chain(addresses).chain(outlets::judge(facts)).collect()
}

#[cfg(test)]
mod tests {
    use super::facts::example::{config, fine};
    use super::report::Level;
    use super::*;

    #[test]
    fn a_fine_machine_is_fine() {
        let found = findings(&fine(), &config(""));
        assert_eq!(found.len(), MATTERS.len() + 1);
        for finding in &found {
            assert_eq!(finding.verdict.level, Level::Ok, "{finding:?}");
            assert_eq!(finding.verdict.advice, None, "{finding:?}");
        }
    }

    #[test]
    fn a_machine_that_tells_nothing_has_notes_only() {
        let empty = tempfile::tempdir().expect("temporary directory");
        let config = config("--listen 127.0.0.1:0");
        let facts = Facts::gather(&Files::below(empty.path()), &config);
        let found = findings(&facts, &config);
        let notes = found.iter().filter(|finding| finding.verdict.level == Level::Note);
        assert!(notes.count() >= 11, "{found:?}");
        assert!(found.iter().all(|finding| finding.verdict.level != Level::Wrong), "{found:?}");
    }

    #[test]
    fn this_machine_can_be_examined() {
        let config = config("--listen 127.0.0.1:0");
        let facts = Facts::gather(&Files::of_this_machine(), &config);
        let found = findings(&facts, &config);
        assert_eq!(found.len(), MATTERS.len() + 1);
        for Finding { verdict, .. } in found {
            let lines = [Some(&verdict.text), verdict.advice.as_ref()];
            for line in lines.into_iter().flatten() {
                assert!(!line.is_empty() && !line.contains('\n'), "{line:?}");
            }
        }
    }
}
