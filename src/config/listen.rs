//! Addresses to listen on: from `--listen` and `--port` to endpoints.

use std::fmt::{self, Display};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::str::FromStr;

use super::value::{Scalar, ValueError};

/// Value of `--listen`: an address, with or without a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenSpec {
    host: Host,
    port: Option<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Host {
    /// All IPv6 and IPv4 addresses: `*`.
    Any,
    V4(Ipv4Addr),
    /// The address and its scope id, which is 0 unless the address is link-local.
    V6(Ipv6Addr, u32),
}

impl ListenSpec {
    /// All addresses at the port of `--port`: the default.
    pub const ANY: Self = Self { host: Host::Any, port: None };
}

impl FromStr for ListenSpec {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        // A list may have spaces after its commas.
        let text = text.trim();
        if text == "*" {
            return Ok(Self::ANY);
        }
        if let Ok(address) = text.parse() {
            return Ok(Self { host: Host::V4(address), port: None });
        }
        // The standard library reads an IPv6 address with a scope only as part of a socket address.
        let bare = format!("{text}:0");
        if let Ok(address) = format!("[{text}]:0").parse().or_else(|_| bare.parse()) {
            return Ok(Self { host: Host::from_v6(address), port: None });
        }
        let host_and_port = match text.strip_prefix("*:") {
            Some(port) => format!("0.0.0.0:{port}")
                .parse()
                .map(|any: SocketAddrV4| Self { host: Host::Any, port: Some(any.port()) }),
            None => text.parse().map(|address| match address {
                SocketAddr::V4(v4) => Self { host: Host::V4(*v4.ip()), port: Some(v4.port()) },
                SocketAddr::V6(v6) => Self { host: Host::from_v6(v6), port: Some(v6.port()) },
            }),
        };
        host_and_port.map_err(|_| {
            ValueError(format!(
                "'{text}' is not *, an IPv4 address or an IPv6 address in [brackets], with or \
                 without :PORT"
            ))
        })
    }
}

impl Host {
    /// Converts an IPv4-mapped address to the IPv4 address.
    fn from_v6(address: SocketAddrV6) -> Self {
        match address.ip().to_canonical() {
            IpAddr::V4(v4) => Self::V4(v4),
            IpAddr::V6(v6) => Self::V6(v6, address.scope_id()),
        }
    }
}

impl Display for ListenSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host {
            Host::Any => f.write_str("*")?,
            Host::V4(address) => write!(f, "{address}")?,
            Host::V6(address, 0) => write!(f, "[{address}]")?,
            Host::V6(address, scope) => write!(f, "[{address}%{scope}]")?,
        }
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

impl Scalar for ListenSpec {
    const NAME: &'static str = "ADDR[:PORT]";
}

/// Limit on the number of addresses: their sockets travel in one message.
const MOST_ADDRESSES: usize = 64;

/// An address to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
pub struct Endpoint {
    /// Address to bind. All endpoints with port 0 share one free port.
    pub address: SocketAddr,
    /// Address families that the socket accepts.
    pub scope: Scope,
}

/// Address families that a socket accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
pub enum Scope {
    /// IPv4, on an IPv4 socket.
    V4,
    /// IPv6, on a socket with IPV6_V6ONLY.
    V6Only,
    /// IPv6 and IPv4, on an IPv6 socket without IPV6_V6ONLY.
    DualStack,
}

/// Writes `127.0.0.1:8090` or `[::]:8090`.
impl Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

impl Endpoint {
    /// Returns `true` if a listener at `address` and this endpoint overlap.
    pub fn clashes_with(&self, address: SocketAddr) -> bool {
        let scope = if address.is_ipv4() { Scope::V4 } else { Scope::DualStack };
        let other = Self { address, scope };
        address.port() != 0
            && (self.address == address || self.covers(&other) || other.covers(self))
    }

    /// Returns `true` if this endpoint is a wildcard address that includes `other`.
    fn covers(&self, other: &Self) -> bool {
        self.address.port() == other.address.port()
            && self.address.ip().is_unspecified()
            && (self.scope == Scope::DualStack || self.address.is_ipv4() == other.address.is_ipv4())
    }
}

/// Resolves the port and the address families of each address. Rejects addresses that overlap, as the
/// kernel's choice between their sockets depends on details.
///
/// # Errors
/// There are no addresses, too many, or two that overlap. The text is one clause that names them.
pub(super) fn endpoints(specs: &[ListenSpec], port: u16) -> Result<Vec<Endpoint>, String> {
    if specs.is_empty() {
        return Err("the list is empty; leave it out to listen on *".to_owned());
    }
    if specs.len() > MOST_ADDRESSES {
        return Err(format!("{} addresses are more than {MOST_ADDRESSES}", specs.len()));
    }
    let port_of = |spec: &ListenSpec| spec.port.unwrap_or(port);
    let has_v4 =
        |port| specs.iter().any(|spec| matches!(spec.host, Host::V4(_)) && port_of(spec) == port);
    let all: Vec<Endpoint> = specs
        .iter()
        .map(|spec| {
            let port = port_of(spec);
            let v6 = |address, scope_id| SocketAddrV6::new(address, port, 0, scope_id).into();
            let (address, scope) = match spec.host {
                Host::Any => (v6(Ipv6Addr::UNSPECIFIED, 0), Scope::DualStack),
                Host::V4(address) => (SocketAddrV4::new(address, port).into(), Scope::V4),
                Host::V6(address, scope_id) if address.is_unspecified() && !has_v4(port) => {
                    (v6(address, scope_id), Scope::DualStack)
                }
                Host::V6(address, scope_id) => (v6(address, scope_id), Scope::V6Only),
            };
            Endpoint { address, scope }
        })
        .collect();

    for (i, endpoint) in all.iter().enumerate() {
        for (j, other) in all.iter().enumerate() {
            if i < j && specs[i].host == specs[j].host && endpoint.address == other.address {
                return Err(format!("{} is listed twice", Named(&specs[j], endpoint)));
            }
            if i != j && endpoint.covers(other) {
                let (wide, narrow) = (Named(&specs[i], endpoint), Named(&specs[j], other));
                return Err(format!("{wide} already covers {narrow}"));
            }
        }
    }
    Ok(all)
}

