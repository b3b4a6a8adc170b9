//! Restoration of the controller's components from the state handover of the previous image.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use tracing::error;

use crate::config::Config;
use crate::daemon::controller::ControllerError;
use crate::daemon::controller::children::{Children, ProcessLink, Role};
use crate::daemon::controller::publish::state_file::StateFile;
use crate::daemon::controller::queues::{HandoverQueue, Queues, Version1};
use crate::daemon::controller::reload::state_handover::{
    Handover, HandoverState, HandoverVersion1,
};
use crate::daemon::controller::sockets::admin_listener::AdminListener;
use crate::daemon::controller::sockets::reservations::{check_admin_address, reserve_all};
use crate::daemon::controller::sockets::{HandoffEnds, Sockets};
use crate::daemon::controller::supervisor::{ADMIN_DRAIN_TIMEOUT, HandoverProcess};
use crate::daemon::ids::{BlockId, SlotId};
use crate::daemon::listeners::Reservation;
use crate::sys::exec::adopt_descriptor;
use crate::sys::pid_file::PidFile;
use crate::sys::sockets::address_of;

/// Restores the queues and their descriptors.
///
/// # Errors
/// A descriptor is missing.
pub(crate) fn queues(handover: &mut Handover, stores: bool) -> io::Result<(Queues, Sockets)> {
    let mut sockets = Sockets::default();
    for (id, socket) in handover.listening.drain(..) {
        sockets.listening.insert(id, adopt_descriptor(socket)?);
    }
    for (id, slot, sender, receiver) in handover.handoff.drain(..) {
        let (sender, receiver) =
            (adopt_descriptor(sender)?.into(), adopt_descriptor(receiver)?.into());
        sockets.handoff.insert(id, HandoffEnds { slot, sender, receiver });
    }
    let mut queues = std::mem::take(&mut handover.queues);
    let previous = std::mem::take(&mut handover.version1);
    if !previous.sockets.is_empty() {
        restore_version1(previous, handover, &mut queues.queues, &mut sockets)?;
    }
    Ok((Queues::restore(queues, stores, Instant::now()), sockets))
}

/// Restores the queues from handover version 1.
fn restore_version1(
    previous: HandoverVersion1,
    handover: &Handover,
    queues: &mut Vec<HandoverQueue>,
    sockets: &mut Sockets,
) -> io::Result<()> {
    let mut listening = Vec::new();
    for (slot, socket) in previous.sockets {
        let socket: OwnedFd = adopt_descriptor(socket)?;
        listening.push((slot, address_of(&socket)?, Some(socket)));
    }
    let mut handoff = Vec::new();
    for (slot, sender, receiver) in previous.handoff {
        handoff.push(Some((slot, adopt_descriptor(sender)?, adopt_descriptor(receiver)?)));
    }
    let serving = handover.workers.iter().filter(|worker| worker.leaving_ms.is_none());
    let version1 = Version1 {
        sockets: listening.iter().map(|(slot, address, _)| (*slot, *address)).collect(),
        members: previous.members.iter().map(|member| (member.address, member.slot)).collect(),
        external: previous.external,
        handoff: handoff.iter().flatten().map(|(slot, ..)| *slot).collect(),
        stored: previous.stored,
        workers: serving.map(|worker| (worker.pid, worker.slot)).collect(),
    };
    for (queue, place) in version1.queues() {
        if let Some(socket) = listening.get_mut(place).and_then(|(.., socket)| socket.take()) {
            sockets.listening.insert(queue.id, socket);
        } else if let Some((slot, sender, receiver)) =
            place.checked_sub(listening.len()).and_then(|place| handoff.get_mut(place)?.take())
        {
            let ends = HandoffEnds { slot, sender: sender.into(), receiver: receiver.into() };
            sockets.handoff.insert(queue.id, ends);
        }
        queues.push(queue);
    }
    Ok(())
}

