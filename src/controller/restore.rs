//! Restoring the state that the image before has left.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use tracing::error;

use super::ControllerError;
use super::admin::AdminSocket;
use super::children::{Children, Role, Wire};
use super::claims::{claim_all, keep_apart};
use super::handover::{HandedState, HandedVersion1, Handover};
use super::queues::{HandedQueue, Queues, Version1};
use super::sockets::{HandoffEnds, Sockets};
use super::state_file::StateFile;
use super::supervisor::{ADMIN, Inherited};
use crate::config::Config;
use crate::process::exec::take_over;
use crate::process::pid_file::PidFile;
use crate::process::sockets::{Claim, address_of};

/// The queues and their descriptors.
pub(super) fn queues(note: &mut Handover, stores: bool) -> io::Result<(Queues, Sockets)> {
    let mut sockets = Sockets::default();
    for (id, socket) in note.listening.drain(..) {
        sockets.listening.insert(id, take_over(socket)?);
    }
    for (id, slot, sender, receiver) in note.handoff.drain(..) {
        let (sender, receiver) = (take_over(sender)?.into(), take_over(receiver)?.into());
        sockets.handoff.insert(id, HandoffEnds { slot, sender, receiver });
    }
    let mut queues = std::mem::take(&mut note.queues);
    let former = std::mem::take(&mut note.version1);
    if !former.sockets.is_empty() {
        version1(former, note, &mut queues.queues, &mut sockets)?;
    }
    Ok((Queues::restore(queues, stores, Instant::now()), sockets))
}

/// Restores the queues that a build of handover version 1 has left.
fn version1(
    note: HandedVersion1,
    handover: &Handover,
    queues: &mut Vec<HandedQueue>,
    sockets: &mut Sockets,
) -> io::Result<()> {
    let mut listening = Vec::new();
    for (slot, socket) in note.sockets {
        let socket: OwnedFd = take_over(socket)?;
        listening.push((slot, address_of(&socket)?, Some(socket)));
    }
    let mut handoff = Vec::new();
    for (slot, sender, receiver) in note.inboxes {
        handoff.push(Some((slot, take_over(sender)?, take_over(receiver)?)));
    }
    let serving = handover.workers.iter().filter(|worker| worker.leaving_ms.is_none());
    let former = Version1 {
        sockets: listening.iter().map(|(slot, address, _)| (*slot, *address)).collect(),
        members: note.members.iter().map(|member| (member.address, member.slot)).collect(),
        external: note.foreign,
        handoff: handoff.iter().flatten().map(|(slot, ..)| *slot).collect(),
        stored: note.stored,
        workers: serving.map(|worker| (worker.pid, worker.slot)).collect(),
    };
    for (queue, place) in former.queues() {
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

/// Opens what the new configuration listens on and the former one does not. Returns the number of
/// workers that is wanted from now on; if something cannot be had, `config` becomes the former
/// configuration, and the number is its own, as an error.
pub(super) fn addresses(
    config: &mut Config,
    former: Option<Config>,
    note: &mut Handover,
    admin: &mut AdminSocket,
    sockets: &mut Sockets,
) -> Result<Result<u32, u32>, ControllerError> {
    let mut claims = note
        .claims
        .drain(..)
        .map(|(wanted, endpoint, socket)| {
            Ok(Claim { wanted, endpoint, socket: take_over(socket)? })
        })
        .collect::<io::Result<Vec<_>>>()?;
    sockets.passed = std::mem::take(&mut note.passed);
    let claims_wanted = sockets.passed.is_empty();
    let ours: Vec<SocketAddr> =
        sockets.listening.values().filter_map(|socket| address_of(socket).ok()).collect();
    let mut claim = |config: &Config| match claims_wanted {
        true => claim_all(&config.listen, &mut claims, &ours),
        false => Ok(Vec::new()),
    };
    // The last that can fail uses up what is there.
    let apart = keep_apart(config, &sockets.passed);
    let opened = apart.and_then(|()| admin.open(&config.admin)).map_err(ControllerError::from);
    let claimed = opened.and_then(|change| match claim(config) {
        Ok(claims) => Ok((change, claims)),
        Err(error) => {
            change.undo();
            Err(error.into())
        }
    });
    match (claimed, former) {
        (Ok((change, claims)), _) => {
            admin.renew(change);
            sockets.claims = claims;
            Ok(Ok(config.fleet.workers.get()))
        }
        (Err(reason), None) => Err(reason),
        (Err(reason), Some(former)) => {
            let failed = note.reloads.1 + 1;
            error!(failed, "reload refused, everything stays as it was: {reason}");
            *config = former;
            sockets.claims = claim(config)?;
            Ok(Err(note.wanted))
        }
    }
}

/// The processes of the image before, and what the supervisor must know of them.
pub(super) fn children(
    note: &Handover,
    admins: Vec<(i32, i32, usize)>,
) -> io::Result<(Children, Vec<Inherited>)> {
    let (mut children, mut inherited) = (Children::default(), Vec::new());
    for worker in &note.workers {
        let (pid, slot) = (Pid::from_raw(worker.pid), worker.slot);
        let channel = take_over(worker.channel)?.into();
        let (block, handoff, legacy) = (worker.seat, worker.exchanges, !worker.acknowledges);
        let wire = Wire { channel, block, handoff, legacy };
        children.insert(pid, Role::Worker(slot), true, Some(wire));
        let leaving = worker.leaving_ms.map(Duration::from_millis);
        inherited.push(Inherited { pid, slot, leaving, kept: worker.kept });
    }
    for (index, &(pid, channel, block)) in admins.iter().enumerate() {
        let pid = Pid::from_raw(pid);
        let channel = take_over(channel)?.into();
        let wire = Wire { channel, block, handoff: false, legacy: false };
        children.insert(pid, Role::Admin, true, Some(wire));
        // The last one is the one that answers.
        let leaving = (index + 1 < admins.len()).then_some(Duration::from_secs(2));
        inherited.push(Inherited { pid, slot: ADMIN, leaving, kept: false });
    }
    Ok((children, inherited))
}

pub(super) fn pid_file(
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

pub(super) fn state_file(
    config: &Config,
    former: Option<HandedState>,
) -> io::Result<Option<StateFile>> {
    let former = former.map(StateFile::resume).transpose()?;
    let wanted = config.process.state_file.as_deref();
    // Another one's lock is given up here.
    let same = former.filter(|former| Some(former.given()) == wanted);
    Ok(same.or_else(|| wanted.map(StateFile::new)))
}
