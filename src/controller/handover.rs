//! What one image of the controller leaves to the next: who runs, and which descriptor is what.
//!
//! The note is JSON in a memfd. Its version changes when an older build could no longer understand it;
//! a build that is about to take over is asked for the version it speaks before anything is risked.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{OwnedFd, RawFd};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::queues::HandedQueues;
use crate::config::{AdminAddress, Endpoint};
use crate::ids::QueueId;
use crate::process::exec;
use crate::process::front::Place;
use crate::stats::layout;

/// The version of the note, and of the messages on the channels.
pub const VERSION: u32 = 2;

/// The version of builds of handover version 1. This build can take over from them, and not the other way round.
const VERSION_1: u32 = 1;

/// The variable that says where the note is: `DESCRIPTOR:PID`; or `check`, to be asked for the version.
pub const VARIABLE: &str = "TCP_ECHO_HANDOVER";

/// Tells a build that checks its configuration how many workers drain already.
pub(super) const DRAINING: &str = "TCP_ECHO_HANDOVER_DRAINING";

/// The note. Descriptors are numbers; they stay open across the exec.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Handover {
    /// [`VERSION`].
    pub version: u32,
    /// The build that leaves the note.
    pub from: String,
    /// How it was started: the program's file.
    pub program: PathBuf,
    /// How many workers were wanted: what stays if the new configuration does not do.
    pub wanted: u32,
    /// Its settings, as a configuration file.
    pub settings: String,
    /// The shared memory.
    pub statistics: RawFd,
    /// The locked pid file.
    pub pid_file: Option<(PathBuf, RawFd)>,
    /// The state file, if its totals are among the numbers.
    #[serde(default)]
    pub state_file: Option<HandedState>,
    /// The claimed addresses: what was asked for, what was bound, and the socket.
    pub claims: Vec<(Endpoint, Endpoint, RawFd)>,
    /// The queues with their attendants.
    #[serde(default)]
    pub(super) queues: HandedQueues,
    /// The listening sockets.
    #[serde(default)]
    pub(super) listening: Vec<(QueueId, RawFd)>,
    /// Both ends of the handoff queues: slot, sender, receiver.
    #[serde(default)]
    pub(super) handoff: Vec<(QueueId, u32, RawFd, RawFd)>,
    /// The addresses of the sockets that the service manager has passed; if any, they are all.
    pub passed: Vec<Endpoint>,
    /// The workers.
    pub workers: Vec<HandedWorker>,
    /// Reloads so far, and those that were refused or given up.
    pub reloads: (u64, u64),
    /// The admin process, if there is one.
    #[serde(default)]
    pub admin: Option<HandedAdmin>,
    /// The fields that only builds of handover version 1 leave.
    #[serde(flatten, skip_serializing)]
    pub(super) version1: HandedVersion1,
}

/// The queues as builds of handover version 1 left them.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(super) struct HandedVersion1 {
    /// The slots' sockets.
    pub(super) sockets: Vec<(u32, RawFd)>,
    /// The order of the groups.
    pub(super) members: Vec<HandedMember>,
    /// The addresses whose groups are not all ours.
    pub(super) foreign: Vec<SocketAddr>,
    /// The sockets that the service manager keeps: slot and place.
    pub(super) stored: Vec<(u32, u32)>,
    /// The handoff queues: slot, sender, receiver.
    pub(super) inboxes: Vec<(u32, RawFd, RawFd)>,
}

/// A member of a group.
#[derive(Debug, Deserialize)]
pub(super) struct HandedMember {
    pub(super) address: SocketAddr,
    pub(super) slot: u32,
}

/// The admin socket: what was asked for, where it was found, and the descriptor.
pub type HandedFront = (AdminAddress, Place, RawFd);

/// The state file under the next image.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct HandedState {
    /// As it was given.
    pub given: PathBuf,
    /// As it is, behind symbolic links.
    pub path: PathBuf,
    /// The locked file beside it.
    pub lock: RawFd,
}

/// The admin process, or what is left of it, under the next image.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct HandedAdmin {
    /// What was asked for, where it was found, and the socket; if it still listens.
    pub front: Option<HandedFront>,
    /// Each process: pid, the controller's end of its channel, seat.
    pub processes: Vec<(i32, RawFd, usize)>,
}

