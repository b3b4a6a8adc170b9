//! HTTP/1.1 as a service: requests in, responses out, for as long as both sides want.

use std::time::Instant;

use super::host::Hosts;
use super::request::{LONGEST_HEAD, Refusal, parse};
use super::response::{Response, Status};
use super::routes::{self, Source};
use crate::event_loop::timers::Clock;
use crate::service::{Answer, Service};
use crate::stats::{Layout, Seat, Snapshot, Statistics, Word, rates};

/// Requests answered to one piece of input; the last answer ends the connection.
const MOST_AT_ONCE: usize = 16;

/// Bytes of answers to one piece of input, beyond which the next answer is the last.
const LONG: usize = 64 * 1024;

/// Bytes that wait for clients who do not read, all together; beyond this nobody gets anything big.
const MOST_UNREAD: u64 = 32 << 20;

/// What is said to a request for a host that is not known.
const UNKNOWN_HOST: &str =
    "unknown host name: use an IP address, or allow the name with --admin-host";

/// What was received of a request that is not whole yet. Empty, it costs no memory.
#[derive(Debug, Default)]
pub(super) struct Session {
    begun: Vec<u8>,
}

/// Answers requests from `S`.
#[derive(Debug)]
pub(super) struct Http<'a, S> {
    source: S,
    hosts: Hosts<'a>,
    out: Vec<u8>,
    /// No connection is to go on after its next answer.
    closing: bool,
}

impl<'a, S: Source> Http<'a, S> {
    /// Answers from `source`, to requests for `hosts`.
    pub(super) fn new(source: S, hosts: Hosts<'a>) -> Self {
        Self { source, hosts, out: Vec::new(), closing: false }
    }

    /// From now on every answer is its connection's last.
    pub(super) fn close(&mut self) {
        self.closing = true;
    }

    /// Appends the answers to what is in `bytes`; returns how many bytes were answered, and whether
    /// the last answer ends the connection.
    fn answer_all(&mut self, bytes: &[u8]) -> (usize, bool) {
        let mut done = 0;
        for count in 1.. {
            let request = match parse(&bytes[done..]) {
                Ok(Some((request, length))) => {
                    done += length;
                    request
                }
                Ok(None) => break,
                Err(refusal) => {
                    Response::bare(status_of(refusal)).write(&mut self.out, true, Some("close"));
                    return (bytes.len(), true);
                }
            };
            let response = match self.hosts.allow(request.host) {
                true => routes::answer(&request, &self.source),
                false => Response::line(Status::Misdirected, UNKNOWN_HOST),
            };
            let enough = count == MOST_AT_ONCE || self.out.len() + response.body.len() > LONG;
            let more = done < bytes.len();
            let last = !request.keep_alive || request.has_body || self.closing || enough && more;
            let connection = match (last, request.old) {
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
}

impl<S: Source> Service for Http<'_, S> {
    type Session = Session;

    /// A request has to be whole some time after the last answer, however slowly it drips in.
    const INPUT_IS_ACTIVITY: bool = false;

    fn answer<'a>(&'a mut self, session: &mut Session, input: &'a [u8]) -> Answer<'a> {
        self.out.clear();
        self.out.shrink_to(LONG);
        let last = if session.begun.is_empty() {
            let (done, last) = self.answer_all(input);
            session.begun.extend_from_slice(&input[done..]);
            last
        } else {
            session.begun.extend_from_slice(input);
            let begun = std::mem::take(&mut session.begun);
            let (done, last) = self.answer_all(&begun);
            session.begun = begun[done..].to_vec();
            last
        };
        Answer { bytes: &self.out, last }
    }
}

fn status_of(refusal: Refusal) -> Status {
    match refusal {
        Refusal::Malformed => Status::BadRequest,
        Refusal::TooLong => Status::HeadersTooLarge,
        Refusal::Version => Status::VersionNotSupported,
    }
}

/// The shared statistics as a source of answers.
#[derive(Debug)]
pub(super) struct Shared<'a> {
    /// The numbers.
    pub(super) layout: Layout<'a>,
    /// Our own.
    pub(super) seat: Seat<'a>,
    /// The time.
    pub(super) clock: Clock,
}

impl Shared<'_> {
    fn uptime_ms(&self) -> u64 {
        self.clock.uptime(Instant::now()).as_millis() as u64
    }
}

impl Source for Shared<'_> {
    fn snapshot(&self) -> Snapshot {
        Snapshot::take(self.layout, self.uptime_ms())
    }

    fn silence_ms(&self) -> u64 {
        rates::silence_ms(self.layout, self.uptime_ms())
    }

    fn is_overloaded(&self) -> bool {
        self.seat.get(Word::Buffered) > MOST_UNREAD
    }
}

/// See [`super::converse`].
pub(super) fn converse<'a>(
    statistics: &Statistics,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<u8>, bool) {
    let (layout, clock) = (statistics.layout(), Clock::start(Instant::now()));
    let shared = Shared { layout, seat: statistics.seat(0), clock };
    let mut http = Http::new(shared, Hosts::Only(&[]));
    let (mut session, mut said) = (Session::default(), Vec::new());
    for piece in pieces.into_iter().filter(|piece| !piece.is_empty()) {
        let Answer { bytes, last } = http.answer(&mut session, piece);
        said.extend_from_slice(bytes);
        if last {
            return (said, true);
        }
        assert!(session.begun.len() < LONGEST_HEAD, "no more than a head is kept");
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
    fn so_many_at_once_and_no_more() {
        let statistics = Statistics::new().expect("memory");
        for (count, answered, ended) in [(1, 1, false), (16, 16, false), (17, 16, true)] {
            let (text, last) = said(&statistics, &HEALTH.repeat(count));
            assert_eq!(text.matches("HTTP/1.1 200 OK").count(), answered);
            assert_eq!((last, text.contains("Connection: close")), (ended, ended), "{count}");
        }
    }

    #[test]
    fn what_nobody_reads_stops_the_big_answers() {
        let statistics = Statistics::new().expect("memory");
        statistics.seat(0).set(Word::Buffered, MOST_UNREAD + 1);
        for (path, status) in
            [("/", "503"), ("/stats", "503"), ("/metrics", "503"), ("/healthz", "200")]
        {
            let (text, last) = said(&statistics, &HEALTH.replace("/healthz", path));
            assert!(text.starts_with(&format!("HTTP/1.1 {status} ")) && !last, "{path}: {text}");
        }
    }

    #[test]
    fn what_is_not_whole_waits() {
        let statistics = Statistics::new().expect("memory");
        assert_eq!(said(&statistics, "GET /healthz HTTP/1.1\r\nHo"), (String::new(), false));
        let pieces = HEALTH.as_bytes().chunks(3);
        assert_eq!(converse(&statistics, pieces).0, said(&statistics, HEALTH).0.into_bytes());
        let (layout, seat) = (statistics.layout(), statistics.seat(0));
        let shared = Shared { layout, seat, clock: Clock::start(Instant::now()) };
        let mut http = Http::new(shared, Hosts::Only(&[]));
        let mut session = Session::default();
        http.close();
        assert!(http.answer(&mut session, HEALTH.as_bytes()).last, "about to end");
    }
}
