//! Expansion of templates: text with placeholders such as `{hostname}` and `{peer_ip}`.
//!
//! Parts that all connections of a worker share are resolved once, when the worker starts. Only the
//! addresses are left for each connection.

use std::ffi::OsString;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStringExt;

use super::Io;
use super::identity::Identity;
use crate::config::template::Part;

/// Length of the longest IP address: eight groups of four digits.
const MAX_IP: usize = 39;

/// Length of the longest port.
const MAX_PORT: usize = 5;

/// A template of a worker, ready to be expanded for each connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expansion {
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(Vec<u8>),
    PeerIp,
    PeerPort,
    LocalPort,
}

impl Expansion {
    /// Resolves all parts but the addresses. An environment variable that is not set expands to empty
    /// text.
    #[must_use]
    pub fn new(parts: &[Part], identity: &Identity) -> Self {
        Self::resolve(parts, identity, |name| std::env::var_os(name))
    }

    fn resolve(
        parts: &[Part],
        identity: &Identity,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Self {
        let mut expansion = Self::default();
        for part in parts {
            match part {
                Part::Text(text) => expansion.push(text.as_bytes()),
                Part::Hostname => expansion.push(identity.hostname.as_bytes()),
                Part::Pid => expansion.push(identity.pid.to_string().as_bytes()),
                Part::Worker => expansion.push(identity.worker.to_string().as_bytes()),
                Part::Version => expansion.push(identity.version.as_bytes()),
                Part::Env(name) => expansion.push(&variable(name).unwrap_or_default().into_vec()),
                Part::PeerIp => expansion.pieces.push(Piece::PeerIp),
                Part::PeerPort => expansion.pieces.push(Piece::PeerPort),
                Part::LocalPort => expansion.pieces.push(Piece::LocalPort),
            }
        }
        expansion
    }

    /// Appends text to the text at the end, if there is any, so that all fixed text is one copy.
    fn push(&mut self, text: &[u8]) {
        match self.pieces.last_mut() {
            _ if text.is_empty() => {}
            Some(Piece::Text(last)) => last.extend_from_slice(text),
            _ => self.pieces.push(Piece::Text(text.to_vec())),
        }
    }

    /// Returns the length, in bytes, that no expansion exceeds.
    #[must_use]
    pub fn max_len(&self) -> usize {
        let lengths = self.pieces.iter().map(|piece| match piece {
            Piece::Text(text) => text.len(),
            Piece::PeerIp => MAX_IP,
            Piece::PeerPort | Piece::LocalPort => MAX_PORT,
        });
        lengths.sum()
    }

    /// Appends the expansion for a connection. The addresses of a client that has left are empty text.
    pub fn write(&self, io: &impl Io, out: &mut Vec<u8>) {
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => out.extend_from_slice(text),
                Piece::PeerIp => write_ip(io.peer(), out),
                Piece::PeerPort => write_port(io.peer(), out),
                Piece::LocalPort => write_port(io.local(), out),
            }
        }
    }
}

/// Appends the IP address. An IPv4-mapped IPv6 address, as dual-stack sockets have it, is written as IPv4.
pub(super) fn write_ip(address: Option<SocketAddr>, out: &mut Vec<u8>) {
    if let Some(address) = address {
        // Writing to a Vec cannot fail.
        let _ = write!(out, "{}", address.ip().to_canonical());
    }
}

/// Appends the port.
pub(super) fn write_port(address: Option<SocketAddr>, out: &mut Vec<u8>) {
    if let Some(address) = address {
        // Writing to a Vec cannot fail.
        let _ = write!(out, "{}", address.port());
    }
}

#[cfg(test)]
mod tests {
    use super::super::recorder::Recorder;
    use super::*;
    use proptest::prelude::*;

    fn identity() -> Identity {
        Identity { hostname: "web-1".into(), pid: 4711, worker: 3, version: "2.0.0" }
    }

    fn variable(name: &str) -> Option<OsString> {
        match name {
            "POD" => Some("blue".into()),
            "RAW" => Some(OsString::from_vec(vec![0xff, b'!'])),
            _ => None,
        }
    }

    fn expand(parts: &[Part], io: &Recorder) -> Vec<u8> {
        let mut out = Vec::new();
        Expansion::resolve(parts, &identity(), variable).write(io, &mut out);
        out
    }

    fn text(text: &str) -> Part {
        Part::Text(text.into())
    }

    #[test]
    fn every_placeholder_has_its_value() {
        let parts = [
            Part::Hostname,
            text(" "),
            Part::Pid,
            text(" "),
            Part::Worker,
            text(" "),
            Part::PeerIp,
            text(" "),
            Part::PeerPort,
            text(" "),
            Part::LocalPort,
            text(" "),
            Part::Version,
            text(" "),
            Part::Env("POD".into()),
        ];
        let expected = b"web-1 4711 3 192.0.2.7 51234 8090 2.0.0 blue";
        assert_eq!(expand(&parts, &Recorder::default()), expected);
    }

    #[test]
    fn a_variable_is_bytes_and_empty_if_it_is_not_set() {
        let parts = [text("<"), Part::Env("RAW".into()), Part::Env("NONE".into()), text(">")];
        assert_eq!(expand(&parts, &Recorder::default()), b"<\xff!>");
    }

    #[test]
    fn variables_are_those_of_the_process() {
        let (name, value) = std::env::vars_os().next().expect("an environment");
        let name = name.into_string().expect("a name");
        let expansion = Expansion::new(&[Part::Env(name)], &identity());
        assert_eq!(expansion.max_len(), value.len());
    }

    #[test]
    fn a_mapped_address_is_written_as_ipv4() {
        let peer = Some("[::ffff:192.0.2.9]:1".parse().expect("an address"));
        let io = Recorder { peer, ..Recorder::default() };
        assert_eq!(expand(&[Part::PeerIp], &io), b"192.0.2.9");
    }

    #[test]
    fn a_client_that_has_left_has_no_address() {
        let io = Recorder { peer: None, local: None, ..Recorder::default() };
        let parts = [Part::PeerIp, text(":"), Part::PeerPort, text(":"), Part::LocalPort];
        assert_eq!(expand(&parts, &io), b"::");
    }

    #[test]
    fn fixed_text_is_one_piece() {
        let parts = [text("a"), Part::Pid, Part::Env("NONE".into()), text("b"), Part::PeerPort];
        let expansion = Expansion::resolve(&parts, &identity(), variable);
        assert_eq!(expansion.pieces, [Piece::Text(b"a4711b".to_vec()), Piece::PeerPort]);
    }

    fn part() -> impl Strategy<Value = Part> {
        prop_oneof![
            ".{0,4}".prop_map(Part::Text),
            Just(Part::Hostname),
            Just(Part::Worker),
            Just(Part::PeerIp),
            Just(Part::PeerPort),
            Just(Part::LocalPort),
            prop_oneof!["POD", "RAW", "NONE"].prop_map(Part::Env),
        ]
    }

    proptest! {
        #[test]
        fn an_expansion_is_the_expansion_of_its_parts(
            parts in prop::collection::vec(part(), 0..12),
            address: [u8; 16],
            port: u16,
        ) {
            let peer = Some(SocketAddr::from((address, port)));
            let io = Recorder { peer, local: peer, ..Recorder::default() };
            let whole = expand(&parts, &io);
            let each: Vec<u8> =
                parts.iter().flat_map(|part| expand(std::slice::from_ref(part), &io)).collect();
            prop_assert_eq!(&whole, &each);
            let max_len = Expansion::resolve(&parts, &identity(), variable).max_len();
            prop_assert!(whole.len() <= max_len);
        }
    }
}
