//! `/metrics`: statistics for Prometheus, with the names, units, and labels that its conventions ask
//! for.
//!
//! Counters of workers have the label `worker`, the slot number; their sum is the total of the daemon.
//! The part of a total that former daemons have counted (`--state-file`) has `worker="0"`.

mod exposition;
mod families;
#[cfg(test)]
mod tests;

use self::exposition::{Exposition, Format};
use super::response::{Response, Status};
use crate::daemon::stats::Snapshot;
use crate::sys::usage::Usage;

/// Returns the response to a request with these `Accept` header lines. `usage` is the controller's.
pub(super) fn response(snapshot: &Snapshot, usage: &Usage, accept: &[&str]) -> Response {
    let format = Format::accepted_by(accept);
    Response {
        status: Status::Ok,
        content_type: format.content_type(),
        headers: "Vary: Accept\r\n".into(),
        body: render(format, snapshot, usage).into(),
    }
}

fn render(format: Format, snapshot: &Snapshot, usage: &Usage) -> String {
    let mut out = Exposition::new(format);
    families::process(&mut out, usage, snapshot.started_at);
    families::daemon(&mut out, snapshot);
    families::workers(&mut out, snapshot);
    families::slots(&mut out, snapshot);
    out.finish()
}
