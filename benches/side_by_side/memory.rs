//! Memory of an idle connection in a server.

use crate::bars::{Bar, OURS};
use crate::bench::Bench;
use crate::cases;
use crate::idle::{IdleClient, IdleLoad};
use crate::proc::{self, Memory};
use crate::server::{Contestant, Server};
use crate::table::{Table, figure, grouped};

/// Number of connections, unless the limit of descriptors is lower.
const COUNT: u64 = 15_000;
/// Number of connections to open and close before, so that one-time allocations do not count.
const WARM_UP: u64 = 200;
/// Maximum number of other descriptors.
const SPARE: u64 = 500;

/// Opens connections to every server, echoes once on each, and measures the growth.
pub(crate) fn run(bench: &mut Bench<'_>) -> Result<(), String> {
    let most = COUNT.min(bench.environment.descriptors.saturating_sub(SPARE));
    println!("\nmemory: an idle connection, after one echo");
    let mut table = Table::new(["server", "connections", "private bytes each", "PSS bytes each"]);
    let mut ours = None;
    for contestant in bench.contestants.clone() {
        let count = if contestant.is_threads() { most.min(cases::MANY.into()) } else { most };
        match measure(bench, &contestant, count) {
            Ok(Memory { private, proportional }) => {
                let cells = [grouped(count as f64), figure(private), figure(proportional)];
                table.row([contestant.name.clone()].into_iter().chain(cells));
                if contestant.name == OURS {
                    ours = Some(private);
                }
            }
            Err(error) => bench.exclude("memory", &contestant.name, &error),
        }
    }
    print!("{}", table.text());
    let what = "memory: an idle connection in a worker";
    bench.bars.push(Bar::at_most(what, 64.0, " bytes", ours.unwrap_or(f64::NAN)));
    Ok(())
}

fn measure(bench: &Bench<'_>, contestant: &Contestant, count: u64) -> Result<Memory, String> {
    let (server_cpu, load_cpu) = (bench.environment.server_cpu, bench.environment.load_cpu);
    let mut server = contestant.start(Some(server_cpu))?;
    let hold = |count, first| IdleLoad { address: server.address, count, first };
    let (before, all) = (hold(WARM_UP, count), hold(count, 0));
    drop(IdleClient::open(before, Some(load_cpu))?);
    let memory = |server: &Server| proc::memory(&server.workers());
    let empty = memory(&server);
    let mut client = IdleClient::open(all, Some(load_cpu))?;
    let full = memory(&server);
    // The connections are still open and served.
    client.request_echo()?;
    client.wait()?;
    server.check()?;
    let each = |full: f64, empty: f64| (full - empty) / count as f64;
    Ok(Memory {
        private: each(full.private, empty.private),
        proportional: each(full.proportional, empty.proportional),
    })
}
