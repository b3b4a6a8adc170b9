//! Tests of the checks of capacity, each with one changed fact.

use super::super::findings::Level;
use super::super::fixtures::{assert_verdict, config, fine, unreadable};
use super::*;
use crate::sys::descriptors::Limits;

fn with_descriptors(hard: u64) -> Facts {
    Facts { descriptors: Ok(Limits { soft: 1, hard }), ..fine() }
}

#[test]
fn descriptors_must_suffice_for_the_controller_and_each_worker() {
    for (hard, line, level, text, advice) in [
        (20_000, "", Level::Ok, "each of 2 workers has room for 19986 connections", ""),
        (20_000, "--max-concurrent-connections 19986", Level::Ok, "room for 19986", ""),
        (
            20_000,
            "--max-concurrent-connections 19987",
            Level::Wrong,
            "20000 per process; a worker needs 20001 for --max-concurrent-connections 19987",
            "LimitNOFILE=20001",
        ),
        (1014, "", Level::Ok, "room for 1000", ""),
        (1013, "", Level::Warn, "room for 999 connections; further ones wait", "ulimit -n 1014"),
        (50, "--max-concurrent-connections 36", Level::Ok, "room for 36", ""),
        (64, "--workers 40", Level::Wrong, "the controller needs 137 for 40 workers", "=1014"),
        (
            200,
            "--workers 40 --balance least-connections --max-concurrent-connections 9",
            Level::Wrong,
            "the controller needs 217 for 40 workers",
            "=217",
        ),
        (
            300,
            "--workers 40 --balance least-connections --max-concurrent-connections 300",
            Level::Wrong,
            "a worker needs 356 for",
            "docker run --ulimit nofile=356",
        ),
        (14, "--workers 1", Level::Wrong, "the controller needs 20", "=1014"),
        (u64::MAX, "", Level::Ok, "1048576 per process", ""),
        (
            u64::MAX,
            "--max-concurrent-connections 2000000",
            Level::Wrong,
            "1048576 per process",
            "sysctl -w fs.nr_open=2000014, and LimitNOFILE=2000014",
        ),
    ] {
        let verdict = descriptors(&with_descriptors(hard), &config(line));
        assert_verdict(verdict, level, text, advice);
    }
    let facts = Facts { nr_open: unreadable(), ..with_descriptors(2000) };
    assert_verdict(descriptors(&facts, &config("")), Level::Ok, "2000 per process", "");
    let facts = Facts { nr_open: unreadable(), ..with_descriptors(u64::MAX) };
    assert!(descriptors(&facts, &config("")).is_err());
    let facts = Facts { descriptors: unreadable(), ..fine() };
    assert!(descriptors(&facts, &config("")).is_err());
}

#[test]
fn the_system_may_have_too_few_files() {
    for (file_max, open, line, level, text, advice) in [
        (Some(2_000_000), 1000, "", Level::Ok, "1000 of 2000000 in use (fs.file-max)", ""),
        (None, 1000, "", Level::Ok, "1000 in use, no limit", ""),
        (Some(41_000), 1000, "", Level::Note, "the daemon may need 40023", "file-max=41023"),
        (Some(100), 1000, "--max-concurrent-connections 10", Level::Warn, "may need 71", "=1071"),
    ] {
        let facts = Facts { file_max: Ok(file_max), files_open: Ok(open), ..fine() };
        assert_verdict(system_files(&facts, &config(line)), level, text, advice);
    }
    let facts = Facts { files_open: unreadable(), ..fine() };
    assert!(system_files(&facts, &config("")).is_err());
}

#[test]
fn a_reload_needs_twice_the_processes() {
    for (most, level, text, advice) in [
        (None, Level::Ok, "no limit", ""),
        (Some(6), Level::Ok, "6 (pids.max", ""),
        (Some(5), Level::Warn, "needs 3, and up to 6 in a reload", "TasksMax=6"),
        (Some(2), Level::Wrong, "the daemon needs 3", "docker run --pids-limit 6"),
    ] {
        let mut facts = fine();
        facts.cgroup.processes = Ok(most);
        assert_verdict(processes(&facts, &config("")), level, text, advice);
    }
}

