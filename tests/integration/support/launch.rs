//! Start of a server: arguments, environment, wrapper commands.

use std::env;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::seccomp::Refusal;
use super::secs;
use super::server::Server;

/// Returns the path of the program under test: `TCP_ECHO_BIN`, or this build's binary.
pub(crate) fn binary() -> PathBuf {
    let other = env::var_os("TCP_ECHO_BIN").map(PathBuf::from);
    other.unwrap_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_tcp-echo")))
}

/// Command that starts the program.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    wrapper: Vec<String>,
    program: PathBuf,
    args: Vec<String>,
    environment: Vec<(String, String)>,
    refusals: Vec<Refusal>,
}

/// Result of a process that has exited.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Exit code; `None` if a signal ended the process.
    pub(crate) code: Option<i32>,
    /// Lines of its standard output.
    pub(crate) stdout: Vec<String>,
    /// Lines of its standard error.
    pub(crate) stderr: Vec<String>,
    /// Duration from start to exit.
    pub(crate) took: Duration,
}

impl Outcome {
    /// Fails unless the process exited with `code` and one line on stderr that contains every name.
    #[track_caller]
    pub(crate) fn assert_one_line(&self, code: i32, names: &[&str]) {
        assert_eq!(self.code, Some(code), "exit code of {self:?}");
        assert_eq!(self.stderr.len(), 1, "exactly one line on stderr: {self:?}");
        for name in names {
            assert!(self.stderr[0].contains(name), "{name:?} is not named: {self:?}");
        }
    }
}

impl Launch {
    /// Prepares the program under test with these arguments and a clean environment.
    pub(crate) fn new(args: &[&str]) -> Self {
        Self {
            wrapper: Vec::new(),
            program: binary(),
            args: args.iter().map(ToString::to_string).collect(),
            environment: Vec::new(),
            refusals: Vec::new(),
        }
    }

    /// Adds a variable to the environment.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds an argument.
    pub(crate) fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.to_owned());
        self
    }

    /// Runs another copy of the program.
    pub(crate) fn program(mut self, path: PathBuf) -> Self {
        self.program = path;
        self
    }

    /// Starts the program through another command, which gets its path and arguments behind its
    /// own: `["unshare", "--fork"]`.
    pub(crate) fn under(mut self, wrapper: &[&str]) -> Self {
        self.wrapper = wrapper.iter().map(ToString::to_string).collect();
        self
    }

    /// Starts the program on a kernel that refuses a socket option.
    pub(crate) fn refusing(mut self, refusal: Refusal) -> Self {
        self.refusals.push(refusal);
        self
    }

    /// Starts the program by a line of shell, in which `"$0" "$@"` stands for it.
    pub(crate) fn under_shell(self, line: &str) -> Self {
        self.under(&["sh", "-c", line])
    }

    /// Starts the server on a free port and waits until it serves.
    pub(crate) fn start(self) -> Server {
        let mut server = self.start_unready();
        server.wait_serving(secs(10));
        server.assert_log_names_the_workers();
        server
    }

    /// Starts the server on a free port without waiting for readiness.
    pub(crate) fn start_unready(mut self) -> Server {
        if !self.args.iter().any(|arg| arg == "--port") {
            self.args.splice(0..0, ["--port".to_owned(), "0".to_owned()]);
        }
        self.spawn()
    }

    /// Runs the program with exactly these arguments until it exits.
    pub(crate) fn run(self) -> Outcome {
        let begin = Instant::now();
        let mut process = self.spawn();
        let code = process.wait_exit(secs(10));
        let took = begin.elapsed();
        let (stdout, stderr) = process.into_output();
        Outcome { code, stdout, stderr, took }
    }

    fn spawn(self) -> Server {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let tag = format!("{}.{number}.", std::process::id());
        let mut command = match self.wrapper.split_first() {
            None => Command::new(&self.program),
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(&self.program);
                command
            }
        };
        for (name, _) in env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("TCP_ECHO_") || text.starts_with("RUST_") {
                command.env_remove(&name);
            }
        }
        command.args(&self.args).envs(self.environment).env("ECHO_SUITE", &tag);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        self.refusals.iter().for_each(|refusal| refusal.install(&mut command));
        let process = command.process_group(0).spawn();
        let process = process.unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        Server::new(process, format!("ECHO_SUITE={tag}"))
    }
}
