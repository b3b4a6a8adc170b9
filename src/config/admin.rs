//! Address and host names of the admin process.

use std::fmt::{self, Display};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::value::{Scalar, ValueError};

/// The longest path of a Unix socket, in bytes (unix(7)).
const LONGEST_PATH: usize = 107;

/// The longest host name, in bytes (RFC 1035, 2.3.4).
const LONGEST_NAME: usize = 253;

/// Address that the admin process listens on.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(try_from = "String", into = "String")]
pub enum AdminAddress {
    /// TCP address; a port alone is on loopback.
    Tcp(SocketAddr),
    /// Absolute path of a Unix socket.
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

impl TryFrom<String> for AdminAddress {
    type Error = ValueError;

    fn try_from(text: String) -> Result<Self, ValueError> {
        text.parse()
    }
}

impl From<AdminAddress> for String {
    fn from(address: AdminAddress) -> Self {
        address.to_string()
    }
}

impl Scalar for AdminAddress {
    const NAME: &'static str = "[ADDR:]PORT";
}

/// Host name that requests to the admin process may have: in lower case, without a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostName(String);

impl HostName {
    /// Returns `true` if `name`, from a URL, is this name in any case, with a final dot or without.
    pub fn is(&self, name: &str) -> bool {
        self.0.eq_ignore_ascii_case(name.strip_suffix('.').unwrap_or(name))
    }
}

impl FromStr for HostName {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        // A list may have spaces after its commas.
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

impl Scalar for HostName {
    const NAME: &'static str = "NAME";
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
