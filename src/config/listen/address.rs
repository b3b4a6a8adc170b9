//! Address of a listener, as it is written: `*`, `127.0.0.1:8090`, `[::1]`.

use std::fmt::{self, Display};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::str::FromStr;

use crate::config::admin::HostName;
use crate::config::value::ValueError;

/// An address, with or without a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) host: Host,
    pub(super) port: Option<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Host {
    /// All IPv6 and IPv4 addresses: `*`.
    Any,
    V4(Ipv4Addr),
    /// The address and its scope id, which is 0 unless the address is link-local.
    V6(Ipv6Addr, u32),
}

/// Form of an address, for errors.
const FORM: &str = "not *, an IPv4 address or an IPv6 address in [brackets], with or without :PORT";

/// The error for a host name. What a name resolves to can change, and with it what a reload listens on.
const NAME: &str =
    "a host name, and host names are not resolved; use an address such as 127.0.0.1, or * for all";

/// Returns what a text that is not an address is, as the end of an error.
pub(super) fn flaw(text: &str) -> &'static str {
    let host = text.split_once(':').map_or(text, |(host, _)| host);
    // Numbers and dots are a mistyped address.
    let is_name = host.contains(|letter: char| letter.is_ascii_alphabetic());
    let has_one_colon = text.matches(':').count() <= 1;
    match is_name && has_one_colon && host.parse::<HostName>().is_ok() {
        true => NAME,
        false => FORM,
    }
}

impl FromStr for Address {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        // A list may have spaces after its commas.
        let text = text.trim();
        if text == "*" {
            return Ok(Self { host: Host::Any, port: None });
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
        host_and_port.map_err(|_| ValueError(format!("'{text}' is {}", flaw(text))))
    }
}

impl Host {
    /// Converts an IPv4-mapped address to the IPv4 address.
    pub(super) fn from_v6(address: SocketAddrV6) -> Self {
        match address.ip().to_canonical() {
            IpAddr::V4(v4) => Self::V4(v4),
            IpAddr::V6(v6) => Self::V6(v6, address.scope_id()),
        }
    }
}

impl Display for Address {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
            let spec: Address = text.parse().expect(text);
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
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_host_name_is_told_from_a_mistyped_address() {
        for text in ["localhost", "localhost:80", "echo.example", "my-host:x", "fe80"] {
            let ValueError(message) = text.parse::<Address>().expect_err(text);
            assert_eq!(message, format!("'{text}' is {NAME}"));
        }
        for text in
            ["", ":80", "1.2.3", "1.2.3.4:x", "1.2.3.4.5:80", "*x", "[::1", "fe80::g", "a/b"]
        {
            let ValueError(message) = text.parse::<Address>().expect_err(text);
            assert_eq!(message, format!("'{text}' is {FORM}"));
        }
    }

    proptest! {
        #[test]
        fn no_text_panics_and_what_is_written_is_read_back(text in r"\PC{0,30}|[\[\]0-9a-f:.*%]{0,20}") {
            if let Ok(spec) = text.parse::<Address>() {
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
            let spec = Address { host, port };
            prop_assert_eq!(spec.to_string().parse(), Ok(spec));
        }
    }
}
