//! The controller: forks the workers and the admin process, keeps their sockets, and replaces
//! processes that fail.
//!
//! | module | contents |
//! |---|---|
//! | `startup` | creation of all resources, or their restoration after a reload |
//! | `runtime` | the part with side effects: signals, messages, exit statuses, and actions |
//! | `fleet` | all decisions, pure: the `supervisor` and the `queues` |
//! | `supervisor` | which processes to start, replace, and kill; order of replacement in a reload |
//! | `restart_backoff` | delay before a failed process is restarted |
//! | `queues` | which process accepts from which queue; takeover and steering when a worker hangs; closing after a reload |
//! | `children` | table of processes, and forking them |
//! | `sockets` | descriptors: listeners, address reservations, steering programs, socket activation |
//! | [`reload`] | configuration check, state handover, exec |
//! | `publish` | statistics, event history, log lines, stats dump, state file, service manager |
//!
//! The controller has one thread, never touches a client's data, takes no index from shared memory
//! unchecked, and never blocks. It receives the worker's and the admin process's main functions
//! from its caller, and imports neither.

mod children;
mod fleet;
mod publish;
mod queues;
pub mod reload;
mod restart_backoff;
mod runtime;
#[cfg(test)]
mod simulation;
mod sockets;
mod startup;
mod supervisor;

use std::io;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use mio::{Interest, Poll, Registry, Token};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tracing::{info, warn};

use self::children::Children;
use self::fleet::{Action, Fleet};
use self::publish::service_manager::ServiceManager;
use self::publish::{Publisher, controller_log};
use self::reload::Reload;
use self::reload::state_handover::{self, Handover};
use self::sockets::Sockets;
use self::sockets::admin_listener::AdminListener;
use self::startup::Resources;
use self::supervisor::Event;
use crate::config::Config;
use crate::daemon::access_log::{self, AccessLogError};
use crate::daemon::admin_socket::AdminSocketError;
use crate::daemon::assignment::{AdminMain, WorkerMain};
use crate::daemon::listeners::ListenError;
use crate::daemon::stats::Phase;
use crate::event_loop::{self, Handler};
use crate::exit::Exit;
use crate::sys::daemon::Launch;
use crate::sys::descriptors;
use crate::sys::exec::Invocation;
use crate::sys::pid_file::{PidFile, PidFileError};
use crate::sys::signals::{self, SignalStream};
use crate::sys::title::TitleArea;
use crate::sys::wait::reap;

/// Signals that the controller acts on.
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

/// Ignored signals: from a resized terminal, a closed pipe, and a file at its size limit (`ulimit
/// -f`).
const IGNORED: [Signal; 3] = [Signal::SIGWINCH, Signal::SIGPIPE, Signal::SIGXFSZ];

const SIGNALS: Token = Token(0);

/// Token of the barriers of the service manager; larger than every pid.
const BARRIERS: Token = Token(usize::MAX >> 1);

/// Longest time between two checks of heartbeats and exited processes.
const HEARTBEAT_CHECK: Duration = Duration::from_secs(1);

