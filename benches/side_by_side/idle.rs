//! A client that keeps connections open: it echoes once on each after opening it, and again on request,
//! and verifies every byte. It is a separate process because the number of descriptors of a process is
//! limited.

use std::io::{self, BufRead, BufReader, Lines, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::process::{ChildStdin, ChildStdout, Stdio};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use crate::launch::{self, Group};

/// First argument with which this program starts itself as an idle client.
pub(crate) const COMMAND: &str = ".idle";

/// Connections to open at once; fewer than an accept queue holds.
const BATCH: u64 = 32;
/// Connections per source address. Of its 28 000 ports, connect(2) uses every other one first, and becomes
/// slow when these are exhausted.
pub(crate) const CONNECTIONS_PER_ADDRESS: u64 = 10_000;
/// Timeout of an echo.
const TIMEOUT: Duration = Duration::from_secs(20);
const MESSAGE: usize = 64;

/// Connections to keep open.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IdleLoad {
    pub address: SocketAddr,
    pub count: u64,
    /// Number of the first connection. Numbers are unique in a run, so every connection sends different
    /// bytes.
    pub first: u64,
}

/// A running client. On drop its connections are closed.
#[derive(Debug)]
pub(crate) struct IdleClient {
    group: Group,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl IdleClient {
    /// Starts a client on a CPU, or on any CPU, without waiting for its connections.
    ///
    /// # Errors
    /// The process cannot be started.
    pub(crate) fn start(hold: IdleLoad, cpu: Option<usize>) -> Result<Self, String> {
        let run = || -> io::Result<Self> {
            let program = std::env::current_exe()?;
            let mut command = launch::command(cpu, &program.to_string_lossy())?;
            let IdleLoad { address, count, first } = hold;
            command.args([COMMAND, &address.to_string(), &count.to_string(), &first.to_string()]);
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut group = Group::start(command)?;
            let piped = || io::Error::other("no pipe");
            let input = group.process().stdin.take().ok_or_else(piped)?;
            let output = group.process().stdout.take().ok_or_else(piped)?;
            Ok(Self { group, input, output: BufReader::new(output).lines() })
        };
        run().map_err(|error| format!("cannot start a client: {error}"))
    }

    /// Starts a client and waits until all its connections are open.
    ///
    /// # Errors
    /// The process cannot be started, or a connection has failed.
    pub(crate) fn open(hold: IdleLoad, cpu: Option<usize>) -> Result<Self, String> {
        let mut client = Self::start(hold, cpu)?;
        client.wait()?;
        Ok(client)
    }

    /// Waits until the current echo is complete on all connections.
    ///
    /// # Errors
    /// A connection has failed, or a byte was wrong.
    pub(crate) fn wait(&mut self) -> Result<(), String> {
        match self.output.next() {
            Some(Ok(line)) if line == "done" => Ok(()),
            Some(Ok(line)) => Err(line),
            Some(Err(error)) => Err(format!("a client says nothing: {error}")),
            None => Err("a client has died".to_owned()),
        }
    }

    /// Requests another echo on every connection.
    ///
    /// # Errors
    /// The client has died.
    pub(crate) fn request_echo(&mut self) -> Result<(), String> {
        writeln!(self.input, "again").map_err(|error| format!("a client has died: {error}"))
    }

    pub(crate) fn pid(&self) -> i32 {
        self.group.pid()
    }
}

/// Runs the client until the end of its standard input. Returns an error only for invalid arguments.
pub(crate) fn run(words: &[String]) -> String {
    let [address, count, first] = words else { return "three words".to_owned() };
    let (Ok(address), Ok(count), Ok(first)) = (address.parse(), count.parse(), first.parse())
    else {
        return "an address and two numbers".to_owned();
    };
    let code = match serve(IdleLoad { address, count, first }) {
        Ok(()) => 0,
        Err(error) => {
            println!("{error}");
            1
        }
    };
    // The kernel closes the connections faster than drop does.
    std::process::exit(code)
}

fn serve(hold: IdleLoad) -> Result<(), String> {
    let mut streams = Vec::with_capacity(hold.count as usize);
    for start in (0..hold.count).step_by(BATCH as usize) {
        for number in start..hold.count.min(start + BATCH) {
            let number = hold.first + number;
            let stream = connect(hold.address, source(number));
            streams.push(stream.map_err(|error| format!("connection {number}: {error}"))?);
        }
        echo(&mut streams[start as usize..], hold.first + start, 0)?;
    }
    println!("done");
    for (round, line) in (1..).zip(io::stdin().lines()) {
        line.map_err(|error| error.to_string())?;
        for (start, batch) in (0..).step_by(BATCH as usize).zip(streams.chunks_mut(BATCH as usize))
        {
            echo(batch, hold.first + start, round)?;
        }
        println!("done");
    }
    Ok(())
}

/// Returns the source address of a connection. The last byte is neither 0 nor 255.
fn source(number: u64) -> IpAddr {
    let address = number / CONNECTIONS_PER_ADDRESS;
    Ipv4Addr::new(127, 1, (address / 250) as u8, 1 + (address % 250) as u8).into()
}

fn connect(address: SocketAddr, source: IpAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
    socket.bind(&SocketAddr::new(source, 0).into())?;
    socket.connect(&address.into())?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    Ok(socket.into())
}

/// Echoes once on each connection: sends all messages, then receives all.
fn echo(streams: &mut [TcpStream], first: u64, round: u64) -> Result<(), String> {
    let fail = |number: u64, error: io::Error| format!("connection {number}: {error}");
    for (number, stream) in (first..).zip(streams.iter_mut()) {
        stream.write_all(&message(number, round)).map_err(|error| fail(number, error))?;
    }
    for (number, stream) in (first..).zip(streams) {
        let mut back = [0; MESSAGE];
        stream.read_exact(&mut back).map_err(|error| fail(number, error))?;
        if back != message(number, round) {
            return Err(format!("connection {number}: a wrong byte came back"));
        }
    }
    Ok(())
}

/// Returns random bytes that depend on the connection and the round.
fn message(number: u64, round: u64) -> [u8; MESSAGE] {
    let mut bytes = [0; MESSAGE];
    fastrand::Rng::with_seed((number << 16) ^ round).fill(&mut bytes);
    bytes
}
