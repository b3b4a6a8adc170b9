//! The servers that take part, and one of them running.

use std::fs::File;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::NamedTempFile;

use crate::bars::{FLOOR, OURS};
use crate::launch::{self, Group};
use crate::words::Guest;
use crate::{SERVE, proc};

/// The daemon that was built for this run.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_tcp-echo");

/// A server must serve after so long.
const BOOT: Duration = Duration::from_secs(10);
/// How long to wait before another look.
const GLANCE: Duration = Duration::from_millis(5);

#[derive(Clone, Debug, PartialEq)]
enum Kind {
    /// The daemon, with options beside those of every case.
    Daemon(Vec<String>),
    /// This program, as the server of this name.
    Own(&'static str),
    /// What the user wants, for the shell.
    Guest(String),
}

/// A server that takes part.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Contestant {
    /// Its name in the tables.
    pub name: String,
    kind: Kind,
}

impl Contestant {
    /// Ours, the floor, the peers, and the guests.
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

    /// The same with these options; nothing changes for servers that are not ours.
    pub(crate) fn with(&self, more: &[&str]) -> Self {
        let mut copy = self.clone();
        if let Kind::Daemon(given) = &mut copy.kind {
            given.extend(options(more));
        }
        copy
    }

    /// The same under another name.
    pub(crate) fn named(&self, name: impl Into<String>) -> Self {
        Self { name: name.into(), ..self.clone() }
    }

    /// Whether it has a thread for each connection.
    pub(crate) fn is_threads(&self) -> bool {
        self.kind == Kind::Own("threads")
    }

    /// Starts it on a CPU, or anywhere, and waits until it serves.
    ///
    /// # Errors
    /// A line: why it does not serve.
    pub(crate) fn start(&self, cpu: Option<usize>) -> Result<Server, String> {
        let fail = |error: std::io::Error| format!("{} cannot be started: {error}", self.name);
        let log = NamedTempFile::new().map_err(fail)?;
        let mut port = None;
        let mut command = match &self.kind {
            Kind::Daemon(options) => {
                let mut command = launch::command(cpu, BINARY).map_err(fail)?;
                // No connection is to be closed because we look at it for long.
                command.args(["--listen", "127.0.0.1", "--port", "0", "--idle-timeout", "1h"]);
                command.args(options);
                command
            }
            Kind::Own(name) => {
                let program = std::env::current_exe().map_err(fail)?;
                let mut command = launch::command(cpu, &program.to_string_lossy()).map_err(fail)?;
                command.args([SERVE, name]);
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

/// A port that nobody has right now.
fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// A server at work. When it goes out of scope it is killed with all its processes.
#[derive(Debug)]
pub(crate) struct Server {
    /// Its name in the tables.
    pub name: String,
    group: Group,
    /// What it has printed.
    log: NamedTempFile,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Server {
    /// Waits until it serves: until it says where, or until a connection is accepted.
    fn wait(&mut self, says_where: bool) -> Result<(), String> {
        let deadline = Instant::now() + BOOT;
        loop {
            if says_where {
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
                return Err(format!("{} does not serve: {}", self.name, self.last_words()));
            }
            thread::sleep(GLANCE);
        }
    }

    fn log(&self) -> String {
        let mut text = Vec::new();
        // What cannot be read has not been said.
        let _ = File::open(self.log.path()).and_then(|mut file| file.read_to_end(&mut text));
        String::from_utf8_lossy(&text).into_owned()
    }

    /// The last line that it has printed.
    fn last_words(&self) -> String {
        let log = self.log();
        log.lines().rfind(|line| !line.is_empty()).unwrap_or("it says nothing").to_owned()
    }

    /// Its first process.
    pub(crate) fn pid(&self) -> i32 {
        self.group.pid()
    }

    /// The processes that do the work.
    pub(crate) fn workers(&self) -> Vec<i32> {
        proc::workers(self.pid())
    }

    /// Says so if it has died.
    ///
    /// # Errors
    /// It has.
    pub(crate) fn check(&mut self) -> Result<(), String> {
        if self.group.has_ended() {
            return Err(format!("it has died: {}", self.last_words()));
        }
        Ok(())
    }
}
