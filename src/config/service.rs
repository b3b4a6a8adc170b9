//! Services of listeners, and the keys that each of them takes.

use std::fmt::{self, Display};
use std::str::FromStr;

use super::layers::filled;
use super::options::{OptionDefinition, SERVICE_KEYS, Settings, nearest};
use super::template::Template;
use super::value::{Scalar, ValueError};

/// The list of services. `services!(name)` calls the macro `name` with it. Each entry is the type of
/// the service, its name and module, what it does, and the keys that its listeners take besides the
/// connection options. A service has no other mention outside its module.
macro_rules! services {
    ($with:ident) => {
        $with! {
            Echo echo "returns its input (RFC 862)" [],
            Discard discard "discards its input (RFC 863)" [],
            Chargen chargen "sends lines of characters without end (RFC 864)" [],
            Daytime daytime "sends the time as text (RFC 867)" [],
            Time time "sends the time as a number (RFC 868)" [],
            Lines lines "returns each line behind a prefix" ["prefix", "quit", "max-line"],
            Whoami whoami "sends who answers and who asks" [],
            Foo foo "answers the requests of the foo protocol" [],
        }
    };
}
pub(crate) use services;

macro_rules! define_names {
    ($($Type:ident $name:ident $purpose:literal [$($key:literal),*],)*) => {
        /// Name of a service.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum ServiceName {
            $(#[doc = concat!("`", stringify!($name), "` ", $purpose, ".")] $Type,)*
        }

        impl ServiceName {
            /// All names, in the order in which errors have them.
            pub const ALL: &[Self] = &[$(Self::$Type),*];

            /// Returns the name as it is written.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$Type => stringify!($name),)*
                }
            }

            /// Returns what the service does, as a clause.
            pub fn purpose(self) -> &'static str {
                match self {
                    $(Self::$Type => $purpose,)*
                }
            }

            /// Returns the names of the keys that the service takes, besides the connection options.
            pub fn own_keys(self) -> &'static [&'static str] {
                match self {
                    $(Self::$Type => &[$($key),*],)*
                }
            }
        }
    };
}
services!(define_names);

/// Service of a listener, with its parameters. Those that the service does not take are the defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceConfig {
    /// Name of the service.
    pub name: ServiceName,
    /// Text to send before each line.
    pub prefix: Template,
    /// End the connection at a line `quit`.
    pub quit: bool,
    /// Longest line, in bytes, 1..=16 MiB.
    pub max_line: usize,
}

impl ServiceConfig {
    /// Returns the service with its parameters from settings that include the defaults.
    pub(super) fn new(name: ServiceName, settings: &Settings) -> Self {
        Self {
            name,
            prefix: filled(settings.prefix.clone()),
            quit: filled(settings.quit),
            max_line: filled(settings.max_line).get(),
        }
    }
}

impl FromStr for ServiceName {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let mut all = Self::ALL.iter().copied();
        all.find(|service| text.eq_ignore_ascii_case(service.as_str())).ok_or_else(|| {
            let names = || Self::ALL.iter().map(|service| service.as_str());
            let (list, tip) = (list(names()), tip(text, names()));
            ValueError(format!("'{text}' is not a service; services are {list}{tip}"))
        })
    }
}

impl Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Scalar for ServiceName {
    const NAME: &'static str = "NAME";
}

/// Returns the keys of a listener: those of its service, and the connection options. Without a
/// service the keys of all services are among them, as another layer can name the service.
pub(super) fn keys(
    service: Option<ServiceName>,
) -> impl Iterator<Item = &'static OptionDefinition> {
    let takes = move |key: &&OptionDefinition| {
        service.is_none_or(|service| service.own_keys().contains(&key.name))
    };
    SERVICE_KEYS.iter().filter(takes).chain(OptionDefinition::of_connections())
}

/// Returns the key of a listener with this name.
///
/// # Errors
/// There is none. The text is one clause that lists the keys.
pub(super) fn key(
    service: Option<ServiceName>,
    name: &str,
) -> Result<&'static OptionDefinition, ValueError> {
    keys(service).find(|key| key.name == name).ok_or_else(|| {
        let owner = service.map_or("a listener".to_owned(), |service| format!("'{service}'"));
        let names = || keys(service).map(|key| key.name);
        let (list, tip) = (list(names()), tip(name, names()));
        ValueError(format!("unknown key '{name}'; {owner} has {list}{tip}"))
    })
}

fn list(names: impl Iterator<Item = &'static str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

fn tip(word: &str, names: impl Iterator<Item = &'static str>) -> String {
    nearest(word, names).map(|name| format!("; did you mean '{name}'?")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_in_any_case() {
        for &service in ServiceName::ALL {
            assert_eq!(service.to_string().to_uppercase().parse(), Ok(service));
        }
    }

    #[test]
    fn an_unknown_service_is_an_error_that_lists_the_services() {
        let list = "services are echo, discard, chargen, daytime, time, lines, whoami, foo";
        for (text, tip) in [
            ("", ""),
            ("tcp", ""),
            ("ecko", "; did you mean 'echo'?"),
            ("line", "; did you mean 'lines'?"),
        ] {
            let message = format!("'{text}' is not a service; {list}{tip}");
            assert_eq!(text.parse::<ServiceName>(), Err(ValueError(message)));
        }
    }

    #[test]
    fn every_service_key_belongs_to_a_service() {
        for definition in SERVICE_KEYS {
            let name = definition.name;
            assert!(ServiceName::ALL.iter().any(|it| it.own_keys().contains(&name)), "{name}");
            // One name means one thing, in a listener and outside.
            assert!(OptionDefinition::find(name).is_none(), "{name}");
        }
        for &service in ServiceName::ALL {
            for name in service.own_keys() {
                assert_eq!(key(Some(service), name).map(|key| key.name), Ok(*name));
            }
        }
    }

    #[test]
    fn an_unknown_key_is_an_error_that_lists_the_keys() {
        let common = "idle-timeout, idle-message, enable-send-reset, write-timeout, \
                      linger-timeout, keepalive-delay, enable-nodelay, buffer-size, splice";
        let own = "prefix, quit, max-line";
        for (service, name, message) in [
            (Some(ServiceName::Lines), "prefx", {
                format!("'lines' has {own}, {common}; did you mean 'prefix'?")
            }),
            (Some(ServiceName::Echo), "prefix", format!("'echo' has {common}")),
            (Some(ServiceName::Echo), "workers", format!("'echo' has {common}")),
            (None, "qit", format!("a listener has {own}, {common}; did you mean 'quit'?")),
        ] {
            let error = key(service, name).map(|key| key.name);
            assert_eq!(error, Err(ValueError(format!("unknown key '{name}'; {message}"))));
        }
        assert_eq!(key(None, "prefix").map(|key| key.name), Ok("prefix"));
        assert_eq!(key(Some(ServiceName::Foo), "splice").map(|key| key.name), Ok("splice"));
    }
}
