//! Endpoints: addresses with their ports and address families resolved.

use std::fmt::{self, Display};
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use super::address::{Address, Host};

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
    pub(super) fn covers(&self, other: &Self) -> bool {
        self.address.port() == other.address.port()
            && self.address.ip().is_unspecified()
            && (self.scope == Scope::DualStack || self.address.is_ipv4() == other.address.is_ipv4())
    }
}

/// Reason why a list of listeners is not valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::config) struct ListError {
    /// Position of the listener to name, if it is not the whole list.
    pub(in crate::config) index: Option<usize>,
    /// One clause that repeats the text of the listener.
    pub(in crate::config) message: String,
}

impl ListError {
    fn whole(message: impl Into<String>) -> Self {
        Self { index: None, message: message.into() }
    }
}

/// Resolves the port and the address families of each address. Rejects addresses that overlap, as the
/// kernel's choice between their sockets depends on details.
///
/// # Errors
/// There are no addresses, too many, or two that overlap.
pub(super) fn resolve(specs: &[Address], port: u16) -> Result<Vec<Endpoint>, ListError> {
    if specs.is_empty() {
        return Err(ListError::whole("the list is empty; leave it out to listen on *"));
    }
    if specs.len() > MOST_ADDRESSES {
        let count = specs.len();
        return Err(ListError::whole(format!("{count} addresses are more than {MOST_ADDRESSES}")));
    }
    let port_of = |spec: &Address| spec.port.unwrap_or(port);
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
                let message = format!("{} is listed twice", Named(&specs[j], endpoint));
                return Err(ListError { index: Some(j), message });
            }
            if i != j && endpoint.covers(other) {
                let (wide, narrow) = (Named(&specs[i], endpoint), Named(&specs[j], other));
                let message = format!("{wide} already covers {narrow}");
                return Err(ListError { index: Some(i.max(j)), message });
            }
        }
    }
    Ok(all)
}

/// An address as it was written, with its resolved port.
struct Named<'a>(&'a Address, &'a Endpoint);

impl Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Address { host: self.0.host, port: Some(self.1.address.port()) }.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(list: &str) -> Result<Vec<(String, Scope)>, ListError> {
        let addresses: Vec<Address> =
            list.split(',').map(|text| text.parse().expect("an address")).collect();
        let all = resolve(&addresses, 8090)?;
        Ok(all.into_iter().map(|endpoint| (endpoint.to_string(), endpoint.scope)).collect())
    }

    #[test]
    fn every_address_gets_a_port_and_a_family() {
        assert_eq!(resolved("*"), Ok(vec![("[::]:8090".into(), Scope::DualStack)]));
        assert_eq!(resolved("[::]"), Ok(vec![("[::]:8090".into(), Scope::DualStack)]));
        assert_eq!(resolved("[::1]:1"), Ok(vec![("[::1]:1".into(), Scope::V6Only)]));
        assert_eq!(resolved("1.2.3.4:0"), Ok(vec![("1.2.3.4:0".into(), Scope::V4)]));
    }

    #[test]
    fn the_ipv6_wildcard_leaves_ipv4_to_an_ipv4_address_of_the_same_port() {
        let scopes = |list| resolved(list).map(|all| all.iter().map(|(_, scope)| *scope).collect());
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
            let error = resolved(list).expect_err(list);
            assert_eq!(error.message, message, "{list}");
            assert_eq!(error.index, Some(list.matches(',').count()), "{list}");
        }
    }
}
