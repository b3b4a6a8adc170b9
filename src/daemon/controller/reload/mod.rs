//! Reload and upgrade: the next build checks its configuration, then this process executes it.
//!
//! The [`state_handover`] carries the state across exec(2), and `restore` rebuilds the controller from
//! it. The supervisor of the new image replaces the workers. Listeners that the new configuration
//! does not want are closed by `queues` (`reconcile::close`) once no worker holds them.

pub(crate) mod restore;
pub mod state_handover;

use std::convert::Infallible;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tracing::{error, info};

use self::state_handover::{
    DRAINING, Handover, HandoverAdmin, HandoverVersion1, HandoverWorker, VARIABLE, VERSION,
    is_compatible,
};
use super::Controller;
use super::children::Role;
use super::children::spawn::CONTROLLER_VARIABLES;
use super::publish::events::DAEMON;
use super::publish::state_file::StateFile;
use crate::daemon::stats::events::Kind;
use crate::sys::clock::millis;
use crate::sys::exec;
use crate::sys::signals::SignalMask;
use crate::sys::wait::ExitStatus;

/// Time in which the new build checks its configuration.
const CHECK_TIMEOUT: Duration = Duration::from_secs(10);

/// State of the current reload, and the number of past ones.
#[derive(Debug, Default)]
pub(crate) struct Reload {
    /// `true` if a reload was requested and has not begun; requests merge.
    wanted: bool,
    /// `true` while the begin of a reload is announced.
    begun: bool,
    /// `true` if the new build has passed its check and is executed at the end of this loop
    /// iteration.
    approved: bool,
    check: Option<Check>,
    /// Number of completed reloads.
    pub(crate) done: u64,
    /// Number of rejected and aborted reloads.
    pub(crate) failed: u64,
}

/// Process of the new build that checks the configuration.
#[derive(Debug)]
struct Check {
    pid: Pid,
    identity: Identity,
    stdout: OwnedFd,
    stderr: OwnedFd,
    deadline: Instant,
}

impl Check {
    /// Kills its process group.
    fn kill(&self) {
        let _ = killpg(self.pid, Signal::SIGKILL);
    }
}

impl Reload {
    /// Restores the numbers of completed and of failed reloads.
    pub(crate) fn restore((done, failed): (u64, u64)) -> Self {
        Self { done, failed, ..Self::default() }
    }

    /// Counts a reload that has begun to replace workers, as completed or failed.
    pub(crate) fn count(&mut self, done: bool) {
        let counter = if done { &mut self.done } else { &mut self.failed };
        *counter += 1;
    }

    /// Requests a reload.
    pub(crate) fn request(&mut self) {
        self.wanted = true;
    }

    /// Returns `true` while a reload begins or is checked.
    pub(crate) fn is_active(&self) -> bool {
        self.check.is_some() || self.begun
    }

    /// Returns the deadline of the check.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.check.as_ref().map(|check| check.deadline)
    }
}

