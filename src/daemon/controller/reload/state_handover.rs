//! The state handover from one image of the controller to the next: processes and descriptors.
//!
//! It is JSON in a memfd. Its version changes if an older build can no longer read it. Before a
//! reload, the next build is asked for the versions that it can read.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::{AdminAddress, Endpoint};
use crate::daemon::admin_socket::BoundAddress;
use crate::daemon::controller::queues::HandoverQueues;
use crate::daemon::ids::{BlockId, QueueId, SlotId};
use crate::daemon::stats::layout;
use crate::sys::exec;

/// Version of the state handover and of the messages on the channels.
pub const VERSION: u32 = 2;

/// Previous version. This build can restore it, but older builds cannot restore [`VERSION`].
const VERSION_1: u32 = 1;

/// Environment variable with the location of the handover, `DESCRIPTOR:PID`, or with `check`, which
/// requests the version of a build.
pub const VARIABLE: &str = "TCP_ECHO_HANDOVER";

/// Environment variable with the number of draining workers, for a build that checks its
/// configuration.
pub(crate) const DRAINING: &str = "TCP_ECHO_HANDOVER_DRAINING";

/// State of the controller. Descriptors are numbers, which stay open across exec(2).
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Handover {
    /// Version of the handover; see [`VERSION`].
    pub version: u32,
    /// Version of the build that has written the handover.
    pub from: String,
    /// File of the program.
    pub program: PathBuf,
    /// Wanted number of workers, which stays if the new configuration is rejected.
    pub wanted: u32,
    /// Settings in the form of a configuration file.
    pub settings: String,
    /// Shared memory of the statistics.
    pub statistics: RawFd,
    /// Path and descriptor of the locked pid file.
    pub pid_file: Option<(PathBuf, RawFd)>,
    /// State file, if its totals were restored.
    #[serde(default)]
    pub state_file: Option<HandoverState>,
    /// Address reservations: configured endpoint, bound endpoint, and socket.
    #[serde(rename = "claims")]
    pub reservations: Vec<(Endpoint, Endpoint, RawFd)>,
    /// Queues with the processes that hold them.
    #[serde(default)]
    pub(crate) queues: HandoverQueues,
    /// Listening sockets.
    #[serde(default)]
    pub(crate) listening: Vec<(QueueId, RawFd)>,
    /// Both ends of each handoff queue: slot, sender, receiver.
    #[serde(default)]
    pub(crate) handoff: Vec<(QueueId, SlotId, RawFd, RawFd)>,
    /// Addresses of the sockets passed by the service manager; if any, no other is listened on.
    pub passed: Vec<Endpoint>,
    /// Workers that have not ended.
    pub workers: Vec<HandoverWorker>,
    /// Numbers of completed and of failed reloads.
    pub reloads: (u64, u64),
    /// Admin socket and admin processes.
    #[serde(default)]
    pub admin: Option<HandoverAdmin>,
    /// Fields of handover version 1.
    #[serde(flatten, skip_serializing)]
    pub(crate) version1: HandoverVersion1,
}

/// Queues in handover version 1.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(crate) struct HandoverVersion1 {
    /// Listening sockets with their slots.
    pub(crate) sockets: Vec<(SlotId, RawFd)>,
    /// Members of the `SO_REUSEPORT` groups in their order.
    pub(crate) members: Vec<HandoverMember>,
    /// Addresses of external sockets.
    #[serde(rename = "foreign")]
    pub(crate) external: Vec<SocketAddr>,
    /// Sockets in the service manager's store: slot, and number among the slot's.
    pub(crate) stored: Vec<(SlotId, u32)>,
    /// Handoff queues: slot, sender, receiver.
    #[serde(rename = "inboxes")]
    pub(crate) handoff: Vec<(SlotId, RawFd, RawFd)>,
}

/// Member of a group in handover version 1.
#[derive(Debug, Deserialize)]
pub(crate) struct HandoverMember {
    pub(crate) address: SocketAddr,
    pub(crate) slot: SlotId,
}

/// Admin socket: configured address, bound address, and descriptor.
pub type HandoverAdminSocket = (AdminAddress, BoundAddress, RawFd);

/// State file in the handover.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct HandoverState {
    /// Configured path.
    #[serde(rename = "given")]
    pub configured: PathBuf,
    /// Path without symbolic links.
    pub path: PathBuf,
    /// Descriptor of the lock file.
    pub lock: RawFd,
}

