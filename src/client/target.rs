//! The server: as it was named, and as it is reached.

use std::fmt::{self, Display};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::str::FromStr;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::config::{one_line, reason};

/// HOST:PORT. The host is a name, an IPv4 address or an IPv6 address, which is typed in brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    host: String,
    port: u16,
}

/// Why a text is not a [`Target`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not HOST:PORT such as 127.0.0.1:8090, localhost:7 or [::1]:7")]
pub struct TargetError(String);

/// Why no address of a server is known.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The name is not known, or the system cannot ask.
    #[error("cannot resolve the name: {0}")]
    Failed(String),
    /// Nobody answered in time.
    #[error("cannot resolve the name within {0:?}")]
    TimedOut(Duration),
}

impl Target {
    const DEFAULT_PORT: u16 = 8090;

    /// A port of this machine, by IPv4.
    pub fn local(port: u16) -> Self {
        Self { host: Ipv4Addr::LOCALHOST.to_string(), port }
    }

    /// The address at which the server is met: where a name has several, the first that accepts a
    /// connection, or the first of all if none does. Takes no longer than `limit`.
    ///
    /// # Errors
    /// The name cannot be resolved.
    pub fn address(&self, limit: Duration) -> Result<SocketAddr, ResolveError> {
        let deadline = Instant::now() + limit;
        let addresses = self.resolve(limit)?;
        let accepts = |(rest, address): &(u32, &SocketAddr)| {
            // One that does not answer leaves the others their share.
            let left = deadline.saturating_duration_since(Instant::now()) / *rest;
            !left.is_zero() && TcpStream::connect_timeout(address, left).is_ok()
        };
        let first = addresses.first().copied();
        let mut tries = (1..=addresses.len() as u32).rev().zip(&addresses);
        let best = if addresses.len() > 1 { tries.find(accepts) } else { None };
        let best = best.map(|(_, address)| *address);
        best.or(first).ok_or_else(|| ResolveError::Failed("it has no address".into()))
    }

    fn resolve(&self, limit: Duration) -> Result<Vec<SocketAddr>, ResolveError> {
        if let Ok(ip) = self.host.parse() {
            return Ok(vec![SocketAddr::new(ip, self.port)]);
        }
        // The system's resolver has no deadline of ours, so it is left behind when it takes too long.
        let (sender, receiver) = mpsc::channel();
        let target = self.clone();
        let ask = move || {
            let found = (target.host.as_str(), target.port).to_socket_addrs();
            // Nobody may be waiting any more.
            let _ = sender.send(found.map(Iterator::collect::<Vec<_>>));
        };
        thread::Builder::new().spawn(ask).map_err(|error| ResolveError::Failed(reason(&error)))?;
        let found = receiver.recv_timeout(limit).map_err(|_| ResolveError::TimedOut(limit))?;
        found.map_err(|error: io::Error| {
            let text = error.to_string();
            let text = text.trim_start_matches("failed to lookup address information: ");
            ResolveError::Failed(one_line(text))
        })
    }
}

impl Default for Target {
    fn default() -> Self {
        Self::local(Self::DEFAULT_PORT)
    }
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let parse = || {
            let (host, port) = text.rsplit_once(':')?;
            let port: u16 = port.parse().ok().filter(|number| *number != 0)?;
            let host = match host.strip_prefix('[') {
                Some(rest) => {
                    let host = rest.strip_suffix(']')?;
                    host.parse::<Ipv6Addr>().ok()?;
                    host
                }
                None if host.is_empty() || host.contains([':', '/', '@', ' ']) => return None,
                None => host,
            };
            Some(Self { host: host.to_owned(), port })
        };
        parse().ok_or_else(|| TargetError(text.to_owned()))
    }
}

impl Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = one_line(&self.host);
        if host.contains(':') {
            write!(f, "[{host}]:{}", self.port)
        } else {
            write!(f, "{host}:{}", self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    #[test]
    fn names_and_addresses_are_read_and_written_back() {
        for text in ["127.0.0.1:1", "localhost:65535", "echo.example:7", "[::1]:8090"] {
            let target: Target = text.parse().expect(text);
            assert_eq!(target.to_string(), text);
        }
        assert_eq!(Target::default().to_string(), "127.0.0.1:8090");
    }

    #[test]
    fn what_is_no_target_is_refused() {
        for text in [
            "",
            ":",
            "localhost",
            "localhost:",
            ":7",
            "a:0",
            "a:65536",
            "a:x",
            "::1:7",
            "[::1]",
            "[x]:7",
            "[::1:7",
            "tcp://a:7",
            "a b:7",
        ] {
            let error = text.parse::<Target>().expect_err(text);
            assert!(error.to_string().starts_with(&format!("'{text}' is not HOST:PORT")));
        }
    }

    #[test]
    fn an_address_needs_no_resolver() {
        for text in ["127.0.0.1:7", "[::1]:7"] {
            let target: Target = text.parse().expect(text);
            let address = target.address(LIMIT).expect("an address");
            assert_eq!(address.to_string(), text);
        }
    }

    #[test]
    fn of_many_addresses_the_one_that_accepts_is_taken() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let bound = listener.local_addr().expect("bound");
        let target = Target { host: "localhost".into(), port: bound.port() };
        assert_eq!(target.address(LIMIT).expect("resolved"), bound);
        let unknown: Target = "no-such-host.invalid:7".parse().expect("a name");
        let error = unknown.address(LIMIT).expect_err("unknown");
        assert!(error.to_string().starts_with("cannot resolve the name"), "{error}");
    }
}
