//! `tcp-echo doctor`: findings on limits, kernel settings, and addresses, and the exit status.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use super::listen_errors::unprivileged;
use super::support::launch::Outcome;
use super::support::operations::ConfigFile;
use super::support::{Client, Launch, SOON, TestLock, lack, permitted, skip, wait_until};

/// Options with which the listen address is free.
const ANYWHERE: [&str; 4] = ["--listen", "127.0.0.1:0", "--workers", "2"];

/// A doctor for a daemon with these options.
fn doctor(lock: &TestLock, options: &[&str]) -> Launch {
    lock.launch(&[&["doctor"], options].concat())
}

/// Findings of a run: level, subject, text, and advice.
struct Findings {
    outcome: Outcome,
    found: Vec<[String; 4]>,
}

impl Findings {
    /// Runs the doctor, and checks the totals, the exit code, and that there is no other output.
    #[track_caller]
    fn of(launch: Launch) -> Self {
        let outcome = launch.arg("--json").run();
        assert_eq!(outcome.stderr, Vec::<String>::new(), "{outcome:?}");
        assert_eq!(outcome.stdout.len(), 1, "{outcome:?}");
        let object: Value = serde_json::from_str(&outcome.stdout[0]).expect("it is JSON");
        let list = object["findings"].as_array().expect("a list of findings");
        let keys = ["level", "subject", "text", "advice"];
        let found: Vec<[String; 4]> = list
            .iter()
            .map(|one| keys.map(|key| one[key].as_str().unwrap_or_default().to_owned()))
            .collect();
        for level in ["ok", "note", "warn", "wrong"] {
            let count = found.iter().filter(|[of_one, ..]| of_one == level).count();
            assert_eq!(object[level], count, "{level} in {outcome:?}");
        }
        let code = i32::from(object["wrong"] != 0);
        assert_eq!(outcome.code, Some(code), "{outcome:?}");
        Self { outcome, found }
    }

    /// Fails unless a finding has this level and subject, and all words in its text or advice.
    #[track_caller]
    fn assert_has(&self, level: &str, subject: &str, words: &[&str]) {
        let fits = |[of_one, about, text, advice]: &[String; 4]| {
            let said = |word: &&str| text.contains(*word) || advice.contains(*word);
            of_one == level && about == subject && words.iter().all(said)
        };
        let found = &self.found;
        assert!(found.iter().any(fits), "no {level} {subject} {words:?} in {found:#?}");
    }

    /// Returns the number of wrong findings.
    fn wrong(&self) -> usize {
        self.found.iter().filter(|[level, ..]| level == "wrong").count()
    }
}

#[test]
fn each_finding_is_a_line_and_the_last_line_is_the_summary() {
    let lock = TestLock::shared();
    let outcome = doctor(&lock, &ANYWHERE).run();
    assert!(matches!(outcome.code, Some(0 | 1)), "{outcome:?}");
    let (sum, lines) = outcome.stdout.split_last().expect("a last line");
    let findings = lines.iter().filter(|line| !line.trim_start().starts_with("-> "));
    let mut counts = [0; 4];
    for line in findings {
        let (level, rest) = line.split_at(5);
        let level = ["ok", "note", "warn", "wrong"].iter().position(|word| *word == level.trim());
        counts[level.unwrap_or_else(|| panic!("no level: {line}"))] += 1;
        assert!(rest.starts_with("  ") && !rest[2..].starts_with(' '), "not aligned: {line}");
    }
    assert_eq!(counts.iter().sum::<i32>(), 17, "{outcome:?}");
    let numbers: Vec<i32> = sum.split(' ').filter_map(|word| word.parse().ok()).collect();
    assert_eq!(numbers, counts, "{sum}");
    assert!(sum.ends_with(" wrong"), "{sum}");
    assert_eq!(Findings::of(doctor(&lock, &ANYWHERE)).found.len(), 17);
}

#[test]
fn paths_that_the_daemon_cannot_open_are_errors() {
    let lock = TestLock::shared();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for (options, code, said) in [
        (&["--admin", &*port][..], 1, "is in use"),
        (&["--admin", "unix:/nonexistent/admin"], 1, "/nonexistent/admin"),
        (&["--admin", "unix:/etc/passwd"], 1, "/etc/passwd is in use"),
        (&["--admin", "7", "--listen", "127.0.0.1:7"], 1, "is also a listen address"),
        (&["--pid-file", "/nonexistent/pid"], 1, "cannot write /nonexistent/pid"),
        (&["--access-log", "all", "--access-log-file", "/"], 1, "it is a directory"),
        (&["--state-file", "/nonexistent/state"], 0, "cannot write /nonexistent/state"),
    ] {
        let outcome = doctor(&lock, &[&ANYWHERE[..], options].concat()).run();
        assert_eq!(outcome.code, Some(code), "{outcome:?}");
        assert!(outcome.stdout.iter().any(|line| line.contains(said)), "{outcome:?}");
    }
}

