//! Coming to life: from nothing, or from what the image before has left.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Interest, Poll, Token};
use nix::unistd::Pid;
use tracing::{error, info};

use super::admin::Admin;
use super::dump::Dump;
use super::exchange::Inboxes;
use super::figures::{self, Figures};
use super::handover::{HandedState, Handover};
use super::listeners::Listeners;
use super::reload::Reload;
use super::service_manager::ServiceManager;
use super::state_file::StateFile;
use super::supervisor::{Inherited, MOST_SLOTS, Plan, Supervisor};
use super::worker_handle::WorkerHandle;
use super::{Boot, Controller, ControllerError};
use crate::config::{AdminAddress, Config, Endpoint, ListenConfig};
use crate::event_loop::timers::Clock;
use crate::process::activation;
use crate::process::exec::{forget_variables, take_over};
use crate::process::fork::own_pid;
use crate::process::front::FrontError;
use crate::process::pid_file::PidFile;
use crate::process::signals::SignalStream;
use crate::process::sockets::{Claim, ListenError};
use crate::stats::Statistics;
use crate::stats::events::{self, Event, Kind};

/// What both ways of coming to life end in.
pub(super) struct Estate {
    pid_file: Option<PidFile>,
    state_file: Option<StateFile>,
    claims: Vec<Claim>,
    listeners: Listeners,
    inboxes: Inboxes,
    statistics: Statistics,
    handles: BTreeMap<Pid, WorkerHandle>,
    supervisor: Supervisor,
    reload: Reload,
    manager: ServiceManager,
    /// The addresses of passed sockets; if any, they are all that is listened on.
    passed: Vec<Endpoint>,
    admin: Admin,
}

impl Estate {
    /// A daemon that is started.
    pub(super) fn found(config: &Config) -> Result<Self, ControllerError> {
        let pid_file = config.process.pid_file.as_deref().map(PidFile::create).transpose()?;
        let mut listeners = Listeners::default();
        let passed = passed_sockets(config, &mut listeners)?;
        let claims = match passed.is_empty() {
            true => claim_all(&config.listen, &mut Vec::new())?,
            false => Vec::new(),
        };
        keep_apart(config, &passed)?;
        Ok(Self {
            pid_file,
            state_file: config.process.state_file.as_deref().map(StateFile::new),
            claims,
            listeners,
            inboxes: Inboxes::default(),
            manager: ServiceManager::find(),
            passed,
            statistics: figures::found()?,
            handles: BTreeMap::new(),
            supervisor: Supervisor::new(plan(config), seed(), Instant::now()),
            reload: Reload::default(),
            admin: Admin::found(&config.admin, seed(), Instant::now())?,
        })
    }

