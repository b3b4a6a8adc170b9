//! Host names allowed in requests, against DNS rebinding. Pure.
//!
//! A web site can point its own name at this machine after its page was loaded. The browser then lets the
//! page read the responses, but it sends that name in the `Host` header line. An IP address cannot be
//! pointed elsewhere.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::config::HostName;

/// Hosts for which requests are answered.
#[derive(Clone, Copy, Debug)]
pub(super) enum Hosts<'a> {
    /// All hosts: browsers cannot reach a Unix socket.
    Any,
    /// IP addresses, `localhost`, and these names.
    Only(&'a [HostName]),
}

impl Hosts<'_> {
    /// Returns `true` if a request for `host`, which may have a port, is answered, as is one without a host.
    pub(super) fn allow(self, host: Option<&str>) -> bool {
        let (Self::Only(names), Some(host)) = (self, host) else { return true };
        match Host::parse(host) {
            Some(Host::None | Host::Address) => true,
            Some(Host::Name(name)) => {
                let bare = name.strip_suffix('.').unwrap_or(name);
                bare.eq_ignore_ascii_case("localhost") || names.iter().any(|it| it.is(name))
            }
            None => false,
        }
    }
}

/// The content of a `Host` header line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Host<'a> {
    None,
    Address,
    Name(&'a str),
}

impl<'a> Host<'a> {
    /// Parses the content of a `Host` line, `None` if it is invalid.
    fn parse(text: &'a str) -> Option<Self> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => rest.split_once(']')?,
            None => text.split_at(text.find(':').unwrap_or(text.len())),
        };
        let digits = if port.is_empty() { port } else { port.strip_prefix(':')? };
        if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        if text.starts_with('[') {
            let address = host.split('%').next()?;
            return address.parse::<Ipv6Addr>().ok().map(|_| Self::Address);
        }
        Some(match host {
            "" => Self::None,
            _ if host.parse::<Ipv4Addr>().is_ok() => Self::Address,
            _ => Self::Name(host),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_allowed_names_and_addresses_are_answered() {
        let names = ["echo.example".parse().expect("a name")];
        let hosts = Hosts::Only(&names);
        for host in [
            "127.0.0.1",
            "127.0.0.1:8091",
            "10.1.2.3:",
            "[::1]",
            "[::1]:8091",
            "[fe80::1%25eth0]:8091",
            "[::ffff:1.2.3.4]:1",
            "localhost",
            "LocalHost:8091",
            "localhost.:8091",
            "echo.example",
            "ECHO.example.:8091",
            "",
            ":8091",
        ] {
            assert!(hosts.allow(Some(host)), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:8091",
            "localhost.evil.example",
            "echo.example.evil.example",
            "127.0.0.1.evil.example",
            "evil.localhost",
            "127.1",
            "2130706433",
            "0x7f000001",
            "[::1",
            "[::1]x",
            "[evil.example]",
            "::1",
            "127.0.0.1:80:90",
            "user@127.0.0.1",
            "127.0.0.1/",
            "127.0.0.1, 127.0.0.1",
            "\u{fffd}",
        ] {
            assert!(!hosts.allow(Some(host)), "{host}");
            assert!(Hosts::Any.allow(Some(host)));
        }
        assert!(hosts.allow(None), "HTTP/1.0");
        assert!(!Hosts::Only(&[]).allow(Some("echo.example")));
    }
}
