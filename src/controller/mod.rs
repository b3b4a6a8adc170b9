//! The controller: forks the workers, keeps their sockets, and replaces those that die.
//!
//! This file is the shell around [`supervisor`]: it turns signals, messages and endings into events
//! and carries out the actions. It has one thread, always, never touches a client's byte, takes no
//! index from shared memory, and never blocks. What a worker does is none of its business: it is
//! handed a function.

mod activation;
mod admin;
mod backoff;
mod children;
mod claims;
mod dump;
mod figures;
mod fleet;
pub mod handover;
pub mod notify;
mod publisher;
mod queue_actions;
mod queues;
mod reload;
mod report;
mod restore;
mod runtime;
mod service_manager;
#[cfg(test)]
mod simulation;
mod sockets;
mod spawn;
mod startup;
mod state_file;
mod steering;
pub mod supervisor;

use std::io;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use mio::{Interest, Poll, Registry, Token};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tracing::{info, warn};

use self::admin::AdminSocket;
use self::children::Children;
use self::fleet::{Action, Fleet};
use self::handover::Handover;
use self::publisher::Publisher;
use self::reload::Reload;
use self::service_manager::ServiceManager;
use self::sockets::Sockets;
use self::startup::Resources;
use self::supervisor::Event;
use crate::access_log::{self, AccessLogError};
use crate::assignment::{AdminMain, WorkerMain};
use crate::config::Config;
use crate::event_loop::{self, Handler};
use crate::exit::Exit;
use crate::process::daemon::Launch;
use crate::process::descriptors;
use crate::process::exec::Invocation;
use crate::process::front::FrontError;
use crate::process::pid_file::{PidFile, PidFileError};
use crate::process::signals::{self, SignalStream};
use crate::process::sockets::ListenError;
use crate::process::title::TitleArea;
use crate::process::wait::reap;
use crate::stats::Phase;

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

/// Signals that mean nothing here; a terminal sends the first, a closed pipe the second, a file that
/// is at its limit (`ulimit -f`) the third.
const IGNORED: [Signal; 3] = [Signal::SIGWINCH, Signal::SIGPIPE, Signal::SIGXFSZ];

const SIGNALS: Token = Token(0);

/// The service manager has closed a duplicate. No pid is so large.
const BARRIERS: Token = Token(usize::MAX >> 1);

/// How often heartbeats are looked at, and the dead reaped whatever signals have been lost.
const ROUND: Duration = Duration::from_secs(1);

