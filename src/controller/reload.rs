//! Reload and upgrade: ask the build that is about to take over, then become it.

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
use tracing::{error, info, warn};

use super::Controller;
use super::children::Role;
use super::handover::{
    DRAINING, HandedAdmin, HandedVersion1, HandedWorker, Handover, VARIABLE, VERSION, is_compatible,
};
use super::spawn::FOR_CONTROLLER;
use super::state_file::StateFile;
use super::supervisor::ADMIN;
use crate::process::exec;
use crate::process::signals::SignalMask;
use crate::process::wait::Ending;
use crate::stats::events::Kind;

/// How long the new build may take to check its configuration.
const CHECK_TIMEOUT: Duration = Duration::from_secs(10);

/// Where a reload stands.
#[derive(Debug, Default)]
pub(super) struct Reload {
    /// Somebody has asked for one that has not begun. Any number of requests is one.
    wanted: bool,
    /// One has begun in this turn.
    begun: bool,
    /// The new build may take over at the end of this turn.
    approved: bool,
    check: Option<Check>,
    /// How many there were.
    pub(super) done: u64,
    /// How many were refused or given up.
    pub(super) failed: u64,
}

/// The new build, checking the configuration.
#[derive(Debug)]
struct Check {
    /// Reaped like every other process, by its role.
    pid: Pid,
    identity: Identity,
    stdout: OwnedFd,
    stderr: OwnedFd,
    deadline: Instant,
}

impl Check {
    /// Ends it, with all that it has started.
    fn kill(&self) {
        let _ = killpg(self.pid, Signal::SIGKILL);
    }
}

impl Reload {
    /// Goes on counting.
    pub(super) fn resume((done, failed): (u64, u64)) -> Self {
        Self { done, failed, ..Self::default() }
    }

    /// Notes that one is wanted.
    pub(super) fn request(&mut self) {
        self.wanted = true;
    }

    /// Whether one is under way.
    pub(super) fn is_active(&self) -> bool {
        self.check.is_some() || self.begun
    }

    /// When the check has taken too long.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.check.as_ref().map(|check| check.deadline)
    }
}

