//! Very many connections at once: opened, echoed, all held, and all echoed again.

use std::fs;
use std::time::Instant;

use crate::bars::Bar;
use crate::environment::{Environment, setting};
use crate::idle::{IdleClient, IdleLoad};
use crate::limits;
use crate::proc::{self, Memory};
use crate::server::{Contestant, Server};
use crate::table::{Table, figure, grouped};

/// Number of connections to reach.
const BAR: u64 = 1_000_000;
const WORKERS: u64 = 64;
/// Maximum number of connections of a client process.
const PER_CLIENT: u64 = 18_000;

/// Memory of the machine at one time.
#[derive(Clone, Copy, Debug)]
struct MemoryUse {
    workers: Memory,
    clients: Memory,
    /// Unused memory. `MemAvailable` would include half of the memory of sockets.
    free: f64,
    slab: f64,
}

impl MemoryUse {
    fn read(workers: &[i32], clients: &[IdleClient]) -> Self {
        let pids: Vec<i32> = clients.iter().map(IdleClient::pid).collect();
        Self {
            workers: proc::memory(workers),
            clients: proc::memory(&pids),
            free: ["MemFree", "Cached", "Buffers"].map(proc::meminfo).into_iter().sum(),
            slab: proc::meminfo("Slab"),
        }
    }
}

/// Opens `count` connections, prints their cost, and returns their bars.
///
/// # Errors
/// A limit of the machine, a failed connection, or a wrong byte.
pub(crate) fn run(count: u32, machine: &Environment) -> Result<Vec<Bar>, String> {
    let count = u64::from(count);
    print!("{}", machine.describe());
    let _raised = limits::check(count, WORKERS, machine)?;
    let start = Instant::now();
    let workers = WORKERS.to_string();
    let options = ["--workers", &workers, "--idle-timeout", "0"];
    let mut server = Contestant::all(&[])[0].with(&options).start(None)?;
    let pids = server.workers();
    let before = MemoryUse::read(&pids, &[]);
    println!("\nmillion: {} connections, {WORKERS} workers", grouped(count as f64));

    let mut clients = start_clients(count, &server, machine)?;
    for client in &mut clients {
        client.wait()?;
    }
    let opened = start.elapsed();
    let after = MemoryUse::read(&pids, &clients);
    let sockets = sockets_in_use();
    let (least, most) = shares(&pids);

    let again = Instant::now();
    clients.iter_mut().try_for_each(IdleClient::request_echo)?;
    clients.iter_mut().try_for_each(IdleClient::wait)?;
    let echoed = again.elapsed();
    server.check()?;
    if server.workers() != pids {
        return Err("a worker has died".to_owned());
    }
    let rate = count as f64 / opened.as_secs_f64();
    println!(
        "  opened, and echoed once each:  {} in {:.1} s, {} a second\n  \
         sockets in use meanwhile:      {sockets} (both ends), {} to {} a worker\n  \
         echoed again, all of them:     {} in {:.1} s",
        grouped(count as f64),
        opened.as_secs_f64(),
        grouped(rate),
        grouped(least as f64),
        grouped(most as f64),
        grouped(count as f64),
        echoed.as_secs_f64(),
    );
    print!("{}", table(count, &before, &after).text());
    drop(clients);
    drop(server);
    println!("  all of it took {:.1} s", start.elapsed().as_secs_f64());
    // With fewer connections, the fixed memory of the workers would distort the result.
    Ok(if count >= BAR { reached(count, &before, &after) } else { Vec::new() })
}

fn reached(count: u64, before: &MemoryUse, after: &MemoryUse) -> Vec<Bar> {
    let each = (after.workers.private - before.workers.private) / count as f64;
    vec![
        Bar::at_least("million: connections at once, each served", BAR as f64, count as f64),
        Bar::at_most("million: memory of an idle connection in a worker", 64.0, " bytes", each),
    ]
}

/// Starts as many client processes as needed.
fn start_clients(
    count: u64,
    server: &Server,
    machine: &Environment,
) -> Result<Vec<IdleClient>, String> {
    let most = PER_CLIENT.min(machine.descriptors.saturating_sub(500)).max(1);
    let processes = count.div_ceil(most);
    let mut clients = Vec::new();
    for process in 0..processes {
        let (first, end) = (count * process / processes, count * (process + 1) / processes);
        let hold = IdleLoad { address: server.address, count: end - first, first };
        clients.push(IdleClient::start(hold, None)?);
    }
    println!("  {processes} clients of up to {} connections", grouped(most as f64));
    Ok(clients)
}

/// Returns the number of TCP sockets in this network namespace.
fn sockets_in_use() -> String {
    let text = setting("/proc/net/sockstat");
    let line = text.lines().find_map(|line| line.strip_prefix("TCP: inuse "));
    let number = line.and_then(|line| line.split(' ').next()?.parse::<f64>().ok());
    number.map_or_else(|| "?".to_owned(), grouped)
}

/// Returns the lowest and highest number of descriptors of a worker.
fn shares(workers: &[i32]) -> (usize, usize) {
    let open = |pid: &i32| fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
    let counts: Vec<usize> = workers.iter().map(open).collect();
    (counts.iter().copied().min().unwrap_or(0), counts.iter().copied().max().unwrap_or(0))
}

fn table(count: u64, before: &MemoryUse, after: &MemoryUse) -> Table {
    let user = |at: &MemoryUse| at.workers.private + at.clients.private;
    let taken = before.free - after.free;
    let mut table = Table::new(["memory", "MiB", "bytes a connection"]);
    for (name, bytes) in [
        ("workers, private", after.workers.private - before.workers.private),
        ("workers, PSS", after.workers.proportional - before.workers.proportional),
        ("kernel, both ends", taken - (user(after) - user(before))),
        ("of that slab", after.slab - before.slab),
        ("clients, private", after.clients.private - before.clients.private),
        ("everything together", taken),
    ] {
        let each = figure(bytes / count as f64);
        table.row([name.to_owned(), grouped(bytes / f64::from(1 << 20)), each]);
    }
    table
}
