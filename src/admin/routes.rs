//! What is there to be asked for, and the answers.

use super::metrics;
use super::page;
use super::request::Request;
use super::response::{Response, Status};
use crate::process::usage::Usage;
use crate::stats::{Phase, SILENCE_MS, Snapshot};

/// What is said when the controller has not been heard of.
const SILENT: &str = "the controller does not respond";

/// What answers are made from.
pub(super) trait Source {
    /// All figures now.
    fn snapshot(&self) -> Snapshot;

    /// How long ago the controller's loop turned, in milliseconds.
    fn silence_ms(&self) -> u64;

    /// Whether too much waits already for clients who do not read.
    fn is_overloaded(&self) -> bool;
}

/// The answer to `request`.
pub(super) fn answer(request: &Request<'_>, source: &impl Source) -> Response {
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
            metrics::response(&snapshot, Usage::of(snapshot.pid), &request.accept)
        }
        Resource::Health => match source.silence_ms() {
            0..SILENCE_MS => Response::line(Status::Ok, "alive"),
            _ => Response::line(Status::Unavailable, SILENT),
        },
        Resource::Readiness => readiness(&source.snapshot()),
    }
}

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Resource {
    /// `*`: the server itself, about which there is nothing to GET.
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
