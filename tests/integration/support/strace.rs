//! System calls of a running process, delayed, failed, or recorded by strace(1).

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::NamedTempFile;

use super::{SOON, lack, skip};

/// Running tracer. Dropping it detaches from the process.
pub(crate) struct Tracer {
    process: Child,
    output: NamedTempFile,
}

impl Tracer {
    /// Applies an `injection` in the syntax of strace(1) to a process:
    /// `splice:delay_enter=1000000`. Returns `None` and skips the test if that is not possible.
    pub(crate) fn inject(pid: i32, injection: &str) -> Option<Self> {
        Self::attach(pid, &["-e", &format!("inject={injection}")])
    }

    /// Traces a process with strace's `options`. Returns `None` and skips the test if that is not
    /// possible.
    pub(crate) fn attach(pid: i32, options: &[&str]) -> Option<Self> {
        let output = NamedTempFile::new().unwrap();
        let mut command = Command::new("strace");
        command.args(options).args(["-p", &pid.to_string(), "-o"]).arg(output.path());
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        let Ok(mut process) = command.spawn() else {
            lack("strace");
            return None;
        };
        let lines = BufReader::new(process.stderr.take().expect("stderr is piped")).lines();
        let (sender, said) = channel();
        thread::spawn(move || lines.map_while(Result::ok).for_each(|line| _ = sender.send(line)));
        let tracer = Self { process, output };
        // "strace: Process 4711 attached", or an error.
        match said.recv_timeout(SOON) {
            Ok(line) if line.ends_with(" attached") => Some(tracer),
            other => {
                skip(&format!("strace cannot trace with {options:?}: {other:?}"));
                None
            }
        }
    }

    /// Returns the completed system calls, one per line.
    pub(crate) fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.output.path()).unwrap();
        let lines = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
        lines.map(str::to_owned).collect()
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // SIGTERM detaches at once; SIGKILL would detach later.
        _ = kill(Pid::from_raw(self.process.id() as i32), Signal::SIGTERM);
        _ = self.process.wait();
    }
}
