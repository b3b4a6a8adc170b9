//! Startup: creates all resources, or restores them from the state handover of the previous image.

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use mio::Poll;
use tracing::info;

use super::children::Children;
use super::fleet::Fleet;
use super::publish::events::DAEMON;
use super::publish::service_manager::ServiceManager;
use super::publish::state_file::StateFile;
use super::publish::{self, Publisher};
use super::queues::Queues;
use super::reload::Reload;
use super::reload::restore;
use super::reload::state_handover::Handover;
use super::sockets::admin_listener::AdminListener;
use super::sockets::reservations;
use super::sockets::steering_programs::SteeringPrograms;
use super::sockets::{Sockets, socket_activation};
use super::supervisor::{Plan, Supervisor};
use super::{Controller, ControllerError, Inputs, Program};
use crate::config::{Balance, Config, Endpoint};
use crate::daemon::ids::{BlockId, SlotId};
use crate::daemon::stats::Statistics;
use crate::daemon::stats::events::{self, Event, Kind as EventKind};
use crate::event_loop::timers::Clock;
use crate::sys::activation;
use crate::sys::clock::unix_ms;
use crate::sys::exec::{adopt_descriptor, remove_variables};
use crate::sys::fork::own_pid;
use crate::sys::pid_file::PidFile;
use crate::sys::signals::SignalStream;

/// Components of the controller before its loop runs.
pub(super) struct Resources {
    pid_file: Option<PidFile>,
    state_file: Option<StateFile>,
    sockets: Sockets,
    statistics: Statistics,
    children: Children,
    fleet: Fleet,
    reload: Reload,
    manager: ServiceManager,
    admin: AdminListener,
}

impl Resources {
    /// Creates the resources of a daemon that starts. Everything that can fail is done here, before
    /// the first fork.
    ///
    /// # Errors
    /// [`ControllerError`].
    pub(super) fn create(config: &Config) -> Result<Self, ControllerError> {
        let pid_file = config.process.pid_file.as_deref().map(PidFile::create).transpose()?;
        let manager = ServiceManager::from_environment();
        let mut queues = Queues::new(manager.is_present());
        let mut sockets = Sockets::default();
        sockets.passed = passed_sockets(config, &mut sockets, &mut queues)?;
        if sockets.passed.is_empty() {
            sockets.reservations = reservations::reserve_all(&config.listen, &mut Vec::new(), &[])?;
        }
        reservations::check_admin_address(config, &sockets.passed)?;
        let admin = AdminListener::create(&config.admin)?;
        queues.want(addresses(&sockets), hands_off(config));
        let plan = plan(config, config.fleet.workers.get(), &admin);
        Ok(Self {
            pid_file,
            state_file: config.process.state_file.as_deref().map(StateFile::new),
            sockets,
            statistics: publish::new_statistics()?,
            children: Children::default(),
            fleet: Fleet { supervisor: Supervisor::new(plan, seed(), Instant::now()), queues },
            reload: Reload::default(),
            manager,
            admin,
        })
    }

    /// Restores the resources after a reload. If the new configuration fails, `config` becomes the
    /// previous one, and no worker is replaced.
    ///
    /// # Errors
    /// [`ControllerError`] if the state cannot be restored.
    pub(super) fn restore(
        config: &mut Config,
        previous: Option<Config>,
        mut handover: Handover,
    ) -> Result<Self, ControllerError> {
        let mut reload = Reload::restore(handover.reloads);
        let (admin_socket, admins) = match handover.admin.take() {
            Some(admin) => (admin.socket, admin.processes),
            None => (None, Vec::new()),
        };
        let mut admin = AdminListener::restore(admin_socket)?;
        let manager = ServiceManager::from_environment();
        let (mut queues, mut sockets) = restore::queues(&mut handover, manager.is_present())?;
        let wanted = restore::addresses(config, previous, &mut handover, &mut admin, &mut sockets)?;
        let replace_workers = wanted.is_ok();
        let slots = match wanted {
            Ok(slots) => slots,
            Err(slots) => {
                reload.failed += 1;
                slots
            }
        };
        let pid_file = restore::pid_file(config, handover.pid_file.take())?;
        let state_file = restore::state_file(config, handover.state_file.take())?;
        sockets.retune(&config.listen, &queues);
        let groups = queues.steering().map(|(address, ..)| address);
        sockets.steering = SteeringPrograms::of(groups);
        let blocks = handover.workers.iter().map(|worker| worker.block);
        let blocks: Vec<BlockId> = blocks.chain(admins.iter().map(|(.., block)| *block)).collect();
        let statistics = Statistics::resume(adopt_descriptor(handover.statistics)?, &blocks)?;
        if !replace_workers {
            let (kind, value) = (EventKind::ReloadFailed, reload.failed);
            let event = Event { at_ms: unix_ms(), kind, slot: DAEMON, value };
            events::record(statistics.layout(), event);
        }
        let (children, processes) = restore::children(&handover, admins)?;
        for (pid, slot, _) in children.workers().filter(|(.., link)| link.legacy) {
            queues.attended_by_legacy(pid, slot, Instant::now());
        }
        queues.want(addresses(&sockets), hands_off(config));
        info!(from = handover.from, version = env!("CARGO_PKG_VERSION"), "state restored");
        let highest = processes.iter().filter(|child| child.leaving.is_none());
        let highest = highest.map(|child| child.slot).max().unwrap_or_default().min(SlotId::MAX);
        let plan = plan(config, slots, &admin);
        let now = Instant::now();
        let supervisor =
            Supervisor::restore(plan, seed(), now, &processes, highest, replace_workers);
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

    /// Returns the controller, registered with its event loop.
    ///
    /// # Errors
    /// Those of epoll_ctl(2).
    pub(super) fn into_controller<'a>(
        self,
        poll: &Poll,
        config: &'a Config,
        signals: SignalStream,
        program: Program,
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
                // A signal may have arrived before the registration.
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

fn hands_off(config: &Config) -> bool {
    config.fleet.balance == Balance::LeastConnections
}

/// Adopts the sockets that the service manager has passed; returns their addresses.
fn passed_sockets(
    config: &Config,
    sockets: &mut Sockets,
    queues: &mut Queues,
) -> Result<Vec<Endpoint>, ControllerError> {
    let passed = activation::take(own_pid(), |name| std::env::var_os(name))
        .map_err(|error| ControllerError::Passed(error.to_string()))?;
    remove_variables(&["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"]);
    if passed.is_empty() {
        return Ok(Vec::new());
    }
    info!(sockets = passed.len(), "listening on passed sockets");
    Ok(socket_activation::adopt(passed, &config.listen, sockets, queues)?)
}

fn plan(config: &Config, slots: u32, admin: &AdminListener) -> Plan {
    Plan {
        slots,
        worker_timeout: config.fleet.worker_timeout,
        graceful_timeout: config.fleet.graceful_timeout,
        shutdown_delay: config.fleet.shutdown_delay,
        drain_timeout: config.fleet.drain_timeout,
        admin: admin.is_wanted(),
    }
}

/// Returns a seed that differs from start to start.
fn seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let nanos = now.map_or(0, |elapsed| elapsed.subsec_nanos());
    u64::from(std::process::id()) << 32 | u64::from(nanos)
}
