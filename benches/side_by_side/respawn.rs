//! Outage of a slot after its worker is killed.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::bars::{Bar, OURS};
use crate::bench::Bench;
use crate::measure::median;
use crate::server::Contestant;
use crate::table::figure;

/// The bar in milliseconds.
const MAX_OUTAGE: f64 = 20.0;
/// Timeout of an outage.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Kills the only worker of a server repeatedly. Each time it is a new server, because repeated crashes
/// cause a restart backoff.
pub(crate) fn run(bench: &mut Bench<'_>) -> Result<(), String> {
    let ours = bench.contestants[0].clone();
    let rounds = bench.options.rounds;
    let mut times = Vec::new();
    for _ in 0..rounds {
        match outage(&ours, bench.environment.server_cpu) {
            Ok(time) => times.push(time.as_secs_f64() * 1e3),
            Err(error) => bench.exclude("respawn", OURS, &error),
        }
    }
    println!("\nrespawn: from the death of the only worker to the next echo, {rounds} times");
    let worst = times.iter().copied().fold(f64::NAN, f64::max);
    let middle = median(times);
    println!("  median {} ms, worst {} ms", figure(middle), figure(worst));
    let what = "respawn: worker killed, slot serving again";
    bench.bars.push(Bar::at_most(what, MAX_OUTAGE, " ms", middle));
    Ok(())
}

fn outage(ours: &Contestant, cpu: usize) -> Result<Duration, String> {
    let mut server = ours.start(Some(cpu))?;
    echo(server.address).map_err(|error| format!("no echo: {error}"))?;
    let [worker] = server.workers()[..] else { return Err("not one worker".to_owned()) };
    kill(Pid::from_raw(worker), Signal::SIGKILL).map_err(|error| format!("kill: {error}"))?;
    let begin = Instant::now();
    while let Err(error) = echo(server.address) {
        server.check()?;
        if begin.elapsed() > TIMEOUT {
            return Err(format!("no echo after the worker's death: {error}"));
        }
    }
    let time = begin.elapsed();
    match server.workers()[..] {
        [successor] if successor != worker => Ok(time),
        _ => Err("the killed worker has no successor".to_owned()),
    }
}

fn echo(address: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.write_all(b"still there?")?;
    let mut back = [0; 12];
    stream.read_exact(&mut back)?;
    if &back != b"still there?" { Err(io::Error::other("a wrong byte")) } else { Ok(()) }
}