/// A worker that goes on under the next image.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct HandedWorker {
    /// Its pid.
    pub pid: i32,
    /// Its slot, from 1.
    pub slot: u32,
    /// The controller's end of its channel.
    pub channel: RawFd,
    /// Its seat in the statistics.
    pub seat: usize,
    /// Whether it takes what siblings pass on.
    pub exchanges: bool,
    /// How much longer it may live, in milliseconds, if it has left its slot.
    pub leaving_ms: Option<u64>,
    /// It acknowledges grants and releases; builds of handover version 1 do not.
    #[serde(default)]
    pub acknowledges: bool,
    /// It is of an older build than this image, and stays: a reload was given up.
    #[serde(default)]
    pub kept: bool,
}

impl Handover {
    /// Takes the note that the image before has left in this process, if there is one.
    ///
    /// # Errors
    /// There is one and it cannot be understood.
    pub fn take() -> io::Result<Option<Self>> {
        let Ok(value) = std::env::var(VARIABLE) else { return Ok(None) };
        exec::forget_variables(&[VARIABLE]);
        let Some((descriptor, pid)) = value.split_once(':') else { return Ok(None) };
        // A variable that was meant for another process means nothing.
        if pid.parse() != Ok(std::process::id()) {
            return Ok(None);
        }
        let descriptor = descriptor.parse().map_err(io::Error::other)?;
        let note: Self = serde_json::from_slice(&exec::read_note(descriptor)?)?;
        if ![VERSION, VERSION_1].contains(&note.version) {
            return Err(io::Error::other(format!("handover version {} is not ours", note.version)));
        }
        Ok(Some(note))
    }

    /// Writes the note down; returns its descriptor and the value of [`VARIABLE`].
    ///
    /// # Errors
    /// No memory, or no descriptors.
    pub fn leave(&self) -> io::Result<(OwnedFd, String)> {
        let note = exec::leave_note(&serde_json::to_vec(self)?)?;
        let number = std::os::fd::AsRawFd::as_raw_fd(&note);
        Ok((note, format!("{number}:{}", std::process::id())))
    }

    /// All descriptors that the note names.
    pub fn descriptors(&self) -> Vec<RawFd> {
        let listening = self.listening.iter().map(|(_, socket)| *socket);
        let claims = self.claims.iter().map(|(.., socket)| *socket);
        let channels = self.workers.iter().map(|worker| worker.channel);
        let locks = [
            self.pid_file.as_ref().map(|(_, file)| *file),
            self.state_file.as_ref().map(|state| state.lock),
        ];
        let others = [self.statistics].into_iter().chain(locks.into_iter().flatten());
        let handoff = self.handoff.iter().flat_map(|(.., sender, receiver)| [*sender, *receiver]);
        let front = self.admin.iter().filter_map(|admin| admin.front.as_ref().map(|front| front.2));
        let admins = self.admin.iter().flat_map(|admin| &admin.processes);
        let admins = admins.map(|(_, channel, _)| *channel).chain(front);
        let all = listening.chain(claims).chain(channels).chain(handoff).chain(others);
        all.chain(admins).collect()
    }
}

/// Whether this process is only asked for the version that it speaks, and the answer.
pub fn answer() -> Option<String> {
    (std::env::var(VARIABLE).ok()? == "check").then(version_line)
}

/// Returns the number of workers that drain already, in a build that checks its configuration.
pub(super) fn draining() -> u64 {
    std::env::var(DRAINING).ok().and_then(|count| count.parse().ok()).unwrap_or(0)
}

/// What a build says that can take over from this one: it must understand the shared memory, too.
/// The last line is for builds of handover version 1, which look at the end only.
pub fn version_line() -> String {
    let statistics = layout::VERSION;
    let line = |version| format!("handover {version} statistics {statistics}\n");
    line(VERSION) + &line(VERSION_1)
}

/// Returns `true` if a build that answers so can take over from this one.
pub fn is_compatible(answer: &str) -> bool {
    let own = version_line();
    let own = own.lines().next().unwrap_or_default();
    answer.lines().any(|line| line == own)
}
