//! The servers that take part, and running instances of them.

use std::fs::File;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::NamedTempFile;

use crate::bars::{FLOOR, OURS};
use crate::launch::{self, Group};
use crate::options::Guest;
use crate::{peers, proc};

/// The daemon built for this run.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_tcp-echo");

/// Timeout for a server to start.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// Interval between two checks of a starting server.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

#[derive(Clone, Debug, PartialEq)]
enum Kind {
    /// The daemon with additional options.
    Daemon(Vec<String>),
    /// A server in this program, by name.
    Own(&'static str),
    /// A command of the user for sh(1).
    Guest(String),
}

/// A server that takes part.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Contestant {
    pub name: String,
    kind: Kind,
}

impl Contestant {
    /// Returns tcp-echo, the floor, the peers, and the guests.
    pub(crate) fn all(guests: &[Guest]) -> Vec<Self> {
        let own = |name| Self { name: String::from(name), kind: Kind::Own(name) };
        let ours = Self { name: OURS.to_owned(), kind: Kind::Daemon(options(&["--workers", "1"])) };
        let mut all = vec![ours, own(FLOOR), own("tokio"), own("threads")];
        all.extend(guests.iter().map(|guest| Self {
            name: guest.name.clone(),
            kind: Kind::Guest(guest.command.clone()),
        }));
        all
    }

    /// Adds options if this is tcp-echo.
    pub(crate) fn with(&self, more: &[&str]) -> Self {
        let mut copy = self.clone();
        if let Kind::Daemon(given) = &mut copy.kind {
            given.extend(options(more));
        }
        copy
    }

    /// Changes the name.
    pub(crate) fn named(&self, name: impl Into<String>) -> Self {
        Self { name: name.into(), ..self.clone() }
    }

    /// Returns `true` for the server with a thread for each connection.
    pub(crate) fn is_threads(&self) -> bool {
        self.kind == Kind::Own("threads")
    }

    /// Starts the server on a CPU, or on any CPU, and waits until it serves.
    ///
    /// # Errors
    /// The reason in one line.
    pub(crate) fn start(&self, cpu: Option<usize>) -> Result<Server, String> {
        let fail = |error: std::io::Error| format!("cannot start {}: {error}", self.name);
        let log = NamedTempFile::new().map_err(fail)?;
        let mut port = None;
        let mut command = match &self.kind {
            Kind::Daemon(options) => {
                let mut command = launch::command(cpu, BINARY).map_err(fail)?;
                // A long measurement must not run into the default idle timeout.
                command.args(["--listen", "127.0.0.1", "--port", "0", "--idle-timeout", "1h"]);
                command.args(options);
                command
            }
            Kind::Own(name) => {
                let program = std::env::current_exe().map_err(fail)?;
                let mut command = launch::command(cpu, &program.to_string_lossy()).map_err(fail)?;
                command.args([peers::SERVE, name]);
                command
            }
            Kind::Guest(line) => {
                let free = free_port().map_err(fail)?;
                port = Some(free);
                let mut command = launch::command(cpu, "sh").map_err(fail)?;
                command.args(["-c", &line.replace("{port}", &free.to_string())]);
                command.env("PORT", free.to_string());
                command
            }
        };
        let file = |log: &NamedTempFile| log.reopen();
        command.stdin(Stdio::null()).stdout(Stdio::from(file(&log).map_err(fail)?));
        command.stderr(Stdio::from(file(&log).map_err(fail)?));
        let group = Group::start(command).map_err(fail)?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port.unwrap_or(0)));
        let mut server = Server { name: self.name.clone(), group, log, address };
        server.wait(port.is_none())?;
        Ok(server)
    }
}

fn options(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

/// Returns a port that is currently free.
fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// A running server, killed on drop with all its processes.
#[derive(Debug)]
pub(crate) struct Server {
    pub name: String,
    group: Group,
    /// Output of the server.
    log: NamedTempFile,
    pub address: SocketAddr,
}

impl Server {
    /// Waits until the server has printed its address or, failing that, accepts a connection.
    fn wait(&mut self, prints_address: bool) -> Result<(), String> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            if prints_address {
                let log = self.log();
                let line = log.lines().find_map(|line| line.split_once("serving on "));
                let word = line.and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
                if let Some(address) = word {
                    self.address = address;
                    return Ok(());
                }
            } else if TcpStream::connect(self.address).is_ok() {
                return Ok(());
            }
            if self.group.has_ended() || Instant::now() > deadline {
                return Err(format!("{} did not start: {}", self.name, self.last_line()));
            }
            thread::sleep(POLL_INTERVAL);
        }
    }

    fn log(&self) -> String {
        let mut text = Vec::new();
        // An unreadable log is treated as empty.
        let _ = File::open(self.log.path()).and_then(|mut file| file.read_to_end(&mut text));
        String::from_utf8_lossy(&text).into_owned()
    }

    fn last_line(&self) -> String {
        let log = self.log();
        log.lines().rfind(|line| !line.is_empty()).unwrap_or("no output").to_owned()
    }

    pub(crate) fn pid(&self) -> i32 {
        self.group.pid()
    }

    pub(crate) fn workers(&self) -> Vec<i32> {
        proc::workers(self.pid())
    }

    /// Checks that the server is running.
    ///
    /// # Errors
    /// The server has died.
    pub(crate) fn check(&mut self) -> Result<(), String> {
        if self.group.has_ended() {
            return Err(format!("died: {}", self.last_line()));
        }
        Ok(())
    }
}
