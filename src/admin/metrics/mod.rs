//! The figures for Prometheus: names, units and labels as its conventions have them.
//!
//! What workers count has a label `worker`, the slot: the sum over it is the whole daemon. Whatever
//! the totals have beyond the slots was counted by former daemons and is `worker="0"`.

mod families;
#[cfg(test)]
mod tests;

use std::fmt::{self, Write};

use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;

use self::families::{Controller, Daemon};
use super::response::{Response, Status};
use crate::process::usage::Usage;
use crate::stats::Snapshot;

/// What Prometheus has always understood.
const CLASSIC: &str = "text/plain; version=0.0.4; charset=utf-8";
/// What it prefers today.
const OPEN: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All figures as the client would like to have them.
pub(super) fn response(snapshot: &Snapshot, controller: Usage, accept: &[&str]) -> Response {
    let open = prefers_open(accept);
    let Ok(text) = render(snapshot, controller) else { return Response::bare(Status::Unavailable) };
    Response {
        status: Status::Ok,
        content_type: if open { OPEN } else { CLASSIC },
        headers: "Vary: Accept\r\n".into(),
        body: if open { text } else { classic(&text) }.into(),
    }
}

/// As OpenMetrics.
///
/// # Errors
/// None: writing to a String does not fail.
pub(super) fn render(snapshot: &Snapshot, controller: Usage) -> Result<String, fmt::Error> {
    let mut text = String::new();
    let mut registry = Registry::default();
    let started_at = snapshot.started_at;
    let daemon = Box::new(Daemon { snapshot: snapshot.clone() });
    registry.sub_registry_with_prefix("tcp_echo").register_collector(daemon);
    registry.register_collector(Box::new(Controller { usage: controller, started_at }));
    text::encode(&mut text, &registry)?;
    Ok(text)
}

/// Whether OpenMetrics is wanted at least as much as plain text.
fn prefers_open(accept: &[&str]) -> bool {
    let quality = |kind: &str| {
        let ranges = accept.iter().flat_map(|line| line.split(','));
        let of_kind = ranges.filter_map(|range| {
            let mut parts = range.split(';').map(str::trim);
            parts.next()?.eq_ignore_ascii_case(kind).then_some(())?;
            let q = parts.find_map(|part| part.strip_prefix("q=").or(part.strip_prefix("Q=")));
            Some(q.map_or(1.0, |q| q.parse::<f64>().unwrap_or(0.0)))
        });
        of_kind.fold(0.0, f64::max)
    };
    let open = quality("application/openmetrics-text");
    open > 0.0 && open >= quality("text/plain")
}

/// The same as the classic text format has it: counters are described by their whole name, and there
/// is no mark at the end.
pub(super) fn classic(open: &str) -> String {
    let mut text = String::with_capacity(open.len() + open.len() / 16);
    let mut lines = open.lines().peekable();
    while let Some(line) = lines.next() {
        let described = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' '));
        match described {
            Some((name, help)) => {
                let kind = lines.peek().and_then(|line| line.rsplit(' ').next()).unwrap_or("");
                let total = if kind == "counter" { "_total" } else { "" };
                // Writing to a String does not fail.
                let _ = writeln!(text, "# HELP {name}{total} {help}\n# TYPE {name}{total} {kind}");
                lines.next();
            }
            None if line == "# EOF" => {}
            None => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    text
}
