//! Descriptors of each process: /proc/PID/fd compared with the table in ARCHITECTURE.md.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::support::http::{admin_of, admin_pids};
use super::support::operations::{freeze, reload, send_signal, wait_for_workers};
use super::support::{Client, Server, TestLock, proc, secs, try_for, wait_for, wait_until};

/// The controller judges no worker after it was stopped itself, as on a busy machine.
const AT_LENGTH: Duration = secs(15);

/// O_CLOEXEC in the flags of /proc/PID/fdinfo.
const CLOSE_ON_EXEC: u32 = 0o2_000_000;

/// What each process holds: `listener of controller, worker 1` to the number of its descriptors.
type Table = BTreeMap<String, BTreeMap<String, usize>>;

/// One open descriptor.
struct Descriptor {
    /// Controller, worker SLOT, or admin.
    process: String,
    number: i32,
    /// Target of the link in /proc/PID/fd.
    target: String,
    close_on_exec: bool,
    /// Inodes that an epoll instance watches.
    watched: Vec<u64>,
}

fn inode_of(target: &str) -> Option<u64> {
    target.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// All descriptors of a process; nothing if one is closed meanwhile.
fn descriptors(process: &str, pid: i32) -> Option<Vec<Descriptor>> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let descriptor = |entry: std::io::Result<fs::DirEntry>| {
        let entry = entry.ok()?;
        let number: i32 = entry.file_name().to_str()?.parse().ok()?;
        let target = fs::read_link(entry.path()).ok()?.to_str()?.to_owned();
        let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).ok()?;
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?.trim();
        let flags = u32::from_str_radix(flags, 8).ok()?;
        let watched = info.lines().filter(|line| line.starts_with("tfd:")).filter_map(|line| {
            let word = line.split_whitespace().find_map(|word| word.strip_prefix("ino:"))?;
            u64::from_str_radix(word, 16).ok()
        });
        let (process, watched) = (process.to_owned(), watched.collect());
        let close_on_exec = flags & CLOSE_ON_EXEC != 0;
        Some(Descriptor { process, number, target, close_on_exec, watched })
    };
    entries.map(descriptor).collect()
}

/// All descriptors of all processes of a server.
fn all_descriptors(server: &Server) -> Option<Vec<Descriptor>> {
    let mut all = descriptors("controller", server.controller())?;
    // What the tests themselves were started with goes on to the controller.
    let inherited = descriptors("these tests", std::process::id() as i32)?;
    let inherited: Vec<_> =
        inherited.into_iter().filter(|one| one.number > 2 && !one.close_on_exec).collect();
    all.retain(|one| {
        let same = |other: &Descriptor| (one.number, &one.target) == (other.number, &other.target);
        !inherited.iter().any(same)
    });
    for (slot, pid) in server.workers() {
        all.extend(descriptors(&format!("worker {slot}"), pid)?);
    }
    for pid in admin_pids(server) {
        all.extend(descriptors("admin", pid)?);
    }
    Some(all)
}

/// Unix sockets by inode, `true` for SOCK_SEQPACKET.
fn unix_sockets() -> BTreeMap<u64, bool> {
    let text = fs::read_to_string("/proc/net/unix").unwrap();
    let socket = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        Some((fields.get(6)?.parse().ok()?, *fields.get(4)? == "0005"))
    };
    text.lines().filter_map(socket).collect()
}

/// What a server's processes hold now; nothing while that changes.
fn table(server: &Server, admin_port: u16) -> Option<Table> {
    let all = all_descriptors(server)?;
    let (tcp, unix) = (proc::sockets(), unix_sockets());
    let log = |one: &&Descriptor| one.number == 2;
    let log = all.iter().find(log).map(|one| one.target.clone())?;
    let what = |one: &Descriptor| match (one.number, inode_of(&one.target)) {
        (0..=2, _) => "standard stream".to_owned(),
        (_, Some(inode)) => match tcp.iter().find(|socket| socket.inode == inode) {
            Some(socket) if !socket.listens => "connection".to_owned(),
            Some(socket) if socket.local.port() == admin_port => "admin socket".to_owned(),
            Some(_) => "listener".to_owned(),
            None => match unix.get(&inode) {
                Some(true) => "channel".to_owned(),
                Some(false) => "signal pipe".to_owned(),
                // Bound but not listening: in none of the kernel's tables.
                None => "address reservation".to_owned(),
            },
        },
        _ if one.target == log => "log".to_owned(),
        _ if one.target == "anon_inode:[eventpoll]" => "epoll".to_owned(),
        _ => one.target.rsplit('/').next().unwrap_or_default().to_owned(),
    };
    let mut table = Table::new();
    for one in &all {
        let mut name = what(one);
        // These look alike in every process.
        if !["standard stream", "log", "epoll"].contains(&name.as_str()) {
            let same = all.iter().filter(|other| other.target == one.target);
            let holders: BTreeSet<&str> = same.map(|other| other.process.as_str()).collect();
            name = format!("{name} of {}", Vec::from_iter(holders).join(", "));
        }
        *table.entry(one.process.clone()).or_default().entry(name).or_default() += 1;
    }
    Some(table)
}

