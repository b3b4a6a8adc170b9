//! The controller: forks the workers, keeps their listeners, and replaces those that die.
//!
//! This file is the shell around [`supervisor`]: it turns signals, messages and endings into events
//! and carries out the actions. It has one thread, always, never touches a client's byte, takes no
//! index from shared memory, and never blocks. What a worker does is none of its business: it is
//! handed a function.

mod backoff;
mod report;
mod spawn;
pub mod supervisor;
mod worker_handle;

use std::collections::BTreeMap;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Interest, Poll, Registry, Token};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tracing::{debug, error, info, warn};

use self::supervisor::{Action, Event, Plan, Report, Supervisor};
use self::worker_handle::WorkerHandle;
use crate::assignment::WorkerMain;
use crate::config::{Config, Endpoint};
use crate::event_loop::{self, Handler};
use crate::exit::Exit;
use crate::logging;
use crate::process::channel::{Message, Received};
use crate::process::daemon::{self, Launch};
use crate::process::descriptors;
use crate::process::pid_file::{PidFile, PidFileError};
use crate::process::signals::{self, SignalStream};
use crate::process::sockets::{Claim, ListenError};
use crate::process::title::TitleArea;
use crate::process::wait::{Ending, reap};
use crate::stats::{Statistics, Word};

/// Signals the controller acts on.
const HANDLED: [Signal; 9] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
    Signal::SIGCHLD,
];

/// Signals that mean nothing here; a terminal sends the first, a closed pipe the second.
const IGNORED: [Signal; 2] = [Signal::SIGWINCH, Signal::SIGPIPE];

const SIGNALS: Token = Token(0);

/// How often heartbeats are looked at, and the dead reaped whatever signals have been lost.
const ROUND: Duration = Duration::from_secs(1);

/// Why the controller cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// An address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The pid file cannot be had.
    #[error(transparent)]
    PidFile(#[from] PidFileError),
    /// The first workers cannot start; the reason is the first one's.
    #[error("{0}")]
    Workers(String),
    /// The system refuses something that is always needed.
    #[error("cannot set up the controller: {0}")]
    System(#[from] io::Error),
}

/// Runs until told to stop.
///
/// # Errors
/// [`ControllerError`] when the daemon cannot start.
pub fn run(
    config: &Config,
    worker_main: WorkerMain,
    mut title: TitleArea,
    launch: Option<Launch>,
) -> Result<Exit, ControllerError> {
    // 1. Signals first: from here on none is lost and none kills.
    let mut signals = SignalStream::new(&HANDLED)?;
    signals::ignore(&IGNORED)?;
    title.set("tcp-echo[ctrlr]");
    // 2. What can be refused, while nothing runs yet.
    let limit = descriptors::raise_limit()?;
    let _pid_file = config.process.pid_file.as_deref().map(PidFile::create).transpose()?;
    let claims = claim_all(config)?;
    report::warn_of_short_queues(config.listen.backlog);
    debug!(descriptors = limit, "limits");
    // 3. The memory and the loop.
    let workers = config.fleet.workers.get();
    let statistics = Statistics::new(seats(workers))?;
    let mut poll = Poll::new()?;
    poll.registry().register(signals.source(), SIGNALS, Interest::READABLE)?;
    // 4. The workers, and everything that happens from then on.
    let seed = u64::from(std::process::id()) << 32 | u64::from(epoch_nanos());
    let mut controller = Controller {
        config,
        worker_main,
        title,
        launch,
        signals: Some(signals),
        registry: poll.registry().try_clone()?,
        endpoints: claims.iter().map(|claim| claim.endpoint).collect(),
        claims,
        statistics,
        supervisor: Supervisor::new(plan(config), seed, Instant::now()),
        actions: Vec::new(),
        handles: BTreeMap::new(),
        listeners: (0..workers).map(|_| Vec::new()).collect(),
        readable: Vec::new(),
        signals_ready: false,
        serving: false,
        failure: None,
    };
    let exit = event_loop::run(&mut poll, &mut controller)?;
    match controller.failure {
        Some(reason) if exit != Exit::Ok => Err(ControllerError::Workers(reason)),
        None if exit != Exit::Ok => Err(ControllerError::Workers("no worker gets ready".into())),
        _ => {
            info!("stopped");
            Ok(exit)
        }
    }
}

/// Claims every address. Those without a port of their own (port 0) share the first one's.
fn claim_all(config: &Config) -> Result<Vec<Claim>, ListenError> {
    let mut free_port = 0;
    let mut claims = Vec::new();
    for endpoint in &config.listen.endpoints {
        let mut endpoint = *endpoint;
        let any_port = endpoint.address.port() == 0;
        if any_port {
            endpoint.address.set_port(free_port);
        }
        let claim = Claim::new(&endpoint, &config.listen)?;
        if any_port {
            free_port = claim.endpoint.address.port();
        }
        claims.push(claim);
    }
    Ok(claims)
}

fn plan(config: &Config) -> Plan {
    Plan {
        slots: config.fleet.workers.get(),
        worker_timeout: config.fleet.worker_timeout,
        graceful_timeout: config.fleet.graceful_timeout,
        shutdown_delay: config.fleet.shutdown_delay,
        drain_timeout: config.fleet.drain_timeout,
    }
}

/// Room for workers and for those that still drain. Who finds no seat waits like after a failed fork.
fn seats(workers: u32) -> usize {
    workers as usize * 8 + 16
}

fn epoch_nanos() -> u32 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |elapsed| elapsed.subsec_nanos())
}