/// Why the controller cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// An address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The same for the admin process's.
    #[error(transparent)]
    Admin(#[from] FrontError),
    /// The pid file cannot be had.
    #[error(transparent)]
    PidFile(#[from] PidFileError),
    /// The first workers cannot start; the reason is the first one's.
    #[error("{0}")]
    Workers(String),
    /// The access log cannot be written.
    #[error(transparent)]
    AccessLog(#[from] AccessLogError),
    /// What the service manager passes is of no use.
    #[error("{0}")]
    Passed(String),
    /// The limit of open descriptors is too low to supervise so many workers.
    #[error(
        "{workers} workers{} need {needed} descriptors, the limit is {limit} (ulimit -n)",
        beside(*.draining)
    )]
    Descriptors {
        /// How many workers.
        workers: u32,
        /// Workers that drain beside them.
        draining: u64,
        /// What the controller needs for them.
        needed: u64,
        /// What it may have.
        limit: u64,
    },
    /// The system refuses something that is always needed.
    #[error("cannot set up the controller: {0}")]
    System(#[from] io::Error),
}

fn beside(draining: u64) -> String {
    if draining > 0 { format!(", and {draining} that drain,") } else { String::new() }
}

/// What the controller is given.
#[derive(Debug)]
pub struct Boot {
    /// A worker's life.
    pub worker_main: WorkerMain,
    /// The admin process's life.
    pub admin_main: AdminMain,
    /// How to start this program again.
    pub invocation: Invocation,
    /// Where `ps` looks.
    pub title: TitleArea,
    /// Who waits for the daemon to be up.
    pub launch: Option<Launch>,
}

/// Runs until told to stop. `note` is what the image before has left, with its configuration, which
/// holds again should the new one not do.
///
/// # Errors
/// [`ControllerError`] when the daemon cannot start.
pub fn run(
    mut config: Config,
    mut boot: Boot,
    note: Option<(Handover, Option<Config>)>,
) -> Result<Exit, ControllerError> {
    // 1. Signals first: from here on none is lost and none kills.
    let mut signals = SignalStream::new(&HANDLED)?;
    signals::ignore(&IGNORED)?;
    signals::unblock_all()?;
    boot.title.set("tcp-echo[ctrlr]");
    match preflight(&config) {
        // It has been found fit before it took over; a daemon that serves is not given up for this.
        Err(reason) if note.is_some() => warn!("{reason}"),
        done => done?,
    }
    // 2. What can be refused, while nothing runs yet; or what runs.
    let resources = match note {
        None => Resources::create(&config)?,
        Some((note, former)) => Resources::restore(&mut config, former, note)?,
    };
    report::warn_of_short_queues(config.listen.backlog);
    report::warn_of_settings(&config);
    // 3. The loop, the workers, and everything that happens from then on.
    let mut poll = Poll::new()?;
    poll.registry().register(signals.source(), SIGNALS, Interest::READABLE)?;
    let mut controller = resources.run(&poll, &config, signals, boot)?;
    let exit = event_loop::run(&mut poll, &mut controller)?;
    controller.keep_state_for_good();
    controller.admin.remove();
    match controller.publisher.failure {
        Some(reason) if exit != Exit::Ok => Err(ControllerError::Workers(reason)),
        None if exit != Exit::Ok => Err(ControllerError::Workers("no worker gets ready".into())),
        _ => {
            info!("stopped");
            Ok(exit)
        }
    }
}

/// What can be known to be impossible before anything is begun.
///
/// # Errors
/// [`ControllerError::Descriptors`] or [`ControllerError::AccessLog`].
pub fn preflight(config: &Config) -> Result<(), ControllerError> {
    access_log::check(&config.log)?;
    report::check_descriptors(descriptors::raise_limit()?, config, handover::draining())
}

/// How many descriptors the controller needs for these workers and addresses.
pub fn descriptors_needed(config: &Config) -> u64 {
    report::descriptors_needed(config)
}

/// Everything the controller has.
struct Controller<'a> {
    config: &'a Config,
    program: Boot,
    inputs: Inputs,
    /// The decisions about processes and queues.
    fleet: Fleet,
    /// Actions that were decided and are not carried out yet.
    actions: Vec<Action>,
    children: Children,
    sockets: Sockets,
    admin: AdminSocket,
    manager: ServiceManager,
    reload: Reload,
    publisher: Publisher,
    pid_file: Option<PidFile>,
}

/// Events of the loop that are not handled yet.
struct Inputs {
    /// `None` only in a process that is about to become a worker.
    signals: Option<SignalStream>,
    registry: Registry,
    /// Processes whose channels have something.
    readable: Vec<Pid>,
    signals_ready: bool,
}

impl Controller<'_> {
    /// Where the daemon is in its life: the one answer for statistics, page and service manager.
    fn phase(&self) -> Phase {
        self.fleet.supervisor.phase(self.reload.is_active())
    }
}

impl Handler for Controller<'_> {
    type Stop = Exit;

    fn ready(&mut self, event: &mio::event::Event) {
        match event.token() {
            SIGNALS => self.inputs.signals_ready = true,
            // Looked at in every turn.
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
        while let Some((pid, ending)) = reap() {
            self.on_ending(pid, ending);
        }
        self.check_barriers();
        self.look_at_heartbeats(now);
        self.tell(Event::Tick);
        let stop = self.act();
        self.advance_reload(now);
        self.notify(now);
        self.publish(now);
        self.publisher.dump.go_on(now);
        stop
    }

    fn deadline(&self, now: Instant) -> Option<Instant> {
        // The first turn of an image waits for nothing.
        if self.inputs.signals_ready {
            return Some(now);
        }
        let round = self.config.fleet.worker_timeout.map_or(ROUND, |limit| ROUND.min(limit / 3));
        let others = [
            self.fleet.deadline(),
            self.reload.deadline(),
            self.manager.deadline(),
            self.publisher.figures.deadline(),
            self.publisher.dump.deadline(now),
        ];
        others.into_iter().flatten().chain([now + round]).min()
    }
}