/// Reserves the addresses of the new configuration, and returns the wanted number of workers. If an
/// address cannot be reserved, `config` becomes the previous configuration, and its number of
/// workers is returned as the inner error.
///
/// # Errors
/// [`ControllerError`] if the previous configuration fails too.
pub(crate) fn addresses(
    config: &mut Config,
    previous: Option<Config>,
    handover: &mut Handover,
    admin: &mut AdminListener,
    sockets: &mut Sockets,
) -> Result<Result<u32, u32>, ControllerError> {
    let mut reservations = handover
        .reservations
        .drain(..)
        .map(|(wanted, endpoint, socket)| {
            Ok(Reservation { wanted, endpoint, socket: adopt_descriptor(socket)? })
        })
        .collect::<io::Result<Vec<_>>>()?;
    sockets.passed = std::mem::take(&mut handover.passed);
    let reserves = sockets.passed.is_empty();
    let ours: Vec<SocketAddr> =
        sockets.listening.values().filter_map(|socket| address_of(socket).ok()).collect();
    let mut reservation = |config: &Config| match reserves {
        true => reserve_all(&config.listen, &mut reservations, &ours),
        false => Ok(Vec::new()),
    };
    // The existing reservations are used only when nothing else can fail.
    let apart = check_admin_address(config, &sockets.passed);
    let opened = apart.and_then(|()| admin.open(&config.admin)).map_err(ControllerError::from);
    let reserved = opened.and_then(|change| match reservation(config) {
        Ok(reservations) => Ok((change, reservations)),
        Err(error) => {
            change.undo();
            Err(error.into())
        }
    });
    match (reserved, previous) {
        (Ok((change, reservations)), _) => {
            admin.apply(change);
            sockets.reservations = reservations;
            Ok(Ok(config.fleet.workers.get()))
        }
        (Err(reason), None) => Err(reason),
        (Err(reason), Some(previous)) => {
            let failed = handover.reloads.1 + 1;
            error!(failed, "reload rejected, keeping current configuration: {reason}");
            *config = previous;
            sockets.reservations = reservation(config)?;
            Ok(Err(handover.wanted))
        }
    }
}

/// Restores the child processes, and returns them together with their state for the supervisor.
///
/// # Errors
/// A descriptor is missing.
pub(crate) fn children(
    handover: &Handover,
    admins: Vec<(i32, i32, BlockId)>,
) -> io::Result<(Children, Vec<HandoverProcess>)> {
    let (mut children, mut processes) = (Children::default(), Vec::new());
    for worker in &handover.workers {
        let (pid, slot) = (Pid::from_raw(worker.pid), worker.slot);
        let channel = adopt_descriptor(worker.channel)?.into();
        let (block_id, handoff, legacy) = (worker.block, worker.handoff, !worker.acknowledges);
        let link = ProcessLink { channel, block_id, handoff, legacy };
        children.insert(pid, Role::Worker(slot), Some(link));
        let leaving = worker.leaving_ms.map(Duration::from_millis);
        processes.push(HandoverProcess { pid, slot, leaving, kept: worker.kept });
    }
    for (index, &(pid, channel, block_id)) in admins.iter().enumerate() {
        let pid = Pid::from_raw(pid);
        let channel = adopt_descriptor(channel)?.into();
        let link = ProcessLink { channel, block_id, handoff: false, legacy: false };
        children.insert(pid, Role::Admin, Some(link));
        // The last one is the current one.
        let leaving = (index + 1 < admins.len()).then_some(ADMIN_DRAIN_TIMEOUT);
        processes.push(HandoverProcess { pid, slot: SlotId::ADMIN, leaving, kept: false });
    }
    Ok((children, processes))
}

/// Restores the pid file, or creates the one of a new configuration.
///
/// # Errors
/// A descriptor is missing.
pub(crate) fn pid_file(
    config: &Config,
    previous: Option<(std::path::PathBuf, i32)>,
) -> Result<Option<PidFile>, ControllerError> {
    let previous = match previous {
        Some((path, file)) => Some(PidFile::resume(path, adopt_descriptor(file)?)),
        None => None,
    };
    let wanted = config.process.pid_file.as_deref();
    if previous.as_ref().map(PidFile::path) == wanted {
        return Ok(previous);
    }
    // Removes the previous pid file.
    drop(previous);
    // A daemon that serves goes on without a pid file.
    Ok(wanted.and_then(|path| {
        PidFile::create(path)
            .inspect_err(|reason| error!("{reason}, continuing without pid file"))
            .ok()
    }))
}

/// Restores the state file, or opens the one of a new configuration.
///
/// # Errors
/// A descriptor is missing.
pub(crate) fn state_file(
    config: &Config,
    previous: Option<HandoverState>,
) -> io::Result<Option<StateFile>> {
    let previous = previous.map(StateFile::restore).transpose()?;
    let wanted = config.process.state_file.as_deref();
    // The lock of another file is released here.
    let same = previous.filter(|previous| Some(previous.configured_path()) == wanted);
    Ok(same.or_else(|| wanted.map(StateFile::new)))
}
