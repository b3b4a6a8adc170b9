//! Routes: the resources of the admin process, and the responses.

use super::metrics;
use super::page;
use super::request::Request;
use super::response::{Response, Status};
use crate::daemon::stats::{Phase, SILENCE_MS, Snapshot};
use crate::sys::usage::Usage;

/// Response while the controller gives no sign of life.
const SILENT: &str = "the controller does not respond";

/// The source of responses.
pub(super) trait StatsSource: std::fmt::Debug {
    /// Takes a snapshot of the statistics.
    fn snapshot(&self) -> Snapshot;

    /// Returns the time since the last sign of life of the controller, in milliseconds.
    fn silence_ms(&self) -> u64;

    /// Returns `true` if the write buffers of clients that do not read hold too much.
    fn is_overloaded(&self) -> bool;
}

/// Returns the response to `request`.
pub(super) fn answer(request: &Request<'_>, source: &impl StatsSource) -> Response {
    let Some(resource) = Resource::at(request.path) else {
        return Response::bare(Status::NotFound);
    };
    if !matches!(request.method, "GET" | "HEAD") {
        return Response::bare(Status::MethodNotAllowed);
    }
    if request.has_body {
        return Response::bare(Status::ContentTooLarge);
    }
    match resource {
        Resource::Page | Resource::Stats | Resource::Metrics if source.is_overloaded() => {
            Response::bare(Status::Unavailable)
        }
        Resource::Server => Response::bare(Status::BadRequest),
        Resource::Page => page::response(),
        Resource::Stats => stats(&source.snapshot()),
        Resource::Metrics => {
            let snapshot = source.snapshot();
            metrics::response(&snapshot, &Usage::of(snapshot.pid), &request.accept)
        }
        Resource::Health => match source.silence_ms() {
            0..SILENCE_MS => Response::line(Status::Ok, "alive"),
            _ => Response::line(Status::Unavailable, SILENT),
        },
        Resource::Readiness => readiness(&source.snapshot()),
    }
}

/// The resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Resource {
    /// `*`, the server itself. It has no representation.
    Server,
    Page,
    Stats,
    Metrics,
    Health,
    Readiness,
}

impl Resource {
    fn at(path: &str) -> Option<Self> {
        Some(match path {
            "*" => Self::Server,
            "/" => Self::Page,
            "/stats" => Self::Stats,
            "/metrics" => Self::Metrics,
            "/healthz" | "/health" | "/heartbeat" => Self::Health,
            "/readyz" | "/status" => Self::Readiness,
            _ => return None,
        })
    }
}

fn stats(snapshot: &Snapshot) -> Response {
    match serde_json::to_vec(snapshot) {
        Ok(mut body) => {
            body.push(b'\n');
            let content_type = "application/json";
            Response { status: Status::Ok, content_type, headers: "".into(), body }
        }
        Err(_) => Response::bare(Status::Unavailable),
    }
}

fn readiness(snapshot: &Snapshot) -> Response {
    let (healthy, least) = (snapshot.workers.healthy, snapshot.workers.min_healthy);
    let reason = match snapshot.phase {
        _ if snapshot.ready => return Response::line(Status::Ok, "ready"),
        _ if snapshot.controller_is_silent() => SILENT.into(),
        Phase::Starting => "starting".into(),
        Phase::Draining => "draining".into(),
        Phase::Serving | Phase::Reloading => {
            format!("{healthy} of {} workers are healthy, {least} needed", snapshot.workers.wanted)
        }
    };
    Response::line(Status::Unavailable, &reason)
}
