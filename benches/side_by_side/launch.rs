//! Child processes: pinned to a CPU, each the leader of a process group, and killed with the parent.

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

use crate::proc;

/// First argument with which this program starts itself to become another one on a given CPU.
pub(crate) const PINNED: &str = ".pinned";

/// Leaders of all running groups.
static GROUPS: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

fn groups() -> MutexGuard<'static, BTreeSet<i32>> {
    GROUPS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns a command that runs `program` on `cpu`, or on any CPU, and dies with this process. It starts
/// this program, which sets both up and then becomes the other one.
///
/// # Errors
/// The path of this program is unknown.
pub(crate) fn command(cpu: Option<usize>, program: &str) -> io::Result<Command> {
    let mut command = Command::new(env::current_exe()?);
    let cpu = cpu.map_or_else(|| "any".to_owned(), |cpu| cpu.to_string());
    command.args([PINNED, &process::id().to_string(), &cpu, program]).process_group(0);
    // Variables of the user's daemon must not configure this one.
    for (name, _) in
        env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TCP_ECHO_"))
    {
        command.env_remove(name);
    }
    Ok(command)
}

/// Child side of [`command`]. Returns only an error.
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
    // The parent may have died before prctl(2).
    if parent_id().to_string() != *starter {
        return "the parent has exited".to_owned();
    }
    let error = Command::new(program).args(arguments).exec();
    format!("{program}: {error}")
}

/// A process and its group, both killed on drop.
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
        // Locked until the process is recorded, so that an interrupt does not miss it.
        let mut groups = groups();
        let process = command.spawn()?;
        groups.insert(process.id() as i32);
        Ok(Self { process })
    }

    pub(crate) fn process(&mut self) -> &mut Child {
        &mut self.process
    }

    pub(crate) fn pid(&self) -> i32 {
        self.process.id() as i32
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        !matches!(self.process.try_wait(), Ok(None))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let leader = self.pid();
        // Descendants in other groups can only be found while their ancestors live.
        let members = proc::tree(leader);
        let _ = killpg(Pid::from_raw(leader), Signal::SIGKILL);
        for pid in members {
            // Most are already dead.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let _ = self.process.wait();
        groups().remove(&leader);
    }
}

/// On INT, TERM, and HUP, kills all groups, calls `restore`, and exits.
///
/// # Errors
/// No thread, or no descriptor.
pub(crate) fn kill_all_on_interrupt(restore: fn()) -> io::Result<()> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM])?;
    thread::Builder::new().spawn(move || {
        let signal = signals.forever().next().unwrap_or(SIGTERM);
        // The lock is kept until the exit, so that nothing is started meanwhile.
        let groups = groups();
        for &leader in groups.iter() {
            let _ = killpg(Pid::from_raw(leader), Signal::SIGKILL);
        }
        restore();
        process::exit(128 + signal);
    })?;
    Ok(())
}

/// Output and exit status of a client.
#[derive(Debug)]
pub(crate) struct Output {
    pub stdout: String,
    pub stderr: String,
    pub status: ExitStatus,
}

/// Runs a command made by [`command`] and returns its output.
///
/// # Errors
/// Those of fork(2) and execve(2), and output that is not UTF-8.
pub(crate) fn output(mut command: Command) -> io::Result<Output> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut group = Group::start(command)?;
    let process = group.process();
    let (mut stdout, mut stderr) = (String::new(), String::new());
    if let Some(mut pipe) = process.stdout.take() {
        pipe.read_to_string(&mut stdout)?;
    }
    // The client prints only a few lines here, which fit into the pipe.
    if let Some(mut pipe) = process.stderr.take() {
        pipe.read_to_string(&mut stderr)?;
    }
    let status = process.wait()?;
    Ok(Output { stdout, stderr, status })
}
