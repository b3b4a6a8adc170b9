//! HTTP/1.1 as a service with persistent connections and pipelining.

use std::time::Instant;

use super::host::Hosts;
use super::request::{MAX_HEAD, Rejection, parse};
use super::response::{Response, Status};
use super::routes::{self, StatsSource};
use crate::daemon::ids::BlockId;
use crate::daemon::services::{Io, Service};
use crate::daemon::stats::{Field, Layout, Snapshot, Statistics, StatsBlock, rates};
use crate::event_loop::timers::Clock;

/// Maximum number of pipelined requests in one receive. The response to the last one ends the connection.
const MAX_PIPELINED: usize = 16;

/// Bytes of responses to one receive beyond which the next response ends the connection.
const MAX_OUTPUT: usize = 64 * 1024;

/// Bytes in the write buffers of all connections beyond which long responses are refused (503).
const MAX_BUFFERED: u64 = 32 << 20;

/// Response to a request for a host that is not allowed.
const UNKNOWN_HOST: &str =
    "unknown host name: use an IP address, or allow the name with --admin-host";

/// The part of a request received so far.
#[derive(Debug, Default)]
pub(super) struct Session {
    partial: Vec<u8>,
}

/// The service: answers requests with statistics of `S`.
#[derive(Debug)]
pub(super) struct Http<'a, S> {
    source: S,
    hosts: Hosts<'a>,
    out: Vec<u8>,
    /// `true` if every response ends its connection.
    closing: bool,
}

impl<'a, S: StatsSource> Http<'a, S> {
    pub(super) fn new(source: S, hosts: Hosts<'a>) -> Self {
        Self { source, hosts, out: Vec::new(), closing: false }
    }

    /// Makes every further response end its connection.
    pub(super) fn close(&mut self) {
        self.closing = true;
    }

    /// Appends the responses to all complete requests in `bytes`. Returns the number of bytes they had, and
    /// `true` if the last response ends the connection.
    fn answer_all(&mut self, bytes: &[u8]) -> (usize, bool) {
        let mut done = 0;
        for count in 1.. {
            let request = match parse(&bytes[done..]) {
                Ok(Some((request, length))) => {
                    done += length;
                    request
                }
                Ok(None) => break,
                Err(rejection) => {
                    Response::bare(status_of(rejection)).write(&mut self.out, true, Some("close"));
                    return (bytes.len(), true);
                }
            };
            let response = match self.hosts.allow(request.host) {
                true => routes::answer(&request, &self.source),
                false => Response::line(Status::Misdirected, UNKNOWN_HOST),
            };
            let enough =
                count == MAX_PIPELINED || self.out.len() + response.body.len() > MAX_OUTPUT;
            let more = done < bytes.len();
            let last = !request.keep_alive || request.has_body || self.closing || enough && more;
            let connection = match (last, request.is_http10) {
                (true, _) => Some("close"),
                (false, true) => Some("keep-alive"),
                (false, false) => None,
            };
            response.write(&mut self.out, request.method != "HEAD", connection);
            if last {
                return (bytes.len(), true);
            }
        }
        (done, false)
    }

    /// Returns the responses to the requests that `input` completes, and `true` if the last response ends
    /// the connection.
    fn answer(&mut self, session: &mut Session, input: &[u8]) -> (&[u8], bool) {
        self.out.clear();
        self.out.shrink_to(MAX_OUTPUT);
        let last = if session.partial.is_empty() {
            let (done, last) = self.answer_all(input);
            session.partial.extend_from_slice(&input[done..]);
            last
        } else {
            session.partial.extend_from_slice(input);
            let input = std::mem::take(&mut session.partial);
            let (done, last) = self.answer_all(&input);
            session.partial = input[done..].to_vec();
            last
        };
        (&self.out, last)
    }
}

impl<S: StatsSource> Service for Http<'_, S> {
    type Session = Session;

    // A request must be complete within the idle timeout after the last response, even if it arrives slowly.
    const INPUT_IS_ACTIVITY: bool = false;

    fn received(&mut self, session: &mut Session, io: &mut impl Io, input: &[u8]) {
        let (responses, last) = self.answer(session, input);
        io.send(responses);
        if last {
            io.finish();
        }
    }
}