/// Every descriptor from 3 on is closed by exec(2), and each process watches only its own sockets.
#[track_caller]
fn assert_private(server: &Server, scene: &str) {
    let all = wait_for(AT_LENGTH, "a look at all descriptors", || all_descriptors(server));
    for one in all.iter().filter(|one| one.number > 2) {
        let Descriptor { process, number, target, .. } = one;
        assert!(one.close_on_exec, "{scene}: {process} leaks {number} ({target}) to exec(2)");
        let own = all.iter().filter(|other| other.process == one.process);
        let own: Vec<u64> = own.filter_map(|other| inode_of(&other.target)).collect();
        let not_owned: Vec<_> = one.watched.iter().filter(|inode| !own.contains(inode)).collect();
        assert!(
            not_owned.is_empty(),
            "{scene}: {process} watches sockets of others: {not_owned:?}"
        );
    }
}

/// What each process may hold.
#[derive(Clone, Copy)]
struct Fleet<'a> {
    slots: u32,
    addresses: usize,
    /// With `--balance least-connections`.
    handoff: bool,
    admin: bool,
    /// Files that the controller holds open.
    files: &'a [&'a str],
}

impl Fleet<'_> {
    fn table(self) -> Table {
        let workers: Vec<String> = (1..=self.slots).map(|slot| format!("worker {slot}")).collect();
        let everyone = format!("controller, {}", workers.join(", "));
        let common = |own: &str| {
            let entries = [("standard stream", 3), ("log", 1), ("epoll", 2)];
            let mut rows: BTreeMap<String, usize> =
                entries.map(|(name, count)| (name.to_owned(), count)).into();
            rows.insert(format!("signal pipe of {own}"), 2);
            rows.insert(format!("channel of {own}"), 1);
            rows
        };
        let mut controller = common("controller");
        let channels = workers.len() + usize::from(self.admin);
        controller.insert("channel of controller".into(), channels);
        controller.insert("address reservation of controller".into(), self.addresses);
        for file in [&["memfd:tcp-echo (deleted)"], self.files].concat() {
            controller.insert(format!("{file} of controller"), 1);
        }
        let mut table = Table::new();
        for worker in &workers {
            let mut rows = common(worker);
            let mut both = |name: String, count| {
                controller.insert(name.clone(), count);
                rows.insert(name, count);
            };
            both(format!("listener of controller, {worker}"), self.addresses);
            if self.handoff {
                // The reading end of its own queue, and the writing ends of all.
                both(format!("channel of controller, {worker}"), 1);
                both(format!("channel of {everyone}"), workers.len());
            }
            table.insert(worker.clone(), rows);
        }
        if self.admin {
            let mut rows = common("admin");
            rows.insert("admin socket of admin, controller".into(), 2);
            controller.insert("admin socket of admin, controller".into(), 1);
            table.insert("admin".into(), rows);
        }
        table.insert("controller".into(), controller);
        table
    }

    /// Waits until the processes of `server` hold exactly what they may.
    #[track_caller]
    fn assert_held(self, server: &Server, scene: &str) {
        let port = if self.admin { admin_of(server).port() } else { 0 };
        assert_holds(server, port, &self.table(), scene);
    }
}

#[track_caller]
fn assert_holds(server: &Server, admin_port: u16, wanted: &Table, scene: &str) {
    let mut last = None;
    let held = try_for(AT_LENGTH, || {
        last = table(server, admin_port).or(last.take());
        (last.as_ref() == Some(wanted)).then_some(())
    });
    if held.is_none() {
        let held = last.expect("the processes live");
        let names: BTreeSet<&String> = held.keys().chain(wanted.keys()).collect();
        for name in names {
            assert_eq!(held.get(name), wanted.get(name), "{scene}: {name}, held and wanted");
        }
    }
    assert_private(server, scene);
}