/// An address as it was written, with its resolved port.
struct Named<'a>(&'a ListenSpec, &'a Endpoint);

impl Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        ListenSpec { host: self.0.host, port: Some(self.1.address.port()) }.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn resolve(list: &str) -> Result<Vec<(String, Scope)>, String> {
        let specs: Vec<ListenSpec> =
            list.split(',').map(|text| text.parse().expect("an address")).collect();
        let all = endpoints(&specs, 8090)?;
        Ok(all.into_iter().map(|endpoint| (endpoint.to_string(), endpoint.scope)).collect())
    }

    #[test]
    fn addresses_are_read_and_written() {
        for (text, written) in [
            ("*", "*"),
            (" *:80 ", "*:80"),
            ("0.0.0.0", "0.0.0.0"),
            ("1.2.3.4:0", "1.2.3.4:0"),
            ("::", "[::]"),
            ("::1", "[::1]"),
            ("[::1]", "[::1]"),
            ("[::1]:80", "[::1]:80"),
            ("fe80::1%2", "[fe80::1%2]"),
            ("[fe80::1%2]:80", "[fe80::1%2]:80"),
            ("::ffff:1.2.3.4", "1.2.3.4"),
            ("[::ffff:1.2.3.4]:80", "1.2.3.4:80"),
        ] {
            let spec: ListenSpec = text.parse().expect(text);
            assert_eq!(spec.to_string(), written);
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            " ",
            ":",
            ":80",
            "*:",
            "*:x",
            "*:65536",
            "**",
            "1.2.3",
            "1.2.3.4:",
            "1.2.3.4:65536",
            "1.2.3.4:+1",
            "localhost",
            "localhost:80",
            "[::1",
            "::1]",
            "[::1]:",
            "[::1]x",
            "[]",
            "[1.2.3.4]:80",
            "1:2:3:4:5:6:7:8:9",
            "*:80:0",
            "[*]:80",
            "1.2.3.4,5.6.7.8",
        ] {
            assert!(text.parse::<ListenSpec>().is_err(), "{text}");
        }
    }

    #[test]
    fn every_address_gets_a_port_and_a_family() {
        assert_eq!(resolve("*"), Ok(vec![("[::]:8090".into(), Scope::DualStack)]));
        assert_eq!(resolve("[::]"), Ok(vec![("[::]:8090".into(), Scope::DualStack)]));
        assert_eq!(resolve("[::1]:1"), Ok(vec![("[::1]:1".into(), Scope::V6Only)]));
        assert_eq!(resolve("1.2.3.4:0"), Ok(vec![("1.2.3.4:0".into(), Scope::V4)]));
    }

    #[test]
    fn the_ipv6_wildcard_leaves_ipv4_to_an_ipv4_address_of_the_same_port() {
        let scopes = |list| resolve(list).map(|all| all.iter().map(|(_, scope)| *scope).collect());
        assert_eq!(scopes("[::],0.0.0.0"), Ok(vec![Scope::V6Only, Scope::V4]));
        assert_eq!(scopes("127.0.0.1:8090,[::]"), Ok(vec![Scope::V4, Scope::V6Only]));
        assert_eq!(scopes("[::],127.0.0.1:1"), Ok(vec![Scope::DualStack, Scope::V4]));
        assert_eq!(scopes("*,127.0.0.1:1,[::]:1"), {
            Ok(vec![Scope::DualStack, Scope::V4, Scope::V6Only])
        });
    }

    #[test]
    fn addresses_that_overlap_are_refused() {
        for (list, message) in [
            ("*,*:8090", "*:8090 is listed twice"),
            ("1.2.3.4,1.2.3.4", "1.2.3.4:8090 is listed twice"),
            ("[::]:1,0.0.0.0:1,[::]:1", "[::]:1 is listed twice"),
            ("*:0,*:0", "*:0 is listed twice"),
            ("*,0.0.0.0", "*:8090 already covers 0.0.0.0:8090"),
            ("127.0.0.1,*", "*:8090 already covers 127.0.0.1:8090"),
            ("*,[::]", "*:8090 already covers [::]:8090"),
            ("*,[::1]:8090", "*:8090 already covers [::1]:8090"),
            ("127.0.0.1,0.0.0.0", "0.0.0.0:8090 already covers 127.0.0.1:8090"),
        ] {
            assert_eq!(resolve(list), Err(message.to_owned()), "{list}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics_and_what_is_written_is_read_back(text in r"\PC{0,30}|[\[\]0-9a-f:.*%]{0,20}") {
            if let Ok(spec) = text.parse::<ListenSpec>() {
                prop_assert_eq!(spec.to_string().parse(), Ok(spec));
            }
        }

        #[test]
        fn every_address_is_read_back(
            host in prop_oneof![
                Just(Host::Any),
                any::<[u8; 4]>().prop_map(|bytes| Host::V4(bytes.into())),
                (any::<[u8; 16]>(), 0..3_u32).prop_map(|(bytes, scope)| {
                    Host::from_v6(SocketAddrV6::new(bytes.into(), 0, 0, scope))
                }),
            ],
            port in any::<Option<u16>>(),
        ) {
            let spec = ListenSpec { host, port };
            prop_assert_eq!(spec.to_string().parse(), Ok(spec));
        }
    }
}