impl Controller<'_> {
    /// Goes on with a reload if there is one to go on with.
    pub(super) fn advance_reload(&mut self, now: Instant) {
        if self.fleet.supervisor.is_stopping() {
            self.reload.wanted = false;
            if let Some(check) = self.reload.check.take() {
                info!("stopping, so not reloaded");
                check.kill();
            }
        }
        if std::mem::take(&mut self.reload.approved) {
            if let Err(error) = self.become_next() {
                self.refuse_reload(&format!("cannot become the new build: {error}"));
            }
            return;
        }
        match &self.reload.check {
            Some(check) if check.deadline <= now => {
                check.kill();
                self.reload.check = None;
                self.refuse_reload("the check has taken too long");
            }
            None if self.reload.wanted && self.fleet.supervisor.is_steady() => {
                self.reload.wanted = false;
                self.program.invocation.look_up_again();
                info!(program = %self.program.invocation.program.display(), "reloading");
                self.record(Kind::Reloading, 0, 0);
                // Even one that is over in a moment must be announced.
                self.reload.begun = true;
                self.notify(now);
                self.reload.begun = false;
                match self.begin_check(now) {
                    Ok(check) => {
                        self.children.insert(check.pid, Role::ReloadCheck, false, None);
                        self.reload.check = Some(check);
                    }
                    Err(error) => {
                        let program = self.program.invocation.program.display();
                        self.refuse_reload(&format!("cannot run {program}: {error}"));
                    }
                }
            }
            _ => {}
        }
    }

    fn begin_check(&self, now: Instant) -> io::Result<Check> {
        let identity = identity(&self.program.invocation.program)?;
        let mut command = Command::new(&self.program.invocation.program);
        // A group of its own, so that whatever it starts can be ended with it.
        command.process_group(0);
        command.args(self.program.invocation.arguments.iter().skip(1)).arg("--check-config");
        FOR_CONTROLLER.iter().for_each(|name| {
            command.env_remove(name);
        });
        let is_draining = |pid: &Pid| !self.fleet.supervisor.is_in_slot(*pid);
        let draining = self.children.workers().map(|(pid, ..)| pid).filter(is_draining).count();
        command.env(VARIABLE, "check").env(DRAINING, draining.to_string()).stdin(Stdio::null());
        let mut check = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let pipes = check.stdout.take().zip(check.stderr.take());
        let (stdout, stderr) = pipes.ok_or(io::ErrorKind::BrokenPipe)?;
        // Its end is told like that of every process of ours, by `reap`.
        let pid = Pid::from_raw(check.id() as i32);
        let (stdout, stderr) = (stdout.into(), stderr.into());
        Ok(Check { pid, identity, stdout, stderr, deadline: now + CHECK_TIMEOUT })
    }

    /// Takes the answer of the check; of one that was given up nothing is wanted any more.
    pub(super) fn on_check_ending(&mut self, pid: Pid, ending: Ending) {
        let Some(check) = self.reload.check.take_if(|check| check.pid == pid) else { return };
        let answer = read_what_is_there(check.stdout);
        if ending.code() != Some(0) {
            let said = read_what_is_there(check.stderr);
            let reason = said.lines().next().unwrap_or("it said nothing");
            self.refuse_reload(&format!("{reason} ({ending})"));
        } else if !is_compatible(&answer) {
            self.refuse_reload("it is no tcp-echo that could take over from this one");
        } else if identity(&self.program.invocation.program).ok() != Some(check.identity) {
            self.refuse_reload("the program was replaced during its check");
        } else {
            self.reload.approved = true;
        }
    }

    fn refuse_reload(&mut self, reason: &str) {
        self.reload.failed += 1;
        self.record(Kind::ReloadFailed, 0, self.reload.failed);
        error!(failed = self.reload.failed, "reload refused, everything stays as it was: {reason}");
    }

    /// The point of no return, if all goes well.
    fn become_next(&mut self) -> io::Result<()> {
        // Signals that have arrived are acted on by this image; those to come wait for the next.
        let mask = SignalMask::block_all()?;
        self.on_signals();
        // An end is noticed in the next turn, by the phase.
        let _ = self.act();
        let failed = if self.fleet.supervisor.is_stopping() {
            info!("stopping, so not reloaded");
            None
        } else if self.fleet.supervisor.is_steady() {
            Some(self.execute())
        } else {
            // Something has come up: once more when it is settled.
            self.reload.wanted = true;
            None
        };
        mask.restore();
        failed.map_or(Ok(()), Err)
    }

    /// Returns only if that fails.
    fn execute(&self) -> io::Error {
        match self.try_execute() {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    fn try_execute(&self) -> io::Result<Infallible> {
        self.count_dropped_lines();
        // Workers can write anywhere in it, and the next image believes in nothing else.
        self.publisher.statistics.stamp();
        let note = self.handover();
        let (descriptor, value) = note.leave()?;
        let mut keep = note.descriptors();
        keep.push(descriptor.as_raw_fd());
        let once = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", VARIABLE];
        let mut environment: Vec<(OsString, OsString)> =
            std::env::vars_os().filter(|(name, _)| once.iter().all(|once| name != once)).collect();
        environment.push((VARIABLE.into(), value.into()));
        Err(exec::replace(&self.program.invocation, &environment, &keep))
    }

    fn handover(&self) -> Handover {
        let mut workers = Vec::new();
        let mut processes = Vec::new();
        for inherited in self.fleet.supervisor.inheritance(Instant::now()) {
            let Some(wire) = self.children.wire(inherited.pid) else { continue };
            let (pid, channel) = (inherited.pid.as_raw(), wire.channel.as_raw_fd());
            if inherited.slot == ADMIN {
                // The last one is the one that answers.
                let place = if inherited.leaving.is_some() { 0 } else { processes.len() };
                processes.insert(place, (pid, channel, wire.block));
                continue;
            }
            workers.push(HandedWorker {
                pid,
                slot: inherited.slot,
                channel,
                seat: wire.block,
                exchanges: wire.handoff,
                leaving_ms: inherited.leaving.map(|left| left.as_millis() as u64),
                acknowledges: !wire.legacy,
                kept: inherited.kept,
            });
        }
        let front = self.admin.serialize();
        let admin = front.is_some() || !processes.is_empty();
        let claims = self.sockets.claims.iter();
        let listening = self.sockets.listening.iter();
        let handoff = self.sockets.handoff.iter();
        let pid_file = self.pid_file.as_ref();
        Handover {
            version: VERSION,
            from: env!("CARGO_PKG_VERSION").into(),
            program: self.program.invocation.program.clone(),
            wanted: self.fleet.supervisor.wanted(),
            settings: self.config.settings.to_table().to_string(),
            statistics: self.publisher.statistics.file().as_raw_fd(),
            pid_file: pid_file.map(|file| (file.path().to_owned(), file.descriptor())),
            state_file: self.publisher.state_file.as_ref().and_then(StateFile::handover),
            claims: claims
                .map(|claim| (claim.wanted, claim.endpoint, claim.socket.as_raw_fd()))
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
            admin: admin.then_some(HandedAdmin { front, processes }),
            version1: HandedVersion1::default(),
        }
    }

    /// All workers are new.
    pub(super) fn on_renewed(&mut self) {
        self.reload.done += 1;
        let version = env!("CARGO_PKG_VERSION");
        info!(version, done = self.reload.done, "reloaded");
    }

    /// The new workers do not start.
    pub(super) fn on_not_renewed(&mut self, slot: u32) {
        self.reload.failed += 1;
        let failed = self.reload.failed;
        warn!(
            slot,
            failed, "reload given up: the new worker does not get ready, the old ones stay"
        );
    }
}

/// Which file a program is, and in which state: device, inode, size and time of change.
type Identity = (u64, u64, u64, i64, i64);

fn identity(program: &Path) -> io::Result<Identity> {
    let file = std::fs::metadata(program)?;
    Ok((file.dev(), file.ino(), file.size(), file.ctime(), file.ctime_nsec()))
}

/// What a process has written that has ended; a pipe holds it all.
fn read_what_is_there(pipe: OwnedFd) -> String {
    // One that it has started itself might keep the pipe open.
    let _ = fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK));
    let mut text = Vec::new();
    let _ = File::from(pipe).take(64 * 1024).read_to_end(&mut text);
    String::from_utf8_lossy(&text).into_owned()
}