/// Everything the controller has.
struct Controller<'a> {
    config: &'a Config,
    worker_main: WorkerMain,
    title: TitleArea,
    launch: Option<Launch>,
    /// `None` only in a process that is about to become a worker.
    signals: Option<SignalStream>,
    registry: Registry,
    endpoints: Vec<Endpoint>,
    claims: Vec<Claim>,
    statistics: Statistics,
    supervisor: Supervisor,
    actions: Vec<Action>,
    handles: BTreeMap<Pid, WorkerHandle>,
    /// For each slot its listeners: they outlive its workers, and so do the connections queued there.
    listeners: Vec<Vec<OwnedFd>>,
    readable: Vec<Pid>,
    signals_ready: bool,
    serving: bool,
    /// What the first worker that could not start said.
    failure: Option<String>,
}

impl Controller<'_> {
    fn tell(&mut self, event: Event) {
        self.supervisor.on(event, Instant::now(), &mut self.actions);
    }

    fn on_signals(&mut self) {
        for signal in self.signals.as_mut().map(SignalStream::pending).unwrap_or_default() {
            match signal {
                Signal::SIGTERM | Signal::SIGINT | Signal::SIGQUIT => {
                    info!("received {signal}");
                    self.tell(Event::Stop);
                }
                Signal::SIGUSR1 => {
                    for pid in self.supervisor.pids() {
                        self.signal(pid, Signal::SIGUSR1);
                    }
                }
                // The dead are collected on every turn.
                Signal::SIGCHLD => {}
                other => warn!("{other} is not supported yet"),
            }
        }
    }

    /// Reads what a worker has to say, to the end.
    fn on_channel(&mut self, pid: Pid) {
        loop {
            let Some(handle) = self.handles.get(&pid) else { return };
            let slot = handle.slot;
            match handle.channel.receive() {
                Ok(Received::Nothing) => return,
                Ok(Received::Message(message, sockets)) => {
                    self.on_message(pid, slot, message, sockets);
                }
                // Its ending is told by SIGCHLD.
                Ok(Received::Closed) => return,
                Err(error) => {
                    warn!(slot, worker_pid = pid.as_raw(), "unreadable message: {error}");
                    return;
                }
            }
        }
    }

    fn on_message(&mut self, pid: Pid, slot: u32, message: Message, sockets: Vec<OwnedFd>) {
        match message {
            Message::Ready => {
                // Once the claims are gone nothing new is to be accepted any more.
                let kept = &mut self.listeners[slot as usize - 1];
                if kept.is_empty() && !sockets.is_empty() && !self.claims.is_empty() {
                    *kept = sockets;
                }
                self.tell(Event::Ready(pid));
            }
            Message::Retiring => self.tell(Event::Retiring(pid)),
            // All of the first generation fail alike: it is said once, at the end.
            Message::Failed(reason) if !self.serving => {
                self.failure.get_or_insert(reason);
            }
            Message::Failed(reason) => error!(slot, worker_pid = pid.as_raw(), "{reason}"),
        }
    }

    fn on_ending(&mut self, pid: Pid, ending: Ending) {
        // What it said last comes before its end.
        self.on_channel(pid);
        if let Some(handle) = self.handles.remove(&pid) {
            let channel = handle.channel.as_raw_fd();
            let _ = self.registry.deregister(&mut SourceFd(&channel));
            self.statistics.free_seat(handle.seat);
        }
        self.tell(Event::Exited(pid, ending));
    }

    fn look_at_heartbeats(&mut self) {
        let mut alive = Vec::new();
        for (&pid, handle) in &mut self.handles {
            let heartbeat = self.statistics.seat(handle.seat).get(Word::Heartbeat);
            if heartbeat != handle.heartbeat {
                handle.heartbeat = heartbeat;
                alive.push(pid);
            }
        }
        alive.into_iter().for_each(|pid| self.tell(Event::Beat(pid)));
    }

    /// Carries out what the brain has decided, and what it decides upon hearing of that.
    fn act(&mut self) -> ControlFlow<Exit> {
        while !self.actions.is_empty() {
            for action in std::mem::take(&mut self.actions) {
                match action {
                    Action::Spawn(slot) => self.spawn(slot),
                    Action::Signal(pid, signal) => self.signal(pid, signal),
                    Action::CloseListeners => {
                        self.listeners.iter_mut().for_each(Vec::clear);
                        self.claims.clear();
                    }
                    Action::Report(report) => self.report(report),
                    Action::Exit(exit) => return ControlFlow::Break(exit),
                }
            }
        }
        ControlFlow::Continue(())
    }

    fn signal(&self, pid: Pid, signal: Signal) {
        // Only a process that has not been reaped is ever named here, so the pid is not another's.
        if let Err(errno) = kill(pid, signal) {
            warn!(worker_pid = pid.as_raw(), "cannot send {signal}: {errno}");
        }
    }

    fn report(&mut self, report: Report) {
        if let Report::Serving(_) = report {
            self.serving = true;
            self.failure = None;
            if let Some(launch) = self.launch.take() {
                launch.succeeded();
                let _ = daemon::release_terminal();
                logging::reopen();
            }
        }
        let since = |pid: &Pid| self.handles.get(pid).map(|handle| handle.since.elapsed());
        report::log(report, &self.endpoints, since);
    }
}

impl Handler for Controller<'_> {
    type Stop = Exit;

    fn ready(&mut self, event: &mio::event::Event) {
        match event.token() {
            SIGNALS => self.signals_ready = true,
            Token(pid) => self.readable.extend(i32::try_from(pid).map(Pid::from_raw)),
        }
    }

    fn tick(&mut self, _: Instant) -> ControlFlow<Exit> {
        if std::mem::take(&mut self.signals_ready) {
            self.on_signals();
        }
        for pid in std::mem::take(&mut self.readable) {
            self.on_channel(pid);
        }
        while let Some((pid, ending)) = reap() {
            self.on_ending(pid, ending);
        }
        self.look_at_heartbeats();
        self.tell(Event::Tick);
        logging::report_dropped();
        self.act()
    }

    fn deadline(&self, now: Instant) -> Option<Instant> {
        let round = self.config.fleet.worker_timeout.map_or(ROUND, |limit| ROUND.min(limit / 3));
        Some(self.supervisor.deadline().map_or(now + round, |at| at.min(now + round)))
    }
}
