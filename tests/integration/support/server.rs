//! The guard around one server: starts nothing itself, but ends everything, and looks twice.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::Child;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use super::client::Client;
use super::log::{Line, Log};
use super::{SOON, proc, secs, try_for, wait_for, wait_until};

/// A running server. When it goes out of scope everything that belongs to it is killed, and the
/// test fails if something outlived a controller that had ended by itself.
pub(crate) struct Server {
    /// What was started: the controller, or the wrapper around it.
    process: Child,
    /// Set once `process` has ended and been collected.
    exit: Option<std::process::ExitStatus>,
    /// The controller's pid; differs from `process` under wrappers that fork, and with --daemon.
    controller: i32,
    /// Stands in the environment of every process of this server.
    tag: String,
    /// Where it listens, in the order of the `serving on` line.
    addresses: Vec<SocketAddr>,
    /// Standard error.
    pub(crate) log: Log,
    /// Standard output.
    pub(crate) stdout: Log,
}

impl Server {
    /// Guards a process that was just started with piped outputs as leader of its own group.
    pub(crate) fn new(mut process: Child, tag: String) -> Self {
        let log = Log::collect(process.stderr.take().expect("stderr is piped"));
        let stdout = Log::collect(process.stdout.take().expect("stdout is piped"));
        let controller = process.id() as i32;
        Self { process, exit: None, controller, tag, addresses: Vec::new(), log, stdout }
    }

    /// Waits for the `serving on` line and takes the addresses from it.
    #[track_caller]
    pub(crate) fn wait_serving(&mut self, limit: Duration) {
        let line = try_for(limit, || {
            let gone = self.exit_code().is_some();
            self.log.with("serving on").pop().map(Some).or_else(|| gone.then_some(None))
        });
        match line {
            Some(Some(line)) => self.addresses = addresses_in(&line.text),
            Some(None) => panic!("the server ended before it served"),
            None => panic!("no `serving on` line within {limit:?}"),
        }
        assert!(!self.addresses.is_empty(), "the `serving on` line names addresses");
    }

    /// For servers that log nothing: waits until `workers` listen, as the kernel tells it.
    #[track_caller]
    pub(crate) fn wait_listening(&mut self, workers: usize) {
        let found = wait_for(SOON, "every worker listens", || {
            let pids = self.workers();
            let listeners: Vec<_> = pids.values().map(|&pid| proc::listeners_of(pid)).collect();
            let all = listeners.len() == workers && listeners.iter().all(|one| !one.is_empty());
            all.then(|| listeners[0][0].local)
        });
        self.addresses = vec![found];
    }

    /// The pids that the log names are the pids that the kernel knows as workers.
    #[track_caller]
    pub(crate) fn assert_log_names_the_workers(&self) {
        let logged = self.logged_workers();
        assert!(!logged.is_empty(), "there is a `worker ready` line for each worker");
        wait_until(SOON, "the workers of the log are those of /proc", || self.workers() == logged);
    }

    /// Slot to pid by the `worker ready` lines; the last line of a slot counts.
    pub(crate) fn logged_workers(&self) -> BTreeMap<u32, i32> {
        let ready = self.log.with("worker ready");
        let pair = |line: &Line| Some((line.number("slot")? as u32, line.number("worker_pid")?));
        ready.iter().filter_map(pair).map(|(slot, pid)| (slot, pid as i32)).collect()
    }

    /// Slot to pid of the living workers, as the kernel tells it.
    pub(crate) fn workers(&self) -> BTreeMap<u32, i32> {
        proc::workers_of(self.controller)
    }

    /// The pid of the only worker, or of the one with the lowest slot.
    pub(crate) fn worker(&self) -> i32 {
        *self.workers().values().next().expect("a worker lives")
    }

    /// Returns the pid of the worker that holds the server's end of this connection.
    #[track_caller]
    pub(crate) fn worker_of(&self, client: &Client) -> i32 {
        let port = client.stream().local_addr().expect("it is connected").port();
        wait_for(SOON, "a worker serves the client", || {
            let ours = |one: &proc::Socket| !one.listens && one.remote.port() == port;
            let inode = proc::sockets().into_iter().find(ours)?.inode;
            self.workers().into_values().find(|&pid| proc::inodes_of(pid).contains(&inode))
        })
    }

    /// The controller's pid.
    pub(crate) fn controller(&self) -> i32 {
        self.controller
    }

    /// Tells the guard that the controller is another process than the one that was started.
    pub(crate) fn controller_is(&mut self, pid: i32) {
        self.controller = pid;
    }

    /// Makes the child of the wrapper process the controller.
    #[track_caller]
    pub(crate) fn controller_is_inside(&mut self) {
        let wrapper = self.controller;
        let inside = proc::processes().into_iter().find(|process| process.ppid == wrapper);
        self.controller = inside.expect("the wrapper has started the controller").pid;
    }

