//! Starting: from nothing, or from what the image before has left.

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use mio::Poll;
use tracing::info;

use super::admin::AdminSocket;
use super::children::Children;
use super::claims;
use super::figures;
use super::fleet::Fleet;
use super::handover::Handover;
use super::publisher::Publisher;
use super::queues::Queues;
use super::reload::Reload;
use super::restore;
use super::service_manager::ServiceManager;
use super::sockets::Sockets;
use super::state_file::StateFile;
use super::steering::Steering;
use super::supervisor::{MOST_SLOTS, Plan, Supervisor};
use super::{Boot, Controller, ControllerError, Inputs};
use crate::config::{Balance, Config, Endpoint};
use crate::event_loop::timers::Clock;
use crate::process::activation;
use crate::process::exec::{forget_variables, take_over};
use crate::process::fork::own_pid;
use crate::process::pid_file::PidFile;
use crate::process::signals::SignalStream;
use crate::stats::Statistics;
use crate::stats::events::{self, Event, Kind as EventKind};

/// The parts that the controller is made of at its start.
pub(super) struct Resources {
    pid_file: Option<PidFile>,
    state_file: Option<StateFile>,
    sockets: Sockets,
    statistics: Statistics,
    children: Children,
    fleet: Fleet,
    reload: Reload,
    manager: ServiceManager,
    admin: AdminSocket,
}

impl Resources {
    /// Of a daemon that is started.
    pub(super) fn create(config: &Config) -> Result<Self, ControllerError> {
        let pid_file = config.process.pid_file.as_deref().map(PidFile::create).transpose()?;
        let manager = ServiceManager::find();
        let mut queues = Queues::new(manager.is_there());
        let mut sockets = Sockets::default();
        sockets.passed = passed_sockets(config, &mut sockets, &mut queues)?;
        if sockets.passed.is_empty() {
            sockets.claims = claims::claim_all(&config.listen, &mut Vec::new(), &[])?;
        }
        claims::keep_apart(config, &sockets.passed)?;
        let admin = AdminSocket::create(&config.admin)?;
        queues.want(addresses(&sockets), balances(config));
        let plan = plan(config, config.fleet.workers.get(), &admin);
        Ok(Self {
            pid_file,
            state_file: config.process.state_file.as_deref().map(StateFile::new),
            sockets,
            statistics: figures::found()?,
            children: Children::default(),
            fleet: Fleet { supervisor: Supervisor::new(plan, seed(), Instant::now()), queues },
            reload: Reload::default(),
            manager,
            admin,
        })
    }

    /// Of a daemon that goes on. If the new configuration fails after all, `config` becomes the former
    /// one, and no worker is replaced.
    pub(super) fn restore(
        config: &mut Config,
        former: Option<Config>,
        mut note: Handover,
    ) -> Result<Self, ControllerError> {
        let mut reload = Reload::resume(note.reloads);
        let (front, admins) = match note.admin.take() {
            Some(admin) => (admin.front, admin.processes),
            None => (None, Vec::new()),
        };
        let mut admin = AdminSocket::restore(front)?;
        let manager = ServiceManager::find();
        let (mut queues, mut sockets) = restore::queues(&mut note, manager.is_there())?;
        let wanted = restore::addresses(config, former, &mut note, &mut admin, &mut sockets)?;
        let renew = wanted.is_ok();
        let slots = match wanted {
            Ok(slots) => slots,
            Err(slots) => {
                reload.failed += 1;
                slots
            }
        };
        let pid_file = restore::pid_file(config, note.pid_file.take())?;
        let state_file = restore::state_file(config, note.state_file.take())?;
        sockets.retune(&config.listen, &queues);
        let groups = queues.steering().into_iter().map(|(address, ..)| address);
        sockets.steering = Steering::of(groups);
        let blocks = note.workers.iter().map(|worker| worker.seat);
        let blocks: Vec<usize> = blocks.chain(admins.iter().map(|(.., block)| *block)).collect();
        let statistics = Statistics::resume(take_over(note.statistics)?, &blocks)?;
        if !renew {
            let (kind, value) = (EventKind::ReloadFailed, reload.failed);
            let event = Event { at_ms: figures::unix_millis(), kind, slot: 0, value };
            events::record(statistics.layout(), event);
        }
        let (children, inherited) = restore::children(&note, admins)?;
        for (pid, slot, _) in children.workers().filter(|(.., wire)| wire.legacy) {
            queues.attended_by_legacy(pid, slot, Instant::now());
        }
        queues.want(addresses(&sockets), balances(config));
        info!(from = note.from, version = env!("CARGO_PKG_VERSION"), "taking over");
        let highest = inherited.iter().filter(|child| child.leaving.is_none());
        let highest = highest.map(|child| child.slot).max().unwrap_or(0).min(MOST_SLOTS);
        let plan = plan(config, slots, &admin);
        let now = Instant::now();
        let supervisor = Supervisor::resume(plan, seed(), now, &inherited, highest, renew);
        let fleet = Fleet { supervisor, queues };
        Ok(Self {
            pid_file,
            state_file,
            sockets,
            statistics,
            children,
            fleet,
            reload,
            manager,
            admin,
        })
    }

    /// The controller, registered with its event loop.
    pub(super) fn run<'a>(
        self,
        poll: &Poll,
        config: &'a Config,
        signals: SignalStream,
        program: Boot,
    ) -> io::Result<Controller<'a>> {
        let registry = poll.registry().try_clone()?;
        for (pid, ..) in self.children.iter() {
            self.children.watch(pid, &registry)?;
        }
        let clock = Clock::start(Instant::now());
        Ok(Controller {
            config,
            program,
            inputs: Inputs {
                signals: Some(signals),
                registry,
                readable: Vec::new(),
                // What has arrived before there was anybody to tell.
                signals_ready: true,
            },
            fleet: self.fleet,
            actions: Vec::new(),
            children: self.children,
            sockets: self.sockets,
            admin: self.admin,
            manager: self.manager,
            reload: self.reload,
            publisher: Publisher::new(self.statistics, clock, self.state_file),
            pid_file: self.pid_file,
        })
    }
}

fn addresses(sockets: &Sockets) -> Vec<SocketAddr> {
    sockets.endpoints().iter().map(|endpoint| endpoint.address).collect()
}

fn balances(config: &Config) -> bool {
    config.fleet.balance == Balance::LeastConnections
}

/// Takes the sockets that the service manager passes, if it does.
fn passed_sockets(
    config: &Config,
    sockets: &mut Sockets,
    queues: &mut Queues,
) -> Result<Vec<Endpoint>, ControllerError> {
    let passed = activation::take(own_pid(), |name| std::env::var_os(name))
        .map_err(|error| ControllerError::Passed(error.to_string()))?;
    forget_variables(&["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"]);
    if passed.is_empty() {
        return Ok(Vec::new());
    }
    info!(sockets = passed.len(), "listening on sockets that were passed");
    Ok(super::activation::adopt(passed, &config.listen, sockets, queues)?)
}

fn plan(config: &Config, slots: u32, admin: &AdminSocket) -> Plan {
    Plan {
        slots,
        worker_timeout: config.fleet.worker_timeout,
        graceful_timeout: config.fleet.graceful_timeout,
        shutdown_delay: config.fleet.shutdown_delay,
        drain_timeout: config.fleet.drain_timeout,
        admin: admin.is_wanted(),
    }
}

/// A number that differs from start to start.
fn seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let nanos = now.map_or(0, |elapsed| elapsed.subsec_nanos());
    u64::from(std::process::id()) << 32 | u64::from(nanos)
}
