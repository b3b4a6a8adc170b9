//! HTTP client for the admin process, with control over every byte.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::Value;

use super::client::{is_reset, uninterrupted};
use super::{SOON, Server, proc, secs, wait_for};

/// Returns the bound address of the admin socket, from the last log line with it.
#[track_caller]
pub(crate) fn admin_of(server: &Server) -> SocketAddr {
    wait_for(SOON, "the admin process answers", || {
        let line = server.log.with("admin process listening on http://").pop()?;
        let (_, rest) = line.text.split_once("http://")?;
        rest.split_once('/')?.0.parse().ok()
    })
}

/// Returns the pid of the only admin process.
#[track_caller]
pub(crate) fn admin_pid(server: &Server) -> i32 {
    wait_for(SOON, "there is one admin process", || match admin_pids(server)[..] {
        [pid] => Some(pid),
        _ => None,
    })
}

/// Returns the pids of all admin processes.
pub(crate) fn admin_pids(server: &Server) -> Vec<i32> {
    let family = server.family().into_iter();
    family
        .filter(|&pid| proc::process(pid).is_some_and(|it| it.title == "tcp-echo[admin]"))
        .collect()
}

/// HTTP response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    /// Status code.
    pub(crate) status: u16,
    /// Lines of the head, beginning with the status line.
    pub(crate) head: Vec<String>,
    /// Response body.
    pub(crate) body: String,
}

impl Reply {
    /// Returns the value of a header, empty if missing.
    pub(crate) fn header(&self, name: &str) -> &str {
        let lines = self.head.iter().filter_map(|line| line.split_once(": "));
        let mut found = lines.filter(|(key, _)| key.eq_ignore_ascii_case(name));
        found.next().map_or("", |(_, value)| value)
    }

    /// Returns the body as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("JSON")
    }
}

/// Connection to the admin process.
#[derive(Debug)]
pub(crate) struct Http<S> {
    pub(crate) stream: S,
    /// Received bytes of the next response.
    ahead: Vec<u8>,
}

impl Http<TcpStream> {
    /// Connects, or fails the test.
    #[track_caller]
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect_timeout(&address, secs(10)).expect("admin accepts");
        stream.set_read_timeout(Some(secs(10))).unwrap();
        Self::over(stream)
    }
}

impl<S: Read + Write> Http<S> {
    /// Uses an open connection.
    pub(crate) fn over(stream: S) -> Self {
        Self { stream, ahead: Vec::new() }
    }

    /// Sends bytes unchanged.
    #[track_caller]
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).expect("it is taken");
    }

    /// Receives the next response; `None` at the end of the connection. `head_only`: to a HEAD request.
    #[track_caller]
    pub(crate) fn reply(&mut self, head_only: bool) -> Option<Reply> {
        let end = loop {
            if let Some(end) = self.ahead.windows(4).position(|four| four == b"\r\n\r\n") {
                break end;
            }
            if !self.more() {
                assert!(self.ahead.is_empty(), "an end in the middle of an answer");
                return None;
            }
        };
        let head = String::from_utf8(self.ahead[..end].to_vec()).expect("text");
        self.ahead.drain(..end + 4);
        let head: Vec<String> = head.split("\r\n").map(str::to_owned).collect();
        assert!(!head.iter().any(|line| line.contains(['\r', '\n'])), "{head:?}");
        let status = head[0].strip_prefix("HTTP/1.1 ").and_then(|rest| rest[..3].parse().ok());
        let mut reply = Reply { status: status.expect("a status line"), head, body: String::new() };
        let length: usize = reply.header("Content-Length").parse().expect("a length");
        while !head_only && self.ahead.len() < length {
            assert!(self.more(), "an end in the middle of a body");
        }
        if !head_only {
            reply.body = String::from_utf8(self.ahead.drain(..length).collect()).expect("text");
        }
        Some(reply)
    }

    /// Requests `path` and keeps the connection open.
    #[track_caller]
    pub(crate) fn get(&mut self, path: &str) -> Reply {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        self.reply(false).expect("an answer")
    }

    /// Expects the end of the connection without a further byte.
    #[track_caller]
    pub(crate) fn expect_end(&mut self) {
        assert!(!self.more() && self.ahead.is_empty(), "more: {:?}", self.reply(false));
    }

    fn more(&mut self) -> bool {
        let mut chunk = [0; 64 * 1024];
        match uninterrupted(|| self.stream.read(&mut chunk)) {
            Ok(count) => {
                self.ahead.extend_from_slice(&chunk[..count]);
                count > 0
            }
            Err(error) if is_reset(&error) => false,
            Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("no answer in time"),
            Err(error) => panic!("neither an answer nor an end: {error}"),
        }
    }
}

/// Requests `path` on a new connection.
#[track_caller]
pub(crate) fn get(address: SocketAddr, path: &str) -> Reply {
    Http::connect(address).get(path)
}

/// Sends `request` and receives all responses until the connection ends.
#[track_caller]
pub(crate) fn ask(address: SocketAddr, request: impl AsRef<[u8]>) -> Vec<Reply> {
    let mut http = Http::connect(address);
    // The server may answer and close before it has read the whole request.
    let _ = http.stream.write_all(request.as_ref());
    std::iter::from_fn(|| http.reply(false)).collect()
}