    /// A daemon that goes on. Should the new configuration not do after all, `config` becomes the
    /// former one, and nobody is replaced.
    pub(super) fn inherit(
        config: &mut Config,
        former: Option<Config>,
        mut note: Handover,
    ) -> Result<Self, ControllerError> {
        let mut claims = note
            .claims
            .drain(..)
            .map(|(wanted, endpoint, socket)| {
                Ok(Claim { wanted, endpoint, socket: take_over(socket)? })
            })
            .collect::<io::Result<Vec<_>>>()?;
        let mut reload = Reload::resume(note.reloads);
        let passed = std::mem::take(&mut note.passed);
        let mut admin = Admin::inherit(note.admin.take(), seed(), Instant::now())?;
        // The last that can fail uses up what is there.
        let apart = keep_apart(config, &passed);
        let claimed = apart
            .and_then(|()| admin.open(&config.admin))
            .map_err(ControllerError::from)
            .and_then(|change| {
                match passed.is_empty().then(|| claim_all(&config.listen, &mut claims)).transpose()
                {
                    Ok(claims) => Ok((change, claims.unwrap_or_default())),
                    Err(error) => {
                        change.undo();
                        Err(error.into())
                    }
                }
            });
        let renew = claimed.is_ok();
        let mut plan_now = plan(config);
        let claims = match (claimed, former) {
            (Ok((change, claims)), _) => {
                admin.renew(change);
                claims
            }
            (Err(reason), None) => return Err(reason),
            (Err(reason), Some(former)) => {
                reload.failed += 1;
                let failed = reload.failed;
                error!(failed, "reload refused, everything stays as it was: {reason}");
                *config = former;
                plan_now = Plan { slots: note.wanted, ..plan(config) };
                match passed.is_empty() {
                    true => claim_all(&config.listen, &mut claims)?,
                    false => Vec::new(),
                }
            }
        };
        let pid_file = inherit_pid_file(config, note.pid_file.take())?;
        let state_file = inherit_state_file(config, note.state_file.take())?;
        let mut listeners = Listeners::default();
        for &(slot, socket) in &note.sockets {
            listeners.keep(slot, take_over(socket)?)?;
        }
        listeners.set_members(std::mem::take(&mut note.members), std::mem::take(&mut note.foreign));
        listeners.retune(&config.listen)?;
        let mut inboxes = Inboxes::default();
        for &(slot, outbox, inbox) in &note.inboxes {
            inboxes.keep(slot, take_over(outbox)?, take_over(inbox)?);
        }
        let manager = ServiceManager::resume(std::mem::take(&mut note.stored));
        let seats = note.workers.iter().map(|worker| worker.seat).chain(admin.seats());
        let seats: Vec<usize> = seats.collect();
        let statistics = Statistics::resume(take_over(note.statistics)?, &seats)?;
        if !renew {
            let (kind, value) = (Kind::ReloadFailed, reload.failed);
            let event = Event { at_ms: figures::unix_millis(), kind, slot: 0, value };
            events::record(statistics.layout(), event);
        }
        let (mut handles, mut inherited) = (BTreeMap::new(), Vec::new());
        for worker in &note.workers {
            let (pid, slot) = (Pid::from_raw(worker.pid), worker.slot);
            let channel = take_over(worker.channel)?.into();
            let since = Instant::now();
            let (seat, exchanges) = (worker.seat, worker.exchanges);
            let handle = WorkerHandle { slot, channel, seat, exchanges, since, ready: true };
            handles.insert(pid, handle);
            let leaving = worker.leaving_ms.map(Duration::from_millis);
            inherited.push(Inherited { pid, slot, leaving });
        }
        info!(from = note.from, version = env!("CARGO_PKG_VERSION"), "taking over");
        let slots_with_worker = inherited.iter().filter(|worker| worker.leaving.is_none());
        let slots_with_socket = note.sockets.iter().map(|(slot, _)| *slot);
        let highest = slots_with_worker.map(|worker| worker.slot).chain(slots_with_socket).max();
        let highest = highest.unwrap_or(0).min(MOST_SLOTS);
        let now = Instant::now();
        let supervisor = Supervisor::resume(plan_now, seed(), now, &inherited, highest, renew);
        Ok(Self {
            pid_file,
            state_file,
            claims,
            listeners,
            inboxes,
            statistics,
            handles,
            supervisor,
            reload,
            manager,
            passed,
            admin,
        })
    }

    /// The controller, registered with its event loop.
    pub(super) fn settle<'a>(
        self,
        poll: &Poll,
        config: &'a Config,
        signals: SignalStream,
        boot: Boot,
    ) -> io::Result<Controller<'a>> {
        for (pid, handle) in &self.handles {
            let channel = handle.channel.as_raw_fd();
            let token = Token(pid.as_raw() as usize);
            poll.registry().register(&mut SourceFd(&channel), token, Interest::READABLE)?;
        }
        for (pid, channel) in self.admin.channels() {
            let token = Token(pid.as_raw() as usize);
            poll.registry().register(&mut SourceFd(&channel), token, Interest::READABLE)?;
        }
        Ok(Controller {
            config,
            worker_main: boot.worker_main,
            admin_main: boot.admin_main,
            invocation: boot.invocation,
            title: boot.title,
            launch: boot.launch,
            signals: Some(signals),
            registry: poll.registry().try_clone()?,
            endpoints: match self.passed.is_empty() {
                true => self.claims.iter().map(|claim| claim.endpoint).collect(),
                false => self.passed.clone(),
            },
            passed: self.passed,
            manager: self.manager,
            closing: false,
            serving: !self.supervisor.is_starting(),
            claims: self.claims,
            pid_file: self.pid_file,
            listeners: self.listeners,
            inboxes: self.inboxes,
            statistics: self.statistics,
            clock: Clock::start(Instant::now()),
            supervisor: self.supervisor,
            handles: self.handles,
            heirs: Vec::new(),
            steering: Default::default(),
            reload: self.reload,
            actions: Vec::new(),
            readable: Vec::new(),
            // What has arrived before there was anybody to tell.
            signals_ready: true,
            failure: None,
            figures: Figures::default(),
            dump: Dump::default(),
            state_file: self.state_file,
            admin: self.admin,
            exit: None,
        })
    }
}

