//! Guard of one server: kills all its processes on drop and fails the test if one outlived the controller.

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

/// Running server. Dropping it kills all its processes; the test fails if a process
/// outlived a controller that had exited.
pub(crate) struct Server {
    /// Started process: the controller or a wrapper.
    process: Child,
    /// Exit status of `process`, once reaped.
    exit: Option<std::process::ExitStatus>,
    /// Pid of the controller; differs from `process` under wrappers that fork, and with --daemon.
    controller: i32,
    /// Text in the environment of every process of this server.
    tag: String,
    /// Addresses of the listeners, in the order of the `serving on` line.
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

    /// Waits for the `serving on` line and reads the addresses from it.
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

    /// Waits until the kernel lists listeners of this number of workers, for servers that log nothing.
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

    /// Fails unless the log names exactly the pids of the workers.
    #[track_caller]
    pub(crate) fn assert_log_names_the_workers(&self) {
        let logged = self.logged_workers();
        assert!(!logged.is_empty(), "there is a `worker ready` line for each worker");
        wait_until(SOON, "the workers of the log are those of /proc", || self.workers() == logged);
    }

    /// Returns pid by slot, from the last `worker ready` line of each slot.
    pub(crate) fn logged_workers(&self) -> BTreeMap<u32, i32> {
        let ready = self.log.with("worker ready");
        let pair = |line: &Line| Some((line.number("slot")? as u32, line.number("worker_pid")?));
        ready.iter().filter_map(pair).map(|(slot, pid)| (slot, pid as i32)).collect()
    }

    /// Returns pid by slot of the living workers.
    pub(crate) fn workers(&self) -> BTreeMap<u32, i32> {
        proc::workers_of(self.controller)
    }

    /// Returns the pid of the worker with the lowest slot.
    pub(crate) fn worker(&self) -> i32 {
        *self.workers().values().next().expect("a worker lives")
    }

    /// Returns the pid of the worker that holds the server's end of this connection.
    #[track_caller]
    pub(crate) fn worker_of(&self, client: &Client) -> i32 {
        wait_for(SOON, "a worker serves the client", || {
            self.workers().into_values().find(|&pid| self.is_served_by(client, pid))
        })
    }

    /// Returns `true` if the process holds the server's end of this connection.
    pub(crate) fn is_served_by(&self, client: &Client, pid: i32) -> bool {
        let port = client.stream().local_addr().expect("it is connected").port();
        let ours = |one: &proc::Socket| !one.listens && one.remote.port() == port;
        let socket = proc::sockets().into_iter().find(ours);
        socket.is_some_and(|socket| proc::inodes_of(pid).contains(&socket.inode))
    }

    /// Returns the pid of the controller.
    pub(crate) fn controller(&self) -> i32 {
        self.controller
    }

    /// Sets the pid of the controller, if the started process is a different one.
    pub(crate) fn controller_is(&mut self, pid: i32) {
        self.controller = pid;
    }

    /// Sets the controller to the child of the wrapper process.
    #[track_caller]
    pub(crate) fn controller_is_inside(&mut self) {
        let wrapper = self.controller;
        let inside = proc::processes().into_iter().find(|process| process.ppid == wrapper);
        self.controller = inside.expect("the wrapper has started the controller").pid;
    }

    /// Returns the address by which a local client reaches the first listener.
    pub(crate) fn address(&self) -> SocketAddr {
        reachable(self.addresses[0])
    }

    /// Returns the bound addresses of all listeners.
    pub(crate) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Returns the port of the first listener.
    pub(crate) fn port(&self) -> u16 {
        self.addresses[0].port()
    }

    /// Connects a client.
    #[track_caller]
    pub(crate) fn connect(&self) -> Client {
        Client::connect(self.address())
    }

    /// Fails unless a new connection is served.
    #[track_caller]
    pub(crate) fn assert_echoes(&self) {
        let mut client = self.connect();
        client.echo(1000);
        client.finish();
    }

    /// Returns the CPU time of the controller and the workers.
    pub(crate) fn cpu_time(&self) -> Duration {
        self.family().into_iter().map(proc::cpu_time).sum()
    }

    /// Sends a signal to the controller.
    #[track_caller]
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.controller), signal).expect("the controller lives");
    }

    /// Sends a signal to the process group, like the terminal on Ctrl-C.
    #[track_caller]
    pub(crate) fn signal_group(&self, signal: Signal) {
        killpg(Pid::from_raw(self.process.id() as i32), signal).expect("the group lives");
    }

    /// Returns the exit code of the started process if it has exited; `Some(-1)` for a signal.
    pub(crate) fn exit_code(&mut self) -> Option<i32> {
        if self.exit.is_none() {
            self.exit = self.process.try_wait().expect("the process is ours to wait for");
        }
        self.exit.map(|status| status.code().unwrap_or(-1))
    }

    /// Waits until the started process exits; returns the exit code, `None` for a signal.
    #[track_caller]
    pub(crate) fn wait_exit(&mut self, limit: Duration) -> Option<i32> {
        let code = wait_for(limit, "the process ends", || self.exit_code());
        (code >= 0).then_some(code)
    }

    /// Stops a server without clients by TERM and expects exit code 0.
    #[track_caller]
    pub(crate) fn stop(mut self) {
        self.signal(Signal::SIGTERM);
        assert_eq!(self.wait_exit(SOON), Some(0), "exit code after TERM");
    }

    /// Returns the lines that an exited process wrote to stdout and stderr.
    pub(crate) fn into_output(mut self) -> (Vec<String>, Vec<String>) {
        self.stdout.join();
        self.log.join();
        let texts = |log: &Log| log.lines().into_iter().map(|line| line.text).collect();
        (texts(&self.stdout), texts(&self.log))
    }

    /// Returns the living processes of this server, found by group, session, and environment.
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

    /// Kills the remaining processes; returns `true` if none is left.
    fn kill_everything(&mut self) -> bool {
        try_for(secs(5), || {
            let family = self.family();
            for &pid in &family {
                // An error means that the process has exited.
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
            // No writer is left, so the pipes end.
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

/// Returns the socket addresses in a line of text or JSON.
fn addresses_in(line: &str) -> Vec<SocketAddr> {
    line.split([' ', ',', '"']).filter_map(|word| word.parse().ok()).collect()
}

/// Returns the address by which a client reaches a listener, also one bound to a wildcard. A dual
/// stack listener is reached by IPv4, which works on machines without IPv6, too.
pub(crate) fn reachable(bound: SocketAddr) -> SocketAddr {
    match bound.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) | IpAddr::V6(Ipv6Addr::UNSPECIFIED) => {
            SocketAddr::from((Ipv4Addr::LOCALHOST, bound.port()))
        }
        _ => bound,
    }
}