#[test]
fn a_closed_output_is_no_failure_and_a_full_disk_is_one() {
    let lock = TestLock::shared();
    for line in ["exec \"$0\" \"$@\" >&-", "\"$0\" \"$@\" | true"] {
        let outcome = doctor(&lock, &ANYWHERE).under_shell(line).run();
        assert!(matches!(outcome.code, Some(0 | 1)), "{line}: {outcome:?}");
        assert_eq!(outcome.stderr, Vec::<String>::new(), "{line}: {outcome:?}");
    }
    for options in [&[][..], &["--json"]] {
        let launch = doctor(&lock, &[&ANYWHERE[..], options].concat());
        let full = launch.under_shell("exec \"$0\" \"$@\" >/dev/full").run();
        full.assert_one_line(1, &["cannot write to standard output: No space left"]);
    }
}

#[test]
fn invalid_options_have_the_daemons_messages() {
    let lock = TestLock::shared();
    let broken = ConfigFile::new("workers = 2\nwokers = 3\n");
    let location = format!("{}:2", broken.name());
    for (options, names) in [
        (&["--port", "70000"][..], &["--port", "70000", "tcp-echo doctor --help"][..]),
        (&["--wokers", "1"], &["--wokers"]),
        (&["stray"], &["stray"]),
        (&["--check-config"], &["--check-config"]),
        (&["--worker-timeout", "1ms"], &["--worker-timeout"]),
        (&["--config", "/nonexistent/tcp-echo.toml"], &["/nonexistent/tcp-echo.toml"]),
        (&["--config", broken.name()], &[&location, "wokers"]),
    ] {
        let outcome = doctor(&lock, options).run();
        outcome.assert_one_line(2, names);
        assert!(outcome.stderr[0].starts_with("tcp-echo: "), "{outcome:?}");
        assert_eq!(outcome.stdout, Vec::<String>::new(), "{outcome:?}");
    }
    let outcome = doctor(&lock, &[]).env("TCP_ECHO_WORKERS", "many").run();
    outcome.assert_one_line(2, &["TCP_ECHO_WORKERS", "many"]);
}

#[test]
fn settings_come_from_command_line_environment_and_file() {
    let lock = TestLock::shared();
    let file = ConfigFile::new("listen = \"127.0.0.1:0\"\nconnection-backlog = 77\nworkers = 3\n");
    let launch = doctor(&lock, &["--config", file.name()]);
    Findings::of(launch.clone()).assert_has("ok", "queue", &["77 connections", "each of 3"]);
    let launch = launch.env("TCP_ECHO_WORKERS", "2").env("TCP_ECHO_CONNECTION_BACKLOG", "78");
    let found = Findings::of(launch.clone().arg("--connection-backlog=79"));
    found.assert_has("ok", "queue", &["79 connections", "each of 2"]);
    Findings::of(launch).assert_has("ok", "queue", &["78 connections", "each of 2"]);
}

#[test]
fn too_few_descriptors_are_an_error_here_and_in_the_daemon() {
    let lock = TestLock::shared();
    let daemon = ["--listen", "127.0.0.1:0", "--workers", "40"];
    let passing_on = [&daemon[..], &["--balance", "least-connections"]].concat();
    for (options, needed) in [(&daemon[..], 137), (&passing_on, 217)] {
        let few = format!("ulimit -n {}; exec \"$0\" \"$@\"", needed - 1);
        let found = Findings::of(doctor(&lock, options).under_shell(&few));
        let number = needed.to_string();
        found.assert_has("wrong", "descriptors", &["controller needs", &number, "LimitNOFILE="]);
        let outcome = lock.launch(options).under_shell(&few).run();
        outcome.assert_one_line(1, &[&number, "40 workers"]);
        let enough = format!("ulimit -n {needed}; exec \"$0\" \"$@\"");
        let found = Findings::of(doctor(&lock, options).under_shell(&enough));
        found.assert_has("warn", "descriptors", &["each of 40 workers has room for"]);
    }
}

