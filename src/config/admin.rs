//! Where the admin process listens, and by which names.

use std::fmt::{self, Display};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer};
use serde::ser::{Serialize, Serializer};

use super::list;
use super::value::{ValueError, scalar, text_in_file};

/// The longest path of a Unix socket, in bytes (unix(7)).
const LONGEST_PATH: usize = 107;

/// The longest host name, in bytes (RFC 1035, 2.3.4).
const LONGEST_NAME: usize = 253;

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

/// A name that a client may call the admin process by: in lower case, without a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostName(String);

impl HostName {
    /// Returns `true` if this is `name`, as it stands in a URL.
    pub fn is(&self, name: &str) -> bool {
        self.0.eq_ignore_ascii_case(name.strip_suffix('.').unwrap_or(name))
    }
}

impl FromStr for HostName {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        // The environment's list may be written with a space after the comma.
        let name = text.trim();
        let name = name.strip_suffix('.').unwrap_or(name);
        let is_label = |label: &str| {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
            (1..=63).contains(&label.len()) && label.bytes().all(plain)
        };
        match name.len() <= LONGEST_NAME && name.split('.').all(is_label) {
            true => Ok(Self(name.to_ascii_lowercase())),
            false => Err(ValueError(format!("'{text}' is not a host name without a port"))),
        }
    }
}

impl Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

text_in_file!(HostName, "a host name such as \"echo.example\"");

/// Reads the file's `admin-host`: an array of names, or one string as in the environment.
pub(crate) fn hosts<'de, D>(deserializer: D) -> Result<Option<Vec<HostName>>, D::Error>
where
    D: Deserializer<'de>,
{
    let expected = "a host name such as \"echo.example\", or an array of them";
    list::list(deserializer, expected).map(Some)
}

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

    #[test]
    fn a_host_is_a_name_in_any_case_and_nothing_else() {
        let name: HostName = " Echo.Example. ".parse().expect("a name");
        assert_eq!(name.to_string(), "echo.example");
        assert!(name.is("ECHO.example") && name.is("echo.example."));
        assert!(!name.is("example") && !name.is("echo.example..") && !name.is(""));
        for text in ["", ".", "a..b", "a:80", "[::1]", "a b", "a/b", "*", "é", &"a.".repeat(200)] {
            assert!(text.parse::<HostName>().is_err(), "{text}");
        }
    }
}
