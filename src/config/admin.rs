//! Where the admin process listens.

use std::fmt::{self, Display};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer};
use serde::ser::{Serialize, Serializer};

use super::value::{ValueError, scalar, text_in_file};

/// The longest path of a Unix socket, in bytes (unix(7)).
const LONGEST_PATH: usize = 107;

/// Where the admin process listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminAddress {
    /// At a TCP address; with a port alone, on loopback only.
    Tcp(SocketAddr),
    /// At a Unix socket with this absolute path.
    Unix(PathBuf),
}

impl FromStr for AdminAddress {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        if let Some(path) = text.strip_prefix("unix:") {
            let fits = path.len() <= LONGEST_PATH && !path.contains('\0');
            return match Path::new(path).is_absolute() && fits {
                true => Ok(Self::Unix(path.into())),
                false => Err(ValueError(format!(
                    "'{text}' is not unix: and an absolute path of at most {LONGEST_PATH} bytes"
                ))),
            };
        }
        let number = text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse());
        let address = match number {
            Some(Ok(port)) => Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
            Some(Err(_)) => None,
            None => match text.strip_prefix("*:") {
                Some(port) => port.parse().ok().map(|port| (Ipv4Addr::UNSPECIFIED, port).into()),
                None => text.parse().ok(),
            },
        };
        let wrong = || ValueError(format!("'{text}' is not [ADDR:]PORT or unix:/PATH"));
        address.map(Self::Tcp).ok_or_else(wrong)
    }
}

impl Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

text_in_file!(AdminAddress, "\"[ADDR:]PORT\" or \"unix:/PATH\"");

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<String, String> {
        text.parse::<AdminAddress>().map(|it| it.to_string()).map_err(|error| error.0)
    }

    #[test]
    fn a_port_alone_is_for_this_machine_only() {
        assert_eq!(parse("8091").as_deref(), Ok("127.0.0.1:8091"));
        assert_eq!(parse("*:8091").as_deref(), Ok("0.0.0.0:8091"));
        assert_eq!(parse("[::1]:8091").as_deref(), Ok("[::1]:8091"));
        assert_eq!(parse("unix:/run/tcp-echo/admin").as_deref(), Ok("unix:/run/tcp-echo/admin"));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "x", "70000", "1.2.3.4", "1.2.3.4:", "unix:", "unix:admin", "unix:/\0"] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(parse(&format!("unix:/{}", "x".repeat(107))).is_err());
    }
}
