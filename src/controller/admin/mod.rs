//! The admin process as the controller has it: its socket, its start, its replacement, its end.

mod keeper;
#[cfg(test)]
mod keeper_tests;

use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Interest, Token};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tracing::{debug, error, info, warn};

use self::keeper::{Deed, Keeper, RETIRING};
use super::Controller;
use super::handover::HandedAdmin;
use crate::assignment::AdminAssignment;
use crate::config::{AdminAddress, AdminConfig};
use crate::exit::Exit;
use crate::logging;
use crate::process::channel::{Channel, Message, Received};
use crate::process::exec::take_over;
use crate::process::fork;
use crate::process::front::{Front, FrontError, Place};
use crate::process::wait::Ending;
use crate::stats::events::Kind;
use crate::stats::{FleetWord, Word};

/// What the controller has of the admin process.
#[derive(Debug)]
pub(super) struct Admin {
    /// What was asked for, and the socket. It stays when the process goes: nobody is refused.
    front: Option<(AdminAddress, Front)>,
    handles: Vec<Handle>,
    keeper: Keeper,
}

/// One process.
#[derive(Debug)]
struct Handle {
    pid: Pid,
    channel: Channel,
    seat: usize,
}

/// What a new configuration changes.
#[derive(Debug)]
pub(super) enum Change {
    /// Nothing: the socket goes on.
    None,
    /// There is another socket from now on, or none.
    Front(Option<(AdminAddress, Front)>),
}

impl Change {
    /// It is not to be after all.
    pub(super) fn undo(self) {
        if let Self::Front(Some((_, front))) = self {
            front.remove();
        }
    }
}

impl Admin {
    /// Of a daemon that is started.
    pub(super) fn found(config: &AdminConfig, seed: u64, now: Instant) -> Result<Self, FrontError> {
        let keeper = Keeper::new(seed, now);
        let mut admin = Self { front: None, handles: Vec::new(), keeper };
        let change = admin.open(config)?;
        admin.renew(change);
        Ok(admin)
    }

    /// Of a daemon that goes on.
    pub(super) fn inherit(
        handed: Option<HandedAdmin>,
        seed: u64,
        now: Instant,
    ) -> io::Result<Self> {
        let mut admin = Self { front: None, handles: Vec::new(), keeper: Keeper::new(seed, now) };
        let Some(HandedAdmin { front, processes }) = handed else { return Ok(admin) };
        if let Some((address, place, socket)) = front {
            admin.front = Some((address, Front { place, socket: take_over(socket)? }));
            admin.keeper.want(true);
        }
        for (pid, channel, seat) in processes {
            let (pid, channel) = (Pid::from_raw(pid), take_over(channel)?.into());
            admin.handles.push(Handle { pid, channel, seat });
            admin.keeper.inherit(pid, now);
        }
        Ok(admin)
    }

    /// Opens what `config` wants and is not there yet.
    pub(super) fn open(&self, config: &AdminConfig) -> Result<Change, FrontError> {
        if self.front.as_ref().map(|(address, _)| address) == config.address.as_ref() {
            return Ok(Change::None);
        }
        let open = |address: &AdminAddress| Ok((address.clone(), Front::open(address)?));
        Ok(Change::Front(config.address.as_ref().map(open).transpose()?))
    }

    /// Carries out a change. Whatever process there is has had its time.
    pub(super) fn renew(&mut self, change: Change) {
        if let Change::Front(front) = change {
            self.remove_front();
            self.front = front;
        }
        self.keeper.want(self.front.is_some());
        self.keeper.renew();
    }

    fn remove_front(&mut self) {
        if let Some((_, front)) = self.front.take() {
            front.remove();
        }
    }

    /// The pid of the process; 0 if there is none.
    pub(super) fn pid(&self) -> u64 {
        self.keeper.current().map_or(0, |pid| pid.as_raw() as u64)
    }

    /// The seats that are taken.
    pub(super) fn seats(&self) -> impl Iterator<Item = usize> {
        self.handles.iter().map(|handle| handle.seat)
    }

    /// What to listen to.
    pub(super) fn channels(&self) -> impl Iterator<Item = (Pid, RawFd)> {
        self.handles.iter().map(|handle| (handle.pid, handle.channel.as_raw_fd()))
    }