#[test]
fn the_reported_connection_limit_is_served() {
    let lock = TestLock::shared();
    let limit = "ulimit -n 64; exec \"$0\" \"$@\"";
    let options = |most: u32| {
        ["--workers".into(), "1".into(), format!("--max-concurrent-connections={most}")]
    };
    let judge = |most: u32| {
        let words = options(most);
        let words: Vec<&str> =
            words.iter().map(String::as_str).chain(ANYWHERE[..2].iter().copied()).collect();
        Findings::of(doctor(&lock, &words).under_shell(limit))
    };
    let most = (1..64).rev().find(|&most| judge(most).wrong() == 0).expect("some are possible");
    println!("64 descriptors, {most} connections");
    assert!(most > 40);
    judge(most + 1).assert_has("wrong", "descriptors", &["a worker needs 65"]);
    let words = options(most);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let server = lock.launch(&words).under_shell(limit).start();
    let mut clients: Vec<Client> = (0..most).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|client| _ = client.echo(100));
    assert_eq!(server.log.count("Too many open files"), 0, "it never ran out");
    clients.into_iter().for_each(Client::finish);
    server.stop();
}

#[test]
fn a_port_in_use_is_named_with_its_owner() {
    let lock = TestLock::shared();
    let other = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = other.local_addr().unwrap().to_string();
    let found = Findings::of(doctor(&lock, &["--listen", &address]));
    let me = format!("(pid {})", std::process::id());
    found.assert_has("wrong", "address", &[&address, "in use", &me]);
    drop(other);
    let found = Findings::of(doctor(&lock, &["--listen", &address]));
    found.assert_has("ok", "address", &[&address, "is free"]);
}

#[test]
fn a_running_daemon_is_a_warning_and_is_not_affected() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "2"]);
    let port = server.port().to_string();
    let found = Findings::of(doctor(&lock, &["--port", &port]));
    let controller = format!("tcp-echo[ctrlr] (pid {})", server.controller());
    found.assert_has("warn", "address", &[&controller, "--allow-shared-port"]);
    assert_eq!(found.wrong(), 0, "{:?}", found.outcome);
    server.assert_echoes();
    server.stop();

    let server = lock.start(&["--workers", "2", "--allow-shared-port"]);
    let port = server.port().to_string();
    let found = Findings::of(doctor(&lock, &["--port", &port, "--allow-shared-port"]));
    found.assert_has("ok", "address", &[&port, "is free"]);
    found.assert_has("note", "steering", &["--allow-shared-port"]);
    server.assert_echoes();
    server.stop();
}

#[test]
fn a_non_local_address_is_an_error() {
    let lock = TestLock::shared();
    let found = Findings::of(doctor(&lock, &["--listen", "203.0.113.7:0"]));
    found.assert_has("wrong", "address", &["203.0.113.7", "no interface"]);
}

#[test]
fn a_privileged_port_needs_the_capability() {
    let lock = TestLock::shared();
    let lowest = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    let lowest: u16 = lowest.map_or(1024, |text| text.trim().parse().unwrap());
    if lowest == 0 {
        return skip("every user may bind every port here");
    }
    let port = (lowest - 1).to_string();
    let options = ["--port", port.as_str()];
    if nix::unistd::geteuid().is_root() {
        if Command::new("setpriv").arg("--version").output().is_err() {
            return lack("setpriv");
        }
        Findings::of(doctor(&lock, &options)).assert_has(
            "note",
            "low ports",
            &[&port, "permitted"],
        );
        let directory = tempfile::tempdir().unwrap();
        let found = Findings::of(unprivileged(doctor(&lock, &options), directory.path()));
        found.assert_has("wrong", "low ports", &[&port, "AmbientCapabilities="]);
        assert_eq!(found.wrong(), 1, "one cause, one finding");
    } else {
        let found = Findings::of(doctor(&lock, &options));
        found.assert_has("wrong", "low ports", &[&port, "AmbientCapabilities="]);
    }
}