/// Error that keeps the controller from running.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// The controller cannot listen on an address of the service.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The controller cannot listen on the address of the admin process.
    #[error(transparent)]
    Admin(#[from] AdminSocketError),
    /// The pid file cannot be created.
    #[error(transparent)]
    PidFile(#[from] PidFileError),
    /// The first workers cannot start, with the reason of the first one.
    #[error("{0}")]
    Workers(String),
    /// The access log cannot be written.
    #[error(transparent)]
    AccessLog(#[from] AccessLogError),
    /// The sockets passed by the service manager cannot be used.
    #[error("{0}")]
    Passed(String),
    /// The limit of open descriptors is too low for this number of workers.
    #[error(
        "cannot supervise {workers} workers{}: {needed} descriptors needed, the limit is {limit} \
         (raise ulimit -n)",
        and_draining(*.draining)
    )]
    Descriptors {
        /// Number of configured workers.
        workers: u32,
        /// Number of workers that still drain.
        draining: u64,
        /// Number of descriptors that the controller needs.
        needed: u64,
        /// Limit of open descriptors.
        limit: u64,
    },
    /// A system call that must succeed has failed.
    #[error("cannot set up the controller: {0}")]
    System(#[from] io::Error),
}

fn and_draining(draining: u64) -> String {
    if draining > 0 { format!(" and {draining} that drain") } else { String::new() }
}

/// This program: the main functions of its processes, and how it was started.
#[derive(Debug)]
pub struct Program {
    /// Main function of a worker.
    pub worker_main: WorkerMain,
    /// Main function of the admin process.
    pub admin_main: AdminMain,
    /// File and arguments to execute this program again.
    pub invocation: Invocation,
    /// Memory of the process title that `ps` shows.
    pub title: TitleArea,
    /// Launching process that waits until the daemon is up.
    pub launch: Option<Launch>,
}

/// Runs the controller until it is told to stop. `handover` is the state of the previous image with
/// its configuration, which stays in force if the new one fails.
///
/// # Errors
/// [`ControllerError`] if the daemon cannot start.
pub fn run(
    mut config: Config,
    mut program: Program,
    handover: Option<(Handover, Option<Config>)>,
) -> Result<Exit, ControllerError> {
    // 1. Signals first: from here on none is lost and none kills.
    let mut signals = SignalStream::new(&HANDLED)?;
    signals::ignore(&IGNORED)?;
    signals::unblock_all()?;
    program.title.set("tcp-echo[ctrlr]");
    match preflight(&config) {
        // The check before the reload has succeeded, and a daemon that serves goes on.
        Err(reason) if handover.is_some() => warn!("{reason}"),
        done => done?,
    }
    // 2. Everything that can fail is done before the first fork; or the previous state is restored.
    let resources = match handover {
        None => Resources::create(&config)?,
        Some((handover, previous)) => Resources::restore(&mut config, previous, handover)?,
    };
    controller_log::warn_of_short_queues(config.listen.backlog);
    controller_log::warn_of_settings(&config);
    // 3. The loop starts the workers and handles everything from here on.
    let mut poll = Poll::new()?;
    poll.registry().register(signals.source(), SIGNALS, Interest::READABLE)?;
    let mut controller = resources.into_controller(&poll, &config, signals, program)?;
    let exit = event_loop::run(&mut poll, &mut controller)?;
    controller.save_final_state();
    controller.admin.remove();
    match controller.publisher.startup_failure {
        Some(reason) if exit != Exit::Ok => Err(ControllerError::Workers(reason)),
        None if exit != Exit::Ok => Err(ControllerError::Workers("no worker became ready".into())),
        _ => {
            info!("stopped");
            Ok(exit)
        }
    }
}

/// Checks what would make a start fail, before anything is created.
///
/// # Errors
/// [`ControllerError::Descriptors`] or [`ControllerError::AccessLog`].
pub fn preflight(config: &Config) -> Result<(), ControllerError> {
    access_log::check(&config.log)?;
    controller_log::check_descriptors(
        descriptors::raise_limit()?,
        config,
        state_handover::draining(),
    )
}

/// Returns the number of descriptors that the controller needs for this configuration.
pub fn descriptors_needed(config: &Config) -> u64 {
    controller_log::descriptors_needed(config)
}

/// The controller: its components, each with its own state.
struct Controller<'a> {
    config: &'a Config,
    program: Program,
    inputs: Inputs,
    fleet: Fleet,
    /// Actions that were decided and not carried out.
    actions: Vec<Action>,
    children: Children,
    sockets: Sockets,
    admin: AdminListener,
    manager: ServiceManager,
    reload: Reload,
    publisher: Publisher,
    pid_file: Option<PidFile>,
}

/// Events of the loop that were not handled yet.
struct Inputs {
    /// `None` only in a forked process that is about to become a worker.
    signals: Option<SignalStream>,
    registry: Registry,
    /// Processes with pending messages.
    readable: Vec<Pid>,
    signals_ready: bool,
}

impl Controller<'_> {
    /// Returns the phase of the daemon for statistics, admin page, and service manager.
    fn phase(&self) -> Phase {
        self.fleet.supervisor.phase(self.reload.is_active())
    }
}

impl Handler for Controller<'_> {
    type Stop = Exit;

    fn ready(&mut self, event: &mio::event::Event) {
        match event.token() {
            SIGNALS => self.inputs.signals_ready = true,
            // Checked in every loop iteration.
            BARRIERS => {}
            Token(pid) => self.inputs.readable.extend(i32::try_from(pid).map(Pid::from_raw)),
        }
    }

    fn tick(&mut self, now: Instant) -> ControlFlow<Exit> {
        if std::mem::take(&mut self.inputs.signals_ready) {
            self.on_signals();
        }
        for pid in std::mem::take(&mut self.inputs.readable) {
            self.on_channel(pid);
        }
        while let Some((pid, status)) = reap() {
            self.on_exit(pid, status);
        }
        self.check_barriers();
        self.check_heartbeats(now);
        self.apply(Event::Tick);
        let stop = self.act();
        self.advance_reload(now);
        self.notify(now);
        self.publish(now);
        self.publisher.stats_dump.continue_writing(now);
        stop
    }

    fn deadline(&self, now: Instant) -> Option<Instant> {
        // The first loop iteration of an image does not wait.
        if self.inputs.signals_ready {
            return Some(now);
        }
        let heartbeats = self
            .config
            .fleet
            .worker_timeout
            .map_or(HEARTBEAT_CHECK, |limit| HEARTBEAT_CHECK.min(limit / 3));
        let others = [
            self.fleet.deadline(),
            self.reload.deadline(),
            self.manager.deadline(),
            self.publisher.next_sample(),
            self.publisher.stats_dump.deadline(now),
        ];
        others.into_iter().flatten().chain([now + heartbeats]).min()
    }
}
