//! The controller: forks the workers, keeps their sockets, and replaces those that die.
//!
//! This file is the shell around [`supervisor`]: it turns signals, messages and endings into events
//! and carries out the actions. It has one thread, always, never touches a client's byte, takes no
//! index from shared memory, and never blocks. What a worker does is none of its business: it is
//! handed a function.

mod activation;
mod admin;
mod backoff;
mod boot;
mod dump;
mod exchange;
mod figures;
pub mod handover;
mod listeners;
pub mod notify;
mod reload;
mod report;
mod service_manager;
mod shell;
mod spawn;
mod state_file;
mod steering;
pub mod supervisor;
mod worker_handle;

use std::collections::BTreeMap;
use std::io;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use mio::{Interest, Poll, Registry, Token};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tracing::{info, warn};

use self::admin::Admin;
use self::boot::Estate;
use self::dump::Dump;
use self::exchange::Inboxes;
use self::figures::Figures;
use self::handover::Handover;
use self::listeners::Listeners;
use self::reload::Reload;
use self::service_manager::ServiceManager;
use self::shell::Heir;
use self::state_file::StateFile;
use self::steering::Steering;
use self::supervisor::{Action, Event, Supervisor};
use self::worker_handle::WorkerHandle;
use crate::access_log::{self, AccessLogError};
use crate::assignment::{AdminMain, WorkerMain};
use crate::config::{Config, Endpoint};
use crate::event_loop::timers::Clock;
use crate::event_loop::{self, Handler};
use crate::exit::Exit;
use crate::process::daemon::Launch;
use crate::process::descriptors;
use crate::process::exec::Invocation;
use crate::process::front::FrontError;
use crate::process::pid_file::{PidFile, PidFileError};
use crate::process::signals::{self, SignalStream};
use crate::process::sockets::{Claim, ListenError};
use crate::process::title::TitleArea;
use crate::process::wait::reap;
use crate::stats::Statistics;

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
    #[error("{workers} workers need {needed} descriptors, the limit is {limit} (ulimit -n)")]
    Descriptors {
        /// How many workers.
        workers: u32,
        /// What the controller needs for them.
        needed: u64,
        /// What it may have.
        limit: u64,
    },
    /// The system refuses something that is always needed.
    #[error("cannot set up the controller: {0}")]
    System(#[from] io::Error),
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
    let estate = match note {
        None => Estate::found(&config)?,
        Some((note, former)) => Estate::inherit(&mut config, former, note)?,
    };
    report::warn_of_short_queues(config.listen.backlog);
    report::warn_of_settings(&config);
    // 3. The loop, the workers, and everything that happens from then on.
    let mut poll = Poll::new()?;
    poll.registry().register(signals.source(), SIGNALS, Interest::READABLE)?;
    let mut controller = estate.settle(&poll, &config, signals, boot)?;
    let exit = event_loop::run(&mut poll, &mut controller)?;
    controller.keep_state_for_good();
    match controller.failure {
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
    report::check_descriptors(descriptors::raise_limit()?, config)
}

/// How many descriptors the controller needs for these workers and addresses.
pub fn descriptors_needed(config: &Config) -> u64 {
    report::descriptors_needed(config)
}

/// Everything the controller has.
struct Controller<'a> {
    config: &'a Config,
    worker_main: WorkerMain,
    admin_main: AdminMain,
    invocation: Invocation,
    title: TitleArea,
    launch: Option<Launch>,
    /// `None` only in a process that is about to become a worker.
    signals: Option<SignalStream>,
    registry: Registry,
    endpoints: Vec<Endpoint>,
    claims: Vec<Claim>,
    passed: Vec<Endpoint>,
    manager: ServiceManager,
    /// Nothing new is to be accepted any more.
    closing: bool,
    pid_file: Option<PidFile>,
    listeners: Listeners,
    inboxes: Inboxes,
    statistics: Statistics,
    clock: Clock,
    supervisor: Supervisor,
    handles: BTreeMap<Pid, WorkerHandle>,
    /// Who is emptying the queue of which slot that was given up.
    heirs: Vec<Heir>,
    steering: Steering,
    reload: Reload,
    actions: Vec<Action>,
    readable: Vec<Pid>,
    signals_ready: bool,
    serving: bool,
    /// What the first worker that could not start said.
    failure: Option<String>,
    figures: Figures,
    dump: Dump,
    /// Where the totals are kept, if they are.
    state_file: Option<StateFile>,
    admin: Admin,
    /// Set once all workers have ended: the admin process is the last.
    exit: Option<Exit>,
}

impl Handler for Controller<'_> {
    type Stop = Exit;

    fn ready(&mut self, event: &mio::event::Event) {
        match event.token() {
            SIGNALS => self.signals_ready = true,
            Token(pid) => self.readable.extend(i32::try_from(pid).map(Pid::from_raw)),
        }
    }

    fn tick(&mut self, now: Instant) -> ControlFlow<Exit> {
        if std::mem::take(&mut self.signals_ready) {
            self.on_signals();
        }
        for pid in std::mem::take(&mut self.readable) {
            self.on_channel(pid);
            self.on_admin_channel(pid);
        }
        while let Some((pid, ending)) = reap() {
            self.on_ending(pid, ending);
        }
        self.look_at_heartbeats(now);
        self.replace_late_heirs(now);
        self.tell(Event::Tick);
        let stop = self.act();
        self.look_after_admin(now);
        self.advance_reload(now);
        self.notify(now);
        self.publish(now);
        self.dump.go_on(now);
        self.end_after_admin(stop, now)
    }

    fn deadline(&self, now: Instant) -> Option<Instant> {
        // The first turn of an image waits for nothing.
        if self.signals_ready {
            return Some(now);
        }
        let round = self.config.fleet.worker_timeout.map_or(ROUND, |limit| ROUND.min(limit / 3));
        let others = [
            self.supervisor.deadline(),
            self.reload.deadline(),
            self.manager.deadline(),
            self.figures.deadline(),
            self.dump.deadline(now),
            self.admin.deadline(self.config.fleet.worker_timeout),
        ];
        others.into_iter().flatten().chain([now + round]).min()
    }
}
