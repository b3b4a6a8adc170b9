//! Processes that we start: pinned to a CPU, each the leader of a group, and none left behind.

use std::collections::BTreeSet;
use std::env;
use std::io::{self, Read};
use std::os::unix::process::{CommandExt, parent_id};
use std::process::{self, Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use signal_hook::consts::signal::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::{ON, limits, proc};

/// The leaders of all groups that live.
static GROUPS: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

fn groups() -> MutexGuard<'static, BTreeSet<i32>> {
    GROUPS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A command that runs `program` on `cpu`, or anywhere, and dies with us. This program starts itself
/// first and becomes the other one when all that is done.
///
/// # Errors
/// This program does not know where it is.
pub(crate) fn command(cpu: Option<usize>, program: &str) -> io::Result<Command> {
    let mut command = Command::new(env::current_exe()?);
    let cpu = cpu.map_or_else(|| "any".to_owned(), |cpu| cpu.to_string());
    command.args([ON, &process::id().to_string(), &cpu, program]).process_group(0);
    // The daemon's own variables are for the daemon of the user, not for ours.
    for (name, _) in
        env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TCP_ECHO_"))
    {
        command.env_remove(name);
    }
    Ok(command)
}

/// The other half of [`command`]; returns only when it fails.
pub(crate) fn become_pinned(words: &[String]) -> String {
    let [starter, cpu, program, arguments @ ..] = words else { return "no program".to_owned() };
    let prepared = || -> nix::Result<()> {
        set_pdeathsig(Signal::SIGKILL)?;
        if let Ok(cpu) = cpu.parse() {
            let mut set = CpuSet::new();
            set.set(cpu)?;
            sched_setaffinity(Pid::from_raw(0), &set)?;
        }
        Ok(())
    };
    if let Err(error) = prepared() {
        return format!("cannot pin to CPU {cpu}: {error}");
    }
    // It may have died before we asked to be told.
    if parent_id().to_string() != *starter {
        return "nobody waits for this any more".to_owned();
    }
    let error = Command::new(program).args(arguments).exec();
    format!("{program}: {error}")
}

/// A process and its group. When it goes out of scope nothing of it is left.
#[derive(Debug)]
pub(crate) struct Group {
    process: Child,
}

impl Group {
    /// Starts a command made by [`command`].
    ///
    /// # Errors
    /// Those of fork(2) and execve(2).
    pub(crate) fn start(mut command: Command) -> io::Result<Self> {
        // Held until it is noted: an interrupt must not come in between.
        let mut groups = groups();
        let process = command.spawn()?;
        groups.insert(process.id() as i32);
        Ok(Self { process })
    }

    /// The process.
    pub(crate) fn process(&mut self) -> &mut Child {
        &mut self.process
    }

    /// Its pid.
    pub(crate) fn pid(&self) -> i32 {
        self.process.id() as i32
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        !matches!(self.process.try_wait(), Ok(None))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let leader = self.pid();
        // Some may have left the group; they are found as long as their ancestors live.
        let members = proc::tree(leader);
        let _ = killpg(Pid::from_raw(leader), Signal::SIGKILL);
        for pid in members {
            // Gone already, as a rule.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let _ = self.process.wait();
        groups().remove(&leader);
    }
}

/// On INT, TERM and HUP everything that was started is killed, and we end.
///
/// # Errors
/// No thread, or no descriptor.
pub(crate) fn end_all_on_interrupt() -> io::Result<()> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM])?;
    thread::Builder::new().spawn(move || {
        let signal = signals.forever().next().unwrap_or(SIGTERM);
        // Nothing is started while we hold this, and we never let go.
        for &leader in groups().iter() {
            let _ = killpg(Pid::from_raw(leader), Signal::SIGKILL);
        }
        limits::put_back();
        process::exit(128 + signal);
    })?;
    Ok(())
}

/// What a client has printed and how it has ended.
#[derive(Debug)]
pub(crate) struct Output {
    /// Standard output.
    pub text: String,
    /// Standard error; a few lines at most.
    pub complaint: String,
    /// Its exit code, or the signal.
    pub status: ExitStatus,
}

/// Runs a command made by [`command`] to its end.
///
/// # Errors
/// It cannot be started, or does not print text.
pub(crate) fn output(mut command: Command) -> io::Result<Output> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut group = Group::start(command)?;
    let process = group.process();
    let (mut text, mut complaint) = (String::new(), String::new());
    if let Some(mut stdout) = process.stdout.take() {
        stdout.read_to_string(&mut text)?;
    }
    if let Some(mut stderr) = process.stderr.take() {
        stderr.read_to_string(&mut complaint)?;
    }
    let status = process.wait()?;
    Ok(Output { text, complaint, status })
}
