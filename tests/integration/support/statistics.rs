//! Statistics as the daemon dumps them on SIGUSR2.

use nix::sys::signal::Signal;
use serde_json::Value;

use super::{SOON, Server, wait_for};

/// Returns a stats dump, which the controller writes to standard output.
#[track_caller]
pub(crate) fn stats(server: &Server) -> Value {
    let before = server.stdout.lines().len();
    server.signal(Signal::SIGUSR2);
    let line =
        wait_for(SOON, "a line of statistics", || server.stdout.lines().into_iter().nth(before));
    serde_json::from_str(&line.text).unwrap_or_else(|error| panic!("{error}: {}", line.text))
}

/// Returns a total: `total(&stats, "connections_closed/idle")`.
#[track_caller]
pub(crate) fn total(stats: &Value, name: &str) -> u64 {
    let found = stats.pointer(&format!("/totals/{name}")).and_then(Value::as_u64);
    found.unwrap_or_else(|| panic!("no {name} in {}", stats["totals"]))
}

/// Returns the sum of a number over all slots: `sum(&stats, "restarts/signal")`.
#[track_caller]
pub(crate) fn sum(stats: &Value, name: &str) -> u64 {
    let slots = stats["slots"].as_array().expect("there are slots");
    let of_slot = |slot: &Value| slot.pointer(&format!("/{name}")).and_then(Value::as_u64);
    slots.iter().map(|slot| of_slot(slot).unwrap_or_else(|| panic!("no {name} in {slot}"))).sum()
}