/// Claims every address, or takes the claim from those that are there already. Addresses without a
/// port of their own (port 0) share the first one's.
fn claim_all(options: &ListenConfig, existing: &mut Vec<Claim>) -> Result<Vec<Claim>, ListenError> {
    let mut free_port = 0;
    let mut claims: Vec<Claim> = Vec::new();
    let mut fresh = Vec::new();
    for &wanted in &options.endpoints {
        let known = existing.iter().find(|claim| claim.wanted == wanted);
        let endpoint = match known {
            Some(claim) => claim.endpoint,
            None => {
                let claim = Claim::new(wanted, free_port, options)?;
                fresh.push(claim);
                fresh[fresh.len() - 1].endpoint
            }
        };
        if wanted.address.port() == 0 {
            free_port = endpoint.address.port();
        }
    }
    // Only now, when nothing can fail any more, the existing ones are used up.
    existing.retain(|claim| options.endpoints.contains(&claim.wanted));
    for wanted in &options.endpoints {
        let of_wanted = |claim: &Claim| claim.wanted == *wanted;
        let from = if fresh.iter().any(of_wanted) { &mut fresh } else { &mut *existing };
        if let Some(index) = from.iter().position(of_wanted) {
            claims.push(from.remove(index));
        }
    }
    Ok(claims)
}

/// Takes the sockets that the service manager passes, if it does.
fn passed_sockets(
    config: &Config,
    listeners: &mut Listeners,
) -> Result<Vec<Endpoint>, ControllerError> {
    let passed = activation::take(own_pid(), |name| std::env::var_os(name))
        .map_err(|error| ControllerError::Passed(error.to_string()))?;
    forget_variables(&["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"]);
    if passed.is_empty() {
        return Ok(Vec::new());
    }
    info!(sockets = passed.len(), "listening on sockets that were passed");
    Ok(super::activation::adopt(passed, config.fleet.workers.get(), &config.listen, listeners)?)
}

/// The echo and the admin process cannot have the same address, and each would blame a stranger.
fn keep_apart(config: &Config, passed: &[Endpoint]) -> Result<(), FrontError> {
    let Some(AdminAddress::Tcp(address)) = config.admin.address else { return Ok(()) };
    let echo = if passed.is_empty() { &config.listen.endpoints[..] } else { passed };
    match echo.iter().find(|endpoint| endpoint.clashes_with(address)) {
        Some(endpoint) => Err(FrontError {
            address: AdminAddress::Tcp(address),
            source: io::Error::other(format!("the echo listens on {endpoint}")),
        }),
        None => Ok(()),
    }
}

fn inherit_pid_file(
    config: &Config,
    former: Option<(std::path::PathBuf, i32)>,
) -> Result<Option<PidFile>, ControllerError> {
    let former = match former {
        Some((path, file)) => Some(PidFile::resume(path, take_over(file)?)),
        None => None,
    };
    let wanted = config.process.pid_file.as_deref();
    if former.as_ref().map(PidFile::path) == wanted {
        return Ok(former);
    }
    // The former one is removed here.
    drop(former);
    // A pid file is no reason to end a daemon that serves.
    Ok(wanted.and_then(|path| {
        PidFile::create(path)
            .inspect_err(|reason| error!("going on without pid file: {reason}"))
            .ok()
    }))
}

fn inherit_state_file(
    config: &Config,
    former: Option<HandedState>,
) -> io::Result<Option<StateFile>> {
    let former = former.map(StateFile::resume).transpose()?;
    let wanted = config.process.state_file.as_deref();
    // Another one's lock is given up here.
    let same = former.filter(|former| Some(former.given()) == wanted);
    Ok(same.or_else(|| wanted.map(StateFile::new)))
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

/// A number that differs from start to start.
fn seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let nanos = now.map_or(0, |elapsed| elapsed.subsec_nanos());
    u64::from(std::process::id()) << 32 | u64::from(nanos)
}