    /// Where a client of this machine reaches the first listener.
    pub(crate) fn address(&self) -> SocketAddr {
        reachable(self.addresses[0])
    }

    /// All listeners, as they are bound.
    pub(crate) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The port of the first listener.
    pub(crate) fn port(&self) -> u16 {
        self.addresses[0].port()
    }

    /// A new client of this server.
    #[track_caller]
    pub(crate) fn connect(&self) -> Client {
        Client::connect(self.address())
    }

    /// A fresh connection is served.
    #[track_caller]
    pub(crate) fn assert_echoes(&self) {
        let mut client = self.connect();
        client.echo(1000);
        client.finish();
    }

    /// Processor time that controller and workers have used so far.
    pub(crate) fn cpu_time(&self) -> Duration {
        self.family().into_iter().map(proc::cpu_time).sum()
    }

    /// Sends a signal to the controller.
    #[track_caller]
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.controller), signal).expect("the controller lives");
    }

    /// Sends a signal to the whole group, as the terminal does on Ctrl-C.
    #[track_caller]
    pub(crate) fn signal_group(&self, signal: Signal) {
        killpg(Pid::from_raw(self.process.id() as i32), signal).expect("the group lives");
    }

    /// The exit code of what was started, once it has ended; `Some(-1)` for a signal.
    pub(crate) fn exit_code(&mut self) -> Option<i32> {
        if self.exit.is_none() {
            self.exit = self.process.try_wait().expect("the process is ours to wait for");
        }
        self.exit.map(|status| status.code().unwrap_or(-1))
    }

    /// Waits for the end of what was started; the exit code, or nothing when a signal ended it.
    #[track_caller]
    pub(crate) fn wait_exit(&mut self, limit: Duration) -> Option<i32> {
        let code = wait_for(limit, "the process ends", || self.exit_code());
        (code >= 0).then_some(code)
    }

    /// TERM, and everything that must follow from it on a server without clients.
    #[track_caller]
    pub(crate) fn stop(mut self) {
        self.signal(Signal::SIGTERM);
        assert_eq!(self.wait_exit(SOON), Some(0), "exit code after TERM");
    }

    /// What an ended process has written: stdout, then stderr.
    pub(crate) fn into_output(mut self) -> (Vec<String>, Vec<String>) {
        self.stdout.join();
        self.log.join();
        let texts = |log: &Log| log.lines().into_iter().map(|line| line.text).collect();
        (texts(&self.stdout), texts(&self.log))
    }

    /// The living processes of this server, found by group, session and environment.
    pub(crate) fn family(&self) -> Vec<i32> {
        let leader = self.process.id() as i32;
        let mine = |process: &proc::Process| {
            process.state != 'Z'
                && (process.group == leader
                    || process.pid == self.controller
                    || process.session == self.controller
                    || proc::environment_has(process.pid, &self.tag))
        };
        proc::processes().into_iter().filter(mine).map(|process| process.pid).collect()
    }

    /// Kills whatever is left, and whatever that starts meanwhile.
    fn kill_everything(&mut self) -> bool {
        try_for(secs(5), || {
            let family = self.family();
            for &pid in &family {
                // Already gone is as good as killed.
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            let collected = self.exit_code().is_some();
            (family.is_empty() && collected).then_some(())
        })
        .is_some()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let ended = self.exit_code().is_some() && !proc::is_alive(self.controller);
        let grace = if ended { secs(2) } else { Duration::ZERO };
        let empty = try_for(grace, || self.family().is_empty().then_some(())).is_some();
        let survivors = if ended && !empty { self.family() } else { Vec::new() };
        let titles: Vec<_> = survivors.iter().map(|&pid| proc::process(pid)).collect();
        let all_gone = self.kill_everything();
        self.log.resume();
        self.stdout.resume();
        if all_gone {
            // Nobody is left to write, so the pipes end.
            self.log.join();
            self.stdout.join();
        }
        if thread::panicking() {
            self.log.print("log of the server");
            self.stdout.print("standard output of the server");
            return;
        }
        assert!(titles.is_empty(), "these outlived the controller: {titles:?}");
        assert!(all_gone, "SIGKILL left these alive: {:?}", self.family());
    }
}

/// Every socket address in a line of text or JSON.
fn addresses_in(line: &str) -> Vec<SocketAddr> {
    line.split([' ', ',', '"']).filter_map(|word| word.parse().ok()).collect()
}

/// The address by which a client reaches a listener that may be bound to "every address". A dual
/// stack listener is met by IPv4: that works on machines without IPv6, too.
pub(crate) fn reachable(bound: SocketAddr) -> SocketAddr {
    match bound.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) | IpAddr::V6(Ipv6Addr::UNSPECIFIED) => {
            SocketAddr::from((Ipv4Addr::LOCALHOST, bound.port()))
        }
        _ => bound,
    }
}