#[test]
fn memory_must_suffice_when_no_client_reads() {
    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;
    let limited = "--max-concurrent-connections 1000 --buffer-size 64KiB";
    for (cgroup, machine, line, level, text, advice) in [
        (None, 64 * GIB, "", Level::Ok, "up to 9.9 GiB if no client reads", ""),
        (None, 4 * GIB, "", Level::Note, "the machine has 4 GiB", "--max-concurrent-connections"),
        (Some(GIB), 64 * GIB, "", Level::Warn, "the cgroup has 1 GiB", "connections 2003, or"),
        (Some(139 * MIB), 64 * GIB, limited, Level::Ok, "up to 139 MiB", ""),
        (Some(138 * MIB), 64 * GIB, limited, Level::Warn, "2 workers x 1000", "connections 992,"),
        (Some(8 * MIB), 64 * GIB, "", Level::Warn, "the cgroup has 8 MiB", "connections 2,"),
        (Some(7 * MIB), 64 * GIB, "", Level::Warn, "the cgroup has 7 MiB", "a smaller"),
        (Some(6 * MIB), 64 * GIB, "", Level::Wrong, "2 workers alone need 6.5 MiB", "fewer"),
        (Some(64 * GIB), 4 * GIB, "", Level::Note, "the machine has 4 GiB", "--max-concurrent"),
    ] {
        let mut facts = Facts { memory: Ok(machine), ..fine() };
        facts.cgroup.memory = Ok(cgroup);
        assert_verdict(memory(&facts, &config(line)), level, text, advice);
    }
    let facts = Facts { memory: unreadable(), ..fine() };
    assert!(memory(&facts, &config("")).is_err());
    let mut facts = Facts { memory: unreadable(), ..fine() };
    facts.cgroup.memory = Ok(Some(64 << 30));
    assert_verdict(memory(&facts, &config("")), Level::Ok, "the cgroup has 64 GiB", "");
}

#[test]
fn extreme_numbers_do_not_overflow() {
    let mut facts = with_descriptors(u64::MAX);
    facts.nr_open = Ok(u64::MAX);
    facts.files_open = Ok(u64::MAX);
    let most = "--workers 1024 --max-concurrent-connections 4294967295 --buffer-size 16MiB";
    for line in ["", most, "--balance least-connections --workers 1024"] {
        let config = config(line);
        for check in [descriptors, system_files, processes, memory, oom_group, cpus] {
            check(&facts, &config).expect("known");
        }
    }
}

#[test]
fn an_oom_group_is_a_warning() {
    let mut facts = fine();
    facts.cgroup.oom_group = Ok(true);
    assert_verdict(oom_group(&facts, &config("")), Level::Warn, "the whole daemon", "OOMPolicy");
}

#[test]
fn workers_may_exceed_the_cpus() {
    for (allowed, quota, line, level, text, advice) in [
        (2, None, "", Level::Ok, "2 workers; 2 CPUs by affinity, no quota", ""),
        (8, None, "", Level::Ok, "8 CPUs", ""),
        (8, Some(2500), "", Level::Ok, "a quota of 2.5", ""),
        (8, Some(1999), "", Level::Note, "a quota of 1.999: workers share CPUs", "--workers 1,"),
        (8, Some(100), "--workers 1", Level::Ok, "a quota of 0.1", ""),
        (1, None, "--cpu-affinity", Level::Note, "even with --cpu-affinity", "--workers 1,"),
        (1, None, "--busy-poll 50", Level::Warn, "compete for CPUs", "no --busy-poll"),
        (2, None, "--busy-poll 50", Level::Ok, "2 workers", ""),
    ] {
        let mut facts = Facts { cpus: Ok(allowed), ..fine() };
        facts.cgroup.cpu = Ok(quota);
        assert_verdict(cpus(&facts, &config(line)), level, text, advice);
    }
}