/// Admin socket and admin processes in the handover.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct HandoverAdmin {
    /// Admin socket, if one listens.
    #[serde(rename = "front")]
    pub socket: Option<HandoverAdminSocket>,
    /// Pid, channel, and statistics block of each process; the last one is current, the others end.
    pub processes: Vec<(i32, RawFd, BlockId)>,
}

/// Worker in the handover.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct HandoverWorker {
    /// Process id.
    pub pid: i32,
    /// Slot of the worker.
    pub slot: SlotId,
    /// Controller's end of the channel.
    pub channel: RawFd,
    /// Block in the shared statistics.
    #[serde(rename = "seat")]
    pub block: BlockId,
    /// `true` if siblings may hand connections off to it.
    #[serde(rename = "exchanges")]
    pub handoff: bool,
    /// Time until it is killed, in milliseconds, if it has left its slot.
    pub leaving_ms: Option<u64>,
    /// `true` if it acknowledges grants and releases, unlike builds of handover version 1.
    #[serde(default)]
    pub acknowledges: bool,
    /// `true` if it runs an older build and stays because a reload was aborted.
    #[serde(default)]
    pub kept: bool,
}

impl Handover {
    /// Returns the handover that the environment of this process names, if any.
    ///
    /// # Errors
    /// The handover cannot be read, or has another version.
    pub fn from_environment() -> io::Result<Option<Self>> {
        let Ok(value) = std::env::var(VARIABLE) else { return Ok(None) };
        exec::remove_variables(&[VARIABLE]);
        let Some((descriptor, pid)) = value.split_once(':') else { return Ok(None) };
        // A variable for another process is ignored.
        if pid.parse() != Ok(std::process::id()) {
            return Ok(None);
        }
        let descriptor = descriptor.parse().map_err(io::Error::other)?;
        let handover: Self = serde_json::from_slice(&exec::read_memory_file(descriptor)?)?;
        if ![VERSION, VERSION_1].contains(&handover.version) {
            return Err(io::Error::other(format!("unknown handover version {}", handover.version)));
        }
        Ok(Some(handover))
    }

    /// Writes the handover to a memfd; returns its descriptor and the value of [`VARIABLE`].
    ///
    /// # Errors
    /// No memory or no descriptors.
    pub fn serialize(&self) -> io::Result<(OwnedFd, String)> {
        let memory = exec::write_memory_file(&serde_json::to_vec(self)?)?;
        let number = memory.as_raw_fd();
        Ok((memory, format!("{number}:{}", std::process::id())))
    }

    /// Returns all descriptors in the handover.
    pub fn descriptors(&self) -> Vec<RawFd> {
        let listening = self.listening.iter().map(|(_, socket)| *socket);
        let reservations = self.reservations.iter().map(|(.., socket)| *socket);
        let channels = self.workers.iter().map(|worker| worker.channel);
        let locks = [
            self.pid_file.as_ref().map(|(_, file)| *file),
            self.state_file.as_ref().map(|state| state.lock),
        ];
        let others = [self.statistics].into_iter().chain(locks.into_iter().flatten());
        let handoff = self.handoff.iter().flat_map(|(.., sender, receiver)| [*sender, *receiver]);
        let admin_socket =
            self.admin.iter().filter_map(|admin| admin.socket.as_ref().map(|socket| socket.2));
        let admins = self.admin.iter().flat_map(|admin| &admin.processes);
        let admins = admins.map(|(_, channel, _)| *channel).chain(admin_socket);
        let all = listening.chain(reservations).chain(channels).chain(handoff).chain(others);
        all.chain(admins).collect()
    }
}

/// Returns the answer to a version request, or `None` if this process received none.
pub fn version_answer() -> Option<String> {
    (std::env::var(VARIABLE).ok()? == "check").then(version_line)
}

/// Returns the number of draining workers, in a build that checks its configuration.
pub(crate) fn draining() -> u64 {
    std::env::var(DRAINING).ok().and_then(|count| count.parse().ok()).unwrap_or(0)
}

/// Returns the lines that a build answers which can take over from this one: the versions of
/// handover and shared memory. Builds of handover version 1 read the last line only.
pub fn version_line() -> String {
    let statistics = layout::VERSION;
    let line = |version| format!("handover {version} statistics {statistics}\n");
    line(VERSION) + &line(VERSION_1)
}

/// Returns `true` if the build with this answer can take over from this one.
pub fn is_compatible(answer: &str) -> bool {
    let own = version_line();
    let own = own.lines().next().unwrap_or_default();
    answer.lines().any(|line| line == own)
}
