//! System calls of a running process that are delayed or fail: strace(1) with `--inject`.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{SOON, lack, skip};

/// A tracer at work. When it goes out of scope the process runs on undisturbed.
pub(crate) struct Tracer(Child);

impl Tracer {
    /// Does `injection` to the system calls of a process, as strace(1) has it:
    /// `splice:delay_enter=1000000`. `None`, with the reason printed, where that is not possible.
    pub(crate) fn inject(pid: i32, injection: &str) -> Option<Self> {
        let mut command = Command::new("strace");
        command.args(["-p", &pid.to_string(), "-o", "/dev/null", "-e"]);
        command.arg(format!("inject={injection}")).stdin(Stdio::null()).stderr(Stdio::piped());
        let Ok(mut process) = command.spawn() else {
            lack("strace");
            return None;
        };
        let lines = BufReader::new(process.stderr.take().expect("stderr is piped")).lines();
        let (sender, said) = channel();
        thread::spawn(move || lines.map_while(Result::ok).for_each(|line| _ = sender.send(line)));
        let tracer = Self(process);
        // "strace: Process 4711 attached", or what is in the way.
        match said.recv_timeout(SOON) {
            Ok(line) if line.ends_with(" attached") => Some(tracer),
            other => {
                skip(&format!("strace cannot inject {injection}: {other:?}"));
                None
            }
        }
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // SIGTERM lets go of the process; SIGKILL would do, too, but only later.
        _ = kill(Pid::from_raw(self.0.id() as i32), Signal::SIGTERM);
        _ = self.0.wait();
    }
}