#[test]
fn kernel_settings_of_the_network_namespace_are_read() {
    let lock = TestLock::shared();
    let write = "cd /proc/sys/net && echo 64 >core/somaxconn && echo 100 >ipv4/tcp_max_syn_backlog \
                 && echo 0 >ipv4/tcp_syncookies && echo 8000 9000 >ipv4/ip_local_port_range \
                 && echo 8001,8003-8005 >ipv4/ip_local_reserved_ports \
                 && echo 80 >ipv4/ip_unprivileged_port_start";
    if !permitted(&["unshare", "--net", "sh", "-c", write]) {
        return;
    }
    let line = format!("{write} && cd / && exec \"$0\" \"$@\"");
    let namespace = ["unshare", "--net", "sh", "-c", &line];
    let found = Findings::of(doctor(&lock, &["--workers", "2"]).under(&namespace));
    found.assert_has(
        "warn",
        "queue",
        &["128", "limited to 64", "sysctl -w net.core.somaxconn=128"],
    );
    found.assert_has(
        "warn",
        "handshakes",
        &["100", "SYN cookies are off", "tcp_max_syn_backlog=128"],
    );
    let reserved = "ip_local_reserved_ports=8001,8003-8005,8090";
    found.assert_has("note", "local ports", &["8090", "(8000-9000", reserved]);
    found.assert_has("ok", "low ports", &["80 on"]);
    found.assert_has("ok", "address", &["8090 is free"]);
    found.assert_has("ok", "steering", &[]);
    if PathBuf::from("/proc/sys/net/ipv6").exists() {
        found.assert_has("note", "ipv6", &["no interface has an IPv6 address"]);
    }
    // The loopback is down there, so it has no addresses.
    let loopback = Findings::of(doctor(&lock, &["--listen", "[::1]:7777"]).under(&namespace));
    loopback.assert_has("wrong", "address", &["[::1]:7777"]);
}

#[test]
fn pid_one_of_a_namespace_is_reported() {
    let lock = TestLock::shared();
    let namespace = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"];
    if !permitted(&[&namespace[..], &["true"]].concat()) {
        return;
    }
    let found = Findings::of(doctor(&lock, &ANYWHERE).under(&namespace));
    found.assert_has("note", "container", &["as PID 1", "--sysctl"]);
}

#[test]
fn without_proc_and_sys_there_are_notes_and_no_errors() {
    let lock = TestLock::shared();
    let hide = "mount -t tmpfs none /proc && mount -t tmpfs none /sys";
    if !permitted(&["unshare", "--mount", "sh", "-c", hide]) {
        return;
    }
    let line = format!("{hide} && exec \"$0\" \"$@\"");
    let launch = doctor(&lock, &ANYWHERE).under(&["unshare", "--mount", "sh", "-c", &line]);
    let found = Findings::of(launch);
    for subject in ["queue", "handshakes", "migration", "memory", "cpus", "conntrack", "/proc"] {
        found.assert_has("note", subject, &["cannot read "]);
    }
    found.assert_has("ok", "steering", &[]);
    found.assert_has("ok", "address", &["any free port"]);
    assert_eq!(found.wrong(), 0);
}

/// A cgroup with a memory limit, removed on drop.
struct MemoryGroup {
    directory: PathBuf,
}

impl MemoryGroup {
    /// Creates the cgroup if the machine has a writable hierarchy of either version.
    fn with_limit(bytes: u64) -> Option<Self> {
        let name = format!("tcp-echo-doctor-{}", std::process::id());
        ["/sys/fs/cgroup/memory", "/sys/fs/cgroup"].iter().find_map(|mount| {
            let group = Self { directory: PathBuf::from(mount).join(&name) };
            fs::create_dir(&group.directory).ok()?;
            let files = ["memory.limit_in_bytes", "memory.max"];
            let limit =
                files.map(|file| group.directory.join(file)).into_iter().find(|f| f.exists());
            fs::write(limit?, bytes.to_string()).ok().map(|()| group)
        })
    }

    /// Returns a shell line that runs a program in the cgroup.
    fn line(&self) -> String {
        format!("echo $$ >{}/cgroup.procs && exec \"$0\" \"$@\"", self.directory.display())
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // The kernel permits this once the last process is gone.
        wait_until(SOON, "the cgroup is removed", || {
            let _ = fs::remove_dir(&self.directory);
            !self.directory.exists()
        });
    }
}

#[test]
fn the_memory_limit_is_that_of_the_cgroup() {
    let lock = TestLock::shared();
    let Some(group) = MemoryGroup::with_limit(256 << 20) else {
        return skip("no cgroup can be made here");
    };
    let run = |most: &str| {
        let options = [&ANYWHERE[..], &["--max-concurrent-connections", most]].concat();
        Findings::of(doctor(&lock, &options).under_shell(&group.line()))
    };
    let found = run("1000");
    let advice = ["the cgroup has 256 MiB", "2 workers x 1000", "--max-concurrent-connections 491"];
    found.assert_has("warn", "memory", &advice);
    assert_eq!(found.wrong(), 0, "{:?}", found.outcome);
    run("491").assert_has("ok", "memory", &["the cgroup has 256 MiB"]);
}
