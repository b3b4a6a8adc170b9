//! The load: `tcp-echo bench` on a CPU of its own. It compares every byte; one that is wrong, or a
//! connection that fails, voids the turn.

use std::net::SocketAddr;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use serde_json::Value;

use crate::cases::Traffic;
use crate::environment::Environment;
use crate::launch::{self, Output};
use crate::measure::Sample;
use crate::proc;
use crate::server::{BINARY, Server};

/// What the client is to do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Load {
    /// Connections at once.
    pub connections: u32,
    /// What they do.
    pub traffic: Traffic,
    /// For so long.
    pub seconds: f64,
    /// Messages a second on each connection, at times of their own (open loop).
    pub rate: Option<f64>,
}

impl Load {
    fn options(&self, address: SocketAddr) -> Vec<String> {
        let Self { connections, traffic, seconds, rate } = *self;
        let mut line = format!("bench {address} --json -c {connections} -T {seconds}");
        line += &match traffic {
            Traffic::Messages(size) => format!(" --message-size {size}"),
            Traffic::Pipelined(size) => format!(" --message-size {size} --pipeline 16"),
            Traffic::Stream => " --stream".to_owned(),
            // Each connection needs a port, which rests for a second when it is over.
            Traffic::Churn => {
                let sources: Vec<String> = (1..=20).map(|n| format!("127.0.0.{n}")).collect();
                format!(" --channel-lifetime 0 --source-ip {}", sources.join(","))
            }
        };
        if let Some(rate) = rate {
            line += &format!(" -r {rate:.3} --connect-rate 20000");
        }
        line.split(' ').map(str::to_owned).collect()
    }

    /// One turn of a server.
    ///
    /// # Errors
    /// What voids it, in a line.
    pub(crate) fn run(&self, server: &mut Server, machine: &Environment) -> Result<Sample, String> {
        server.check()?;
        let (before, load_before) = (proc::cpu(server.pid()), ended_cpu());
        let report = self.client(server.address, machine)?;
        server.check()?;
        let (after, load_after) = (proc::cpu(server.pid()), ended_cpu());
        read(&report, after - before, load_after - load_before)
    }

    /// Runs the client to its end and returns what it reports.
    fn client(&self, address: SocketAddr, machine: &Environment) -> Result<Value, String> {
        let fail = |error: std::io::Error| format!("the client cannot be started: {error}");
        let mut command = launch::command(Some(machine.load_cpu), BINARY).map_err(fail)?;
        command.args(self.options(address));
        let Output { text, complaint, status } = launch::output(command).map_err(fail)?;
        serde_json::from_str(&text).map_err(|_| {
            let said = complaint.lines().last().unwrap_or("it says nothing");
            format!("the client failed, {status}: {said}")
        })
    }
}

/// Nanoseconds of processor time of all our processes that have ended: the clients. Servers live on
/// through all turns.
fn ended_cpu() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN);
    usage.map_or(f64::NAN, |used| (used.user_time() + used.system_time()).num_nanoseconds() as f64)
}

/// What the client has reported, if nothing was wrong.
fn read(report: &Value, cpu: f64, load_cpu: f64) -> Result<Sample, String> {
    let errors = report["errors"].as_object().ok_or("the client reports no errors field")?;
    if let Some((cause, count)) = errors.iter().find(|(_, count)| count.as_u64() != Some(0)) {
        let first = report["first_error"].as_str().unwrap_or_default();
        return Err(format!("{count} × {}: {first}", cause.replace('_', " ")));
    }
    let number = |pointer: &str| report.pointer(pointer).and_then(Value::as_f64);
    let need =
        |pointer: &str| number(pointer).ok_or_else(|| format!("the client reports no {pointer}"));
    if need("/bytes_received")? < 1.0 {
        return Err("nothing came back".to_owned());
    }
    // A stream has no messages and no latency.
    let or_none = |pointer: &str| number(pointer).unwrap_or(f64::NAN);
    Ok(Sample {
        cpu,
        load_cpu,
        echoes: need("/messages")?,
        bytes: need("/bytes_received")?,
        connections: need("/connections/opened")?,
        seconds: need("/seconds")?,
        p50: or_none("/latency_us/p50"),
        p99: or_none("/latency_us/p99"),
        p99_9: or_none("/latency_us/p99_9"),
    })
}