    /// For the next image.
    pub(super) fn handover(&self) -> Option<HandedAdmin> {
        let front = self.front.as_ref().map(|(address, front)| {
            (address.clone(), front.place.clone(), front.socket.as_raw_fd())
        });
        let handles = self.handles.iter();
        let processes: Vec<_> = handles
            .map(|handle| (handle.pid.as_raw(), handle.channel.as_raw_fd(), handle.seat))
            .collect();
        (front.is_some() || !processes.is_empty()).then_some(HandedAdmin { front, processes })
    }

    /// When something is to be done.
    pub(super) fn deadline(&self, timeout: Option<Duration>) -> Option<Instant> {
        self.keeper.deadline(timeout)
    }

    fn handle(&self, pid: Pid) -> Option<&Handle> {
        self.handles.iter().find(|handle| handle.pid == pid)
    }
}

impl Controller<'_> {
    /// Does what is to be done about the admin process.
    pub(super) fn look_after_admin(&mut self, now: Instant) {
        let uptime = self.clock.uptime(now).as_millis() as u64;
        for Handle { pid, seat, .. } in &self.admin.handles {
            let stamp = self.statistics.seat(*seat).get(Word::Heartbeat);
            let age = Duration::from_millis(uptime.saturating_sub(stamp));
            if let Some(at) = now.checked_sub(age).filter(|_| stamp > 0) {
                self.admin.keeper.beat(*pid, at);
            }
        }
        for deed in self.admin.keeper.settle(self.config.fleet.worker_timeout, now) {
            self.do_to_admin(deed);
        }
    }

    /// Once the workers have ended, `stop`, so does the admin process; and then the daemon.
    pub(super) fn end_after_admin(
        &mut self,
        stop: ControlFlow<Exit>,
        now: Instant,
    ) -> ControlFlow<Exit> {
        if let (ControlFlow::Break(exit), None) = (stop, self.exit) {
            self.exit = Some(exit);
            self.admin.keeper.end(now).into_iter().for_each(|deed| self.do_to_admin(deed));
        }
        match self.exit {
            Some(exit) if self.admin.keeper.is_empty() => {
                self.admin.remove_front();
                ControlFlow::Break(exit)
            }
            _ => ControlFlow::Continue(()),
        }
    }

    fn do_to_admin(&mut self, deed: Deed) {
        match deed {
            Deed::Spawn => match self.spawn_admin() {
                Ok(pid) => self.admin.keeper.spawned(pid, Instant::now()),
                Err(error) => {
                    error!("cannot start the admin process: {error}");
                    self.admin.keeper.not_spawned(Instant::now());
                }
            },
            Deed::Retire(pid) => {
                let drain_ms = RETIRING.as_millis() as u64;
                let message = Message::Retire { accept_ms: 0, drain_ms, spread_ms: 0 };
                let sent = self.admin.handle(pid).map(|it| it.channel.send(&message, &[]));
                // One that does not read is killed when its time is up.
                if let Some(Err(error)) = sent {
                    debug!(admin_pid = pid.as_raw(), "cannot tell the admin process: {error}");
                }
            }
            Deed::Terminate(pid) => signal(pid, Signal::SIGTERM),
            Deed::Kill(pid, reason) => {
                signal(pid, Signal::SIGKILL);
                if let Some(reason) = reason {
                    warn!(admin_pid = pid.as_raw(), reason, "killing the admin process");
                    self.count_admin(pid);
                }
            }
        }
    }

    fn spawn_admin(&mut self) -> io::Result<Pid> {
        let (channel, theirs) = Channel::pair()?;
        let seat = self.statistics.take_seat();
        let seat = seat.ok_or_else(|| io::Error::other("no seat is left in the statistics"))?;
        let controller = fork::own_pid();
        let forked = fork::spawn(|| self.become_admin(theirs, seat, controller).code());
        let pid = forked.inspect_err(|_| self.statistics.free_seat(seat))?;
        let uptime = self.clock.uptime(Instant::now()).as_millis() as u64;
        self.statistics.seat_worker(seat, 0, pid.as_raw() as u64, uptime);
        let (descriptor, token) = (channel.as_raw_fd(), Token(pid.as_raw() as usize));
        self.admin.handles.push(Handle { pid, channel, seat });
        if let Err(error) =
            self.registry.register(&mut SourceFd(&descriptor), token, Interest::READABLE)
        {
            // Unheard, it is taken for one that does not get ready.
            error!(admin_pid = pid.as_raw(), "cannot watch the admin process's channel: {error}");
        }
        Ok(pid)
    }

    /// In the new process: it forgets the controller and then lives its own life.
    fn become_admin(&mut self, channel: Channel, seat: usize, controller: Pid) -> Exit {
        let Some((_, front)) = self.admin.front.take() else { return Exit::Failure };
        let keep = [channel.as_raw_fd(), front.socket.as_raw_fd()];
        self.forget_controller(&keep, "tcp-echo[admin]", logging::speak_as_admin);
        (self.admin_main)(AdminAssignment {
            controller,
            front,
            channel,
            seat: self.statistics.seat(seat),
            layout: self.statistics.layout(),
            worker_timeout: self.config.fleet.worker_timeout,
        })
    }

    /// Hears what the process with this pid has to say, if it is an admin process.
    pub(super) fn on_admin_channel(&mut self, pid: Pid) {
        while let Some(handle) = self.admin.handle(pid) {
            match handle.channel.receive() {
                Ok(Received::Message(Message::Ready, _)) => {
                    self.admin.keeper.ready(pid, Instant::now());
                    if let Some((_, front)) = &self.admin.front {
                        let place = url(&front.place);
                        info!(admin_pid = pid.as_raw(), "admin process answers on {place}");
                    }
                }
                Ok(Received::Message(other, _)) => {
                    warn!(admin_pid = pid.as_raw(), "unexpected message {other:?}");
                }
                // The ending of one that has closed is told by SIGCHLD.
                Ok(Received::Nothing | Received::Closed) => return,
                Err(error) => {
                    warn!(admin_pid = pid.as_raw(), "unreadable message: {error}");
                    return signal(pid, Signal::SIGKILL);
                }
            }
        }
    }

    /// Takes note of the end of the process with this pid; says whether it was an admin process.
    pub(super) fn on_admin_ending(&mut self, pid: Pid, ending: Ending) -> bool {
        let handles = &mut self.admin.handles;
        let Some(index) = handles.iter().position(|handle| handle.pid == pid) else { return false };
        let Handle { channel, seat, .. } = handles.remove(index);
        let _ = mio::event::Source::deregister(&mut SourceFd(&channel.as_raw_fd()), &self.registry);
        self.statistics.free_seat(seat);
        let by_itself = ending.code() == Some(0);
        match self.admin.keeper.ended(pid, by_itself, Instant::now()) {
            Some(delay) => {
                let delay_ms = delay.as_millis() as u64;
                let admin_pid = pid.as_raw();
                // Told with the whole group to end, it does; it is needed until the last worker is gone.
                if by_itself && self.supervisor.is_stopping() {
                    info!(admin_pid, "admin process ended too early, replacing it");
                } else {
                    warn!(admin_pid, status = %ending, delay_ms, "admin process exited, replacing it");
                }
                self.count_admin(pid);
            }
            None => debug!(admin_pid = pid.as_raw(), status = %ending, "admin process exited"),
        }
        true
    }

    fn count_admin(&self, pid: Pid) {
        let layout = self.statistics.layout();
        let restarts = layout.fleet(FleetWord::AdminRestarts);
        layout.set_fleet(FleetWord::AdminRestarts, restarts.wrapping_add(1));
        self.record(Kind::AdminExited, 0, pid.as_raw() as u64);
    }
}

fn signal(pid: Pid, signal: Signal) {
    // Only a process that has not been reaped is ever named here, so the pid is not another's.
    if let Err(errno) = kill(pid, signal) {
        warn!(admin_pid = pid.as_raw(), "cannot send {signal}: {errno}");
    }
}

/// Where the page is, for people.
fn url(place: &Place) -> String {
    match place {
        Place::Tcp(address) => format!("http://{address}/"),
        Place::Unix(path, _) => format!("unix:{}", path.display()),
    }
}