impl Controller<'_> {
    /// Begins a requested reload, or advances the current one.
    pub(crate) fn advance_reload(&mut self, now: Instant) {
        if self.fleet.supervisor.is_stopping() {
            self.reload.wanted = false;
            if let Some(check) = self.reload.check.take() {
                info!("reload canceled: stopping");
                check.kill();
            }
        }
        if std::mem::take(&mut self.reload.approved) {
            if let Err(error) = self.become_next() {
                self.reject_reload(&format!("cannot execute the new build: {error}"));
            }
            return;
        }
        match &self.reload.check {
            Some(check) if check.deadline <= now => {
                check.kill();
                self.reload.check = None;
                self.reject_reload("configuration check timed out");
            }
            None if self.reload.wanted && self.fleet.supervisor.is_steady() => {
                self.reload.wanted = false;
                self.program.invocation.refresh_program();
                info!(program = %self.program.invocation.program.display(), "reloading");
                self.record(Kind::Reloading, DAEMON, 0);
                // The service manager waits for this announcement, even if the reload fails at
                // once.
                self.reload.begun = true;
                self.notify(now);
                self.reload.begun = false;
                match self.begin_check(now) {
                    Ok(check) => {
                        self.children.insert(check.pid, Role::ReloadCheck, None);
                        self.reload.check = Some(check);
                    }
                    Err(error) => {
                        let program = self.program.invocation.program.display();
                        self.reject_reload(&format!("cannot run {program}: {error}"));
                    }
                }
            }
            _ => {}
        }
    }

    fn begin_check(&self, now: Instant) -> io::Result<Check> {
        let identity = identity(&self.program.invocation.program)?;
        let mut command = Command::new(&self.program.invocation.program);
        // A process group, so that a kill reaches its children too.
        command.process_group(0);
        command.args(self.program.invocation.arguments.iter().skip(1)).arg("--check-config");
        CONTROLLER_VARIABLES.iter().for_each(|name| {
            command.env_remove(name);
        });
        let is_draining = |pid: &Pid| !self.fleet.supervisor.is_in_slot(*pid);
        let draining = self.children.workers().map(|(pid, ..)| pid).filter(is_draining).count();
        command.env(VARIABLE, "check").env(DRAINING, draining.to_string()).stdin(Stdio::null());
        let mut check = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let pipes = check.stdout.take().zip(check.stderr.take());
        let (stdout, stderr) = pipes.ok_or(io::ErrorKind::BrokenPipe)?;
        let pid = Pid::from_raw(check.id() as i32);
        let (stdout, stderr) = (stdout.into(), stderr.into());
        Ok(Check { pid, identity, stdout, stderr, deadline: now + CHECK_TIMEOUT })
    }

    /// Evaluates the answer of a check that has exited, unless it has timed out before.
    pub(crate) fn on_check_exit(&mut self, pid: Pid, status: ExitStatus) {
        let Some(check) = self.reload.check.take_if(|check| check.pid == pid) else { return };
        let answer = read_available(check.stdout);
        if status.code() != Some(0) {
            let errors = read_available(check.stderr);
            let reason = errors.lines().next().unwrap_or("no error message");
            self.reject_reload(&format!("{reason} ({status})"));
        } else if !is_compatible(&answer) {
            self.reject_reload("not a compatible tcp-echo binary");
        } else if identity(&self.program.invocation.program).ok() != Some(check.identity) {
            self.reject_reload("the program was replaced during its check");
        } else {
            self.reload.approved = true;
        }
    }

    /// Counts and logs a reload that has changed nothing.
    fn reject_reload(&mut self, reason: &str) {
        self.reload.failed += 1;
        self.record(Kind::ReloadFailed, DAEMON, self.reload.failed);
        error!(
            failed = self.reload.failed,
            "reload rejected, keeping current configuration: {reason}"
        );
    }

    /// Executes the new build, unless a signal or an exit has changed the situation.
    fn become_next(&mut self) -> io::Result<()> {
        // This image acts on the signals that have arrived; later ones wait for the next image.
        let mask = SignalMask::block_all()?;
        self.on_signals();
        // An exit is noticed in the next loop iteration.
        let _ = self.act();
        let failed = if self.fleet.supervisor.is_stopping() {
            info!("reload canceled: stopping");
            None
        } else if self.fleet.supervisor.is_steady() {
            Some(self.execute())
        } else {
            // A worker has failed meanwhile: the reload is repeated when the workers are ready.
            self.reload.wanted = true;
            None
        };
        mask.restore();
        failed.map_or(Ok(()), Err)
    }

    /// Executes the new build; returns only on failure.
    fn execute(&self) -> io::Error {
        match self.try_execute() {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    fn try_execute(&self) -> io::Result<Infallible> {
        self.count_dropped_lines();
        // Workers can write to the memory, and the next image checks its version.
        self.publisher.statistics.write_header();
        let handover = self.serialize();
        let (descriptor, value) = handover.serialize()?;
        let mut keep = handover.descriptors();
        keep.push(descriptor.as_raw_fd());
        let once = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", VARIABLE];
        let mut environment: Vec<(OsString, OsString)> =
            std::env::vars_os().filter(|(name, _)| once.iter().all(|once| name != once)).collect();
        environment.push((VARIABLE.into(), value.into()));
        Err(exec::replace(&self.program.invocation, &environment, &keep))
    }

    /// Returns the state handover for the next image.
    fn serialize(&self) -> Handover {
        let mut workers = Vec::new();
        let mut processes = Vec::new();
        for process in self.fleet.supervisor.serialize(Instant::now()) {
            let Some(link) = self.children.link(process.pid) else { continue };
            let (pid, channel) = (process.pid.as_raw(), link.channel.as_raw_fd());
            if process.slot.is_admin() {
                // The last one is the current one.
                let place = if process.leaving.is_some() { 0 } else { processes.len() };
                processes.insert(place, (pid, channel, link.block_id));
                continue;
            }
            workers.push(HandoverWorker {
                pid,
                slot: process.slot,
                channel,
                block: link.block_id,
                handoff: link.handoff,
                leaving_ms: process.leaving.map(millis),
                acknowledges: !link.legacy,
                kept: process.kept,
            });
        }
        let admin_socket = self.admin.serialize();
        let admin = admin_socket.is_some() || !processes.is_empty();
        let reservations = self.sockets.reservations.iter();
        let listening = self.sockets.listening.iter();
        let handoff = self.sockets.handoff.iter();
        let pid_file = self.pid_file.as_ref();
        Handover {
            version: VERSION,
            from: env!("CARGO_PKG_VERSION").into(),
            program: self.program.invocation.program.clone(),
            wanted: self.fleet.supervisor.wanted(),
            settings: self.config.settings.to_file(),
            statistics: self.publisher.statistics.file().as_raw_fd(),
            pid_file: pid_file.map(|file| (file.path().to_owned(), file.descriptor())),
            state_file: self.publisher.state_file.as_ref().and_then(StateFile::serialize),
            reservations: reservations
                .map(|reservation| {
                    (reservation.wanted, reservation.endpoint, reservation.socket.as_raw_fd())
                })
                .collect(),
            queues: self.fleet.queues.serialize(),
            listening: listening.map(|(id, socket)| (*id, socket.as_raw_fd())).collect(),
            handoff: handoff
                .map(|(id, ends)| {
                    (*id, ends.slot, ends.sender.as_raw_fd(), ends.receiver.as_raw_fd())
                })
                .collect(),
            passed: self.sockets.passed.clone(),
            workers,
            reloads: (self.reload.done, self.reload.failed),
            admin: admin.then_some(HandoverAdmin { socket: admin_socket, processes }),
            version1: HandoverVersion1::default(),
        }
    }
}

/// Identity of a program's file: device, inode, size, and time of change.
type Identity = (u64, u64, u64, i64, i64);

fn identity(program: &Path) -> io::Result<Identity> {
    let file = std::fs::metadata(program)?;
    Ok((file.dev(), file.ino(), file.size(), file.ctime(), file.ctime_nsec()))
}

/// Returns the output of a process that has exited; a pipe holds it all.
fn read_available(pipe: OwnedFd) -> String {
    // A child of it could keep the pipe open.
    let _ = fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK));
    let mut text = Vec::new();
    let _ = File::from(pipe).take(64 * 1024).read_to_end(&mut text);
    String::from_utf8_lossy(&text).into_owned()
}