/// Kills the worker of a slot and waits for the next one.
#[track_caller]
fn kill_worker(server: &Server, slot: u32) {
    let former = server.workers()[&slot];
    send_signal(former, Signal::SIGKILL);
    wait_until(AT_LENGTH, "a new worker", || {
        server.workers().get(&slot).is_some_and(|&pid| pid != former)
    });
}

#[test]
fn each_process_holds_its_own_descriptors_and_no_others() {
    let lock = TestLock::shared();
    let fleet = Fleet { slots: 3, addresses: 2, handoff: false, admin: false, files: &[] };
    let args = ["--workers", "3", "--listen", "127.0.0.1:0", "--listen", "127.0.0.2:0"];
    let server = lock.start(&args);
    fleet.assert_held(&server, "started");
    kill_worker(&server, 2);
    fleet.assert_held(&server, "after a kill");
    for round in 1..=2 {
        reload(&server);
        fleet.assert_held(&server, &format!("after reload {round}"));
    }
    kill_worker(&server, 3);
    fleet.assert_held(&server, "after a reload and a kill");
    server.signal(Signal::SIGTTIN);
    Fleet { slots: 4, ..fleet }.assert_held(&server, "with one slot more");
    server.signal(Signal::SIGTTOU);
    fleet.assert_held(&server, "with that slot closed");
    server.stop();
}

#[test]
fn the_admin_process_and_the_files_of_the_controller_are_kept_apart() {
    let lock = TestLock::shared();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let files = ["pid", "state.lock"];
    let fleet = Fleet { slots: 2, addresses: 1, handoff: false, admin: true, files: &files };
    let args = ["--workers", "2", "--admin", "127.0.0.1:0", "--pid-file", &path("pid")];
    let server = lock.launch(&args).arg("--state-file").arg(&path("state")).start();
    fleet.assert_held(&server, "started");
    kill_worker(&server, 1);
    fleet.assert_held(&server, "after a worker was killed");
    send_signal(admin_pids(&server)[0], Signal::SIGKILL);
    wait_until(AT_LENGTH, "two lines", || server.log.count("admin process listening") == 2);
    fleet.assert_held(&server, "after the admin process was killed");
    reload(&server);
    fleet.assert_held(&server, "after a reload");
    kill_worker(&server, 2);
    fleet.assert_held(&server, "after a reload and a kill");
    server.stop();
}

#[test]
fn handoff_queues_are_shared_and_connections_are_not() {
    let lock = TestLock::shared();
    let fleet = Fleet { slots: 2, addresses: 1, handoff: true, admin: false, files: &[] };
    let server = lock.start(&["--workers", "2", "--balance", "least-connections"]);
    fleet.assert_held(&server, "started");
    let mut clients: Vec<Client> = (0..8).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|client| _ = client.echo(100));
    let mut with_clients = fleet.table();
    for worker in ["worker 1", "worker 2"] {
        let rows = with_clients.get_mut(worker).unwrap();
        rows.insert(format!("connection of {worker}"), 4);
    }
    assert_holds(&server, 0, &with_clients, "with eight clients");
    clients.into_iter().for_each(Client::finish);
    server.signal(Signal::SIGTTIN);
    Fleet { slots: 3, ..fleet }.assert_held(&server, "with one slot more");
    kill_worker(&server, 3);
    Fleet { slots: 3, ..fleet }.assert_held(&server, "after a kill");
    reload(&server);
    wait_for_workers(&server, 2);
    server.stop();
}

#[test]
fn a_worker_closes_accept_queues_after_a_takeover() {
    let lock = TestLock::shared();
    for handoff in [false, true] {
        let balance = if handoff { "least-connections" } else { "hash" };
        let server = lock.start(&["--workers", "3", "--balance", balance]);
        let fleet = Fleet { slots: 3, addresses: 1, handoff, admin: false, files: &[] };
        let victim = server.workers()[&1];
        freeze(victim);
        server.log.wait_for(AT_LENGTH, "worker unresponsive");
        let mut taken = fleet.table();
        for name in ["controller", "worker 1", "worker 2"] {
            let rows = taken.get_mut(name).unwrap();
            rows.remove("listener of controller, worker 1");
            rows.insert("listener of controller, worker 1, worker 2".into(), 1);
            if handoff {
                rows.remove("channel of controller, worker 1");
                rows.insert("channel of controller, worker 1, worker 2".into(), 1);
            }
        }
        assert_holds(&server, 0, &taken, "taken over");
        send_signal(victim, Signal::SIGCONT);
        server.log.wait_for(AT_LENGTH, "worker responsive again");
        fleet.assert_held(&server, "given back");
        server.stop();
    }
}