fn status_of(rejection: Rejection) -> Status {
    match rejection {
        Rejection::Malformed => Status::BadRequest,
        Rejection::TooLong => Status::HeadersTooLarge,
        Rejection::Version => Status::VersionNotSupported,
    }
}

/// The shared statistics as the source of responses.
#[derive(Debug)]
pub(super) struct Shared<'a> {
    pub(super) layout: Layout<'a>,
    /// Block of this process.
    pub(super) block: StatsBlock<'a>,
    pub(super) clock: Clock,
}

impl Shared<'_> {
    fn uptime_ms(&self) -> u64 {
        self.clock.uptime_ms(Instant::now())
    }
}

impl StatsSource for Shared<'_> {
    fn snapshot(&self) -> Snapshot {
        Snapshot::take(self.layout, self.uptime_ms())
    }

    fn silence_ms(&self) -> u64 {
        rates::silence_ms(self.layout, self.uptime_ms())
    }

    fn is_overloaded(&self) -> bool {
        self.block.get(Field::Buffered) > MAX_BUFFERED
    }
}

/// See [`super::converse`].
pub(super) fn converse<'a>(
    statistics: &Statistics,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<u8>, bool) {
    let (layout, clock) = (statistics.layout(), Clock::start(Instant::now()));
    let shared = Shared { layout, block: statistics.block(BlockId(0)), clock };
    let mut http = Http::new(shared, Hosts::Only(&[]));
    let (mut session, mut said) = (Session::default(), Vec::new());
    for piece in pieces.into_iter().filter(|piece| !piece.is_empty()) {
        let (bytes, last) = http.answer(&mut session, piece);
        said.extend_from_slice(bytes);
        if last {
            return (said, true);
        }
        assert!(session.partial.len() < MAX_HEAD, "no more than a head is kept");
    }
    (said, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEALTH: &str = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";

    fn said(statistics: &Statistics, text: &str) -> (String, bool) {
        let (bytes, last) = converse(statistics, [text.as_bytes()]);
        (String::from_utf8(bytes).expect("text"), last)
    }

    #[test]
    fn pipelined_requests_are_limited() {
        let statistics = Statistics::new().expect("memory");
        for (count, answered, ended) in [(1, 1, false), (16, 16, false), (17, 16, true)] {
            let (text, last) = said(&statistics, &HEALTH.repeat(count));
            assert_eq!(text.matches("HTTP/1.1 200 OK").count(), answered);
            assert_eq!((last, text.contains("Connection: close")), (ended, ended), "{count}");
        }
    }

    #[test]
    fn long_responses_are_refused_while_much_is_unread() {
        let statistics = Statistics::new().expect("memory");
        statistics.block(BlockId(0)).set(Field::Buffered, MAX_BUFFERED + 1);
        for (path, status) in
            [("/", "503"), ("/stats", "503"), ("/metrics", "503"), ("/healthz", "200")]
        {
            let (text, last) = said(&statistics, &HEALTH.replace("/healthz", path));
            assert!(text.starts_with(&format!("HTTP/1.1 {status} ")) && !last, "{path}: {text}");
        }
    }

    #[test]
    fn partial_requests_wait() {
        let statistics = Statistics::new().expect("memory");
        assert_eq!(said(&statistics, "GET /healthz HTTP/1.1\r\nHo"), (String::new(), false));
        let pieces = HEALTH.as_bytes().chunks(3);
        assert_eq!(converse(&statistics, pieces).0, said(&statistics, HEALTH).0.into_bytes());
        let (layout, block) = (statistics.layout(), statistics.block(BlockId(0)));
        let shared = Shared { layout, block, clock: Clock::start(Instant::now()) };
        let mut http = Http::new(shared, Hosts::Only(&[]));
        let mut session = Session::default();
        http.close();
        assert!(http.answer(&mut session, HEALTH.as_bytes()).1, "about to end");
    }
}
