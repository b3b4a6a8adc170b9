//! The load: `tcp-echo bench` on a separate CPU. A wrong byte or a failed connection voids the turn.

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

/// Load of a turn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Load {
    pub connections: u32,
    pub traffic: Traffic,
    pub seconds: f64,
    /// Messages per second on each connection (open loop).
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
            // The port of a closed connection is not reusable for a second.
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

    /// Measures one turn of a server.
    ///
    /// # Errors
    /// The reason why the turn is void, in one line.
    pub(crate) fn run(&self, server: &mut Server, machine: &Environment) -> Result<Sample, String> {
        server.check()?;
        let (before, load_before) = (proc::cpu(server.pid()), ended_cpu());
        let report = self.client(server.address, machine)?;
        server.check()?;
        let (after, load_after) = (proc::cpu(server.pid()), ended_cpu());
        read(&report, after - before, load_after - load_before)
    }

    /// Runs the client and returns its report.
    fn client(&self, address: SocketAddr, machine: &Environment) -> Result<Value, String> {
        let fail = |error: std::io::Error| format!("cannot start the client: {error}");
        let mut command = launch::command(Some(machine.load_cpu), BINARY).map_err(fail)?;
        command.args(self.options(address));
        let Output { stdout, stderr, status } = launch::output(command).map_err(fail)?;
        serde_json::from_str(&stdout).map_err(|_| {
            let said = stderr.lines().last().unwrap_or("no error message");
            format!("the client failed, {status}: {said}")
        })
    }
}

/// Returns the CPU time of all exited children in nanoseconds. Only clients exit; servers run through all
/// turns.
fn ended_cpu() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN);
    usage.map_or(f64::NAN, |used| (used.user_time() + used.system_time()).num_nanoseconds() as f64)
}

/// Reads the report of the client. Any error voids the turn.
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
