//! The server under test: its name on the command line, and the address behind it.

use std::fmt::{self, Display};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::str::FromStr;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::text::{one_line, reason};

/// A server as `HOST[:PORT]`, port 8090 unless one is given. The host is a name, an IPv4 address, or an IPv6 address in brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    host: String,
    port: u16,
}

/// Error of a text that is not `HOST[:PORT]`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not HOST[:PORT] such as 127.0.0.1:8090, localhost or [::1]:7")]
pub struct TargetError(String);

/// Failed resolution of a server name.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResolveError {
    #[error("cannot resolve the name: {0}")]
    Failed(String),
    #[error("cannot resolve the name within {0:?}")]
    TimedOut(Duration),
}

impl Target {
    const DEFAULT_PORT: u16 = 8090;

    /// Returns the target 127.0.0.1:`port`.
    pub(crate) fn local(port: u16) -> Self {
        Self { host: Ipv4Addr::LOCALHOST.to_string(), port }
    }

    /// Returns the address of the server. Of several addresses behind a name, it is the first that
    /// accepts a connection, or the first of all if none does. Takes at most `limit`.
    ///
    /// # Errors
    /// The name cannot be resolved.
    pub(crate) fn address(&self, limit: Duration) -> Result<SocketAddr, ResolveError> {
        let deadline = Instant::now() + limit;
        let addresses = self.resolve(limit)?;
        let accepts = |(untried, address): &(u32, &SocketAddr)| {
            // An address that does not answer must leave time for the remaining ones.
            let share = deadline.saturating_duration_since(Instant::now()) / *untried;
            !share.is_zero() && TcpStream::connect_timeout(address, share).is_ok()
        };
        let mut attempts = (1..=addresses.len() as u32).rev().zip(&addresses);
        let accepting = if addresses.len() > 1 { attempts.find(accepts) } else { None };
        let address = accepting.map(|(_, address)| address).or(addresses.first()).copied();
        address.ok_or_else(|| ResolveError::Failed("it has no address".into()))
    }

    fn resolve(&self, limit: Duration) -> Result<Vec<SocketAddr>, ResolveError> {
        if let Ok(ip) = self.host.parse() {
            return Ok(vec![SocketAddr::new(ip, self.port)]);
        }
        // getaddrinfo(3) takes no deadline, so it runs in a thread that is abandoned after `limit`.
        let (sender, receiver) = mpsc::channel();
        let target = self.clone();
        let resolve = move || {
            let addresses = (target.host.as_str(), target.port).to_socket_addrs();
            // The receiver is gone after a timeout.
            let _ = sender.send(addresses.map(Iterator::collect::<Vec<_>>));
        };
        let failed = |error| ResolveError::Failed(reason(&error));
        thread::Builder::new().spawn(resolve).map_err(failed)?;
        let addresses = receiver.recv_timeout(limit).map_err(|_| ResolveError::TimedOut(limit))?;
        addresses.map_err(|error: io::Error| {
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
            let (host, port) = match text.rsplit_once(':') {
                Some((host, port)) if !text.ends_with(']') => (host, port.parse().ok()?),
                _ => (text, Self::DEFAULT_PORT),
            };
            // A number alone is a port. The resolver would take it for an IPv4 address.
            if port == 0 || host.bytes().all(|byte| byte.is_ascii_digit()) {
                return None;
            }
            let host = match host.strip_prefix('[') {
                Some(rest) => {
                    let host = rest.strip_suffix(']')?;
                    host.parse::<Ipv6Addr>().ok()?;
                    host
                }
                None if host.contains([':', '/', '@', ' ', '[', ']']) => return None,
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
    fn names_and_addresses_are_parsed_and_displayed() {
        for text in ["127.0.0.1:1", "localhost:65535", "echo.example:7", "[::1]:8090"] {
            let target: Target = text.parse().expect(text);
            assert_eq!(target.to_string(), text);
        }
        for host in ["127.0.0.1", "localhost", "echo.example", "[::1]"] {
            let target: Target = host.parse().expect(host);
            assert_eq!(target.to_string(), format!("{host}:8090"));
        }
        assert_eq!(Target::default().to_string(), "127.0.0.1:8090");
    }

    #[test]
    fn invalid_targets_are_rejected() {
        for text in [
            "",
            ":",
            "localhost:",
            "9000",
            "9000:7",
            "::1",
            "[::1]x",
            "[x]",
            "a]",
            "tcp://a",
            ":7",
            "a:0",
            "a:65536",
            "a:x",
            "::1:7",
            "[x]:7",
            "[::1:7",
            "tcp://a:7",
            "a b:7",
        ] {
            let error = text.parse::<Target>().expect_err(text);
            assert!(error.to_string().starts_with(&format!("'{text}' is not HOST[:PORT]")));
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
    fn of_several_addresses_the_accepting_one_is_chosen() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let bound = listener.local_addr().expect("bound");
        let target = Target { host: "localhost".into(), port: bound.port() };
        assert_eq!(target.address(LIMIT).expect("resolved"), bound);
        let unknown: Target = "no-such-host.invalid:7".parse().expect("a name");
        let error = unknown.address(LIMIT).expect_err("unknown");
        assert!(error.to_string().starts_with("cannot resolve the name"), "{error}");
    }
}
