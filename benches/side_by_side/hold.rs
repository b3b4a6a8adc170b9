//! A client that keeps connections open: each is echoed once when it is opened, and once more
//! whenever it is asked to. Every byte is compared. It is a process of its own, since a process may
//! have so many descriptors only.

use std::io::{self, BufRead, BufReader, Lines, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::process::{ChildStdin, ChildStdout, Stdio};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use crate::HOLD;
use crate::launch::{self, Group};

/// Connections that are on their way at once: fewer than a queue holds.
const BATCH: u64 = 32;
/// Of the 28 000 ports of an address the kernel gives away every other one first. When these are used
/// up, connect(2) looks at all of them in vain before it turns to the rest.
pub(crate) const CONNECTIONS_OF_AN_ADDRESS: u64 = 10_000;
/// No echo takes longer.
const PATIENCE: Duration = Duration::from_secs(20);
const MESSAGE: usize = 64;

/// What is to be held.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hold {
    /// The server.
    pub address: SocketAddr,
    /// Connections.
    pub count: u64,
    /// The number of the first: no two connections of a run send the same.
    pub first: u64,
}

/// A client at work. When it goes out of scope its connections are closed.
#[derive(Debug)]
pub(crate) struct Holder {
    group: Group,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Holder {
    /// Starts to open connections, on a CPU or anywhere.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn start(hold: Hold, cpu: Option<usize>) -> Result<Self, String> {
        let run = || -> io::Result<Self> {
            let program = std::env::current_exe()?;
            let mut command = launch::command(cpu, &program.to_string_lossy())?;
            let Hold { address, count, first } = hold;
            command.args([HOLD, &address.to_string(), &count.to_string(), &first.to_string()]);
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut group = Group::start(command)?;
            let piped = || io::Error::other("no pipe");
            let input = group.process().stdin.take().ok_or_else(piped)?;
            let output = group.process().stdout.take().ok_or_else(piped)?;
            Ok(Self { group, input, output: BufReader::new(output).lines() })
        };
        run().map_err(|error| format!("a client cannot be started: {error}"))
    }

    /// The same, and waits until all are open.
    ///
    /// # Errors
    /// It cannot be started, or a connection has failed.
    pub(crate) fn open(hold: Hold, cpu: Option<usize>) -> Result<Self, String> {
        let mut holder = Self::start(hold, cpu)?;
        holder.wait()?;
        Ok(holder)
    }

    /// Waits until all connections have echoed what they were to echo last.
    ///
    /// # Errors
    /// One has failed, or a byte was wrong.
    pub(crate) fn wait(&mut self) -> Result<(), String> {
        match self.output.next() {
            Some(Ok(line)) if line == "done" => Ok(()),
            Some(Ok(line)) => Err(line),
            Some(Err(error)) => Err(format!("a client says nothing: {error}")),
            None => Err("a client has died".to_owned()),
        }
    }

    /// Asks for another echo on every connection.
    ///
    /// # Errors
    /// It has died.
    pub(crate) fn ask(&mut self) -> Result<(), String> {
        writeln!(self.input, "again").map_err(|error| format!("a client has died: {error}"))
    }

    /// Its pid.
    pub(crate) fn pid(&self) -> i32 {
        self.group.pid()
    }
}

/// The process itself; ends with its input. Returns what is wrong with the words.
pub(crate) fn run(words: &[String]) -> String {
    let [address, count, first] = words else { return "three words".to_owned() };
    let (Ok(address), Ok(count), Ok(first)) = (address.parse(), count.parse(), first.parse())
    else {
        return "an address and two numbers".to_owned();
    };
    let code = match serve(Hold { address, count, first }) {
        Ok(()) => 0,
        Err(error) => {
            println!("{error}");
            1
        }
    };
    // Without closing one by one: the kernel does that.
    std::process::exit(code)
}

fn serve(hold: Hold) -> Result<(), String> {
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

/// An address of its own for every 10 000 connections. The last byte is neither 0 nor 255.
fn source(number: u64) -> IpAddr {
    let address = number / CONNECTIONS_OF_AN_ADDRESS;
    Ipv4Addr::new(127, 1, (address / 250) as u8, 1 + (address % 250) as u8).into()
}

fn connect(address: SocketAddr, source: IpAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
    socket.bind(&SocketAddr::new(source, 0).into())?;
    socket.connect(&address.into())?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket.into())
}

/// One echo on each of these connections: all are sent, then all must come back.
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

/// Bytes that no other connection and no other round has.
fn message(number: u64, round: u64) -> [u8; MESSAGE] {
    let mut bytes = [0; MESSAGE];
    let mut state = (number << 16) ^ round;
    for piece in bytes.chunks_mut(8) {
        // splitmix64
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        piece.copy_from_slice(&(mixed ^ (mixed >> 31)).to_le_bytes());
    }
    bytes
}
