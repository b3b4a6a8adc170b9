//! Listeners: from `--listen`, `[[listener]]`, and the global options to addresses, services, and
//! connection settings.
//!
//! | module | contents |
//! |---|---|
//! | `address` | an address as it is written |
//! | `endpoint` | addresses with port and address families, none of which overlap |
//! | `url` | the text form of a listener: `lines://*:8002?prefix=%3E%20` |
//! | `table` | the form of the file: `[[listener]]` |

mod address;
mod endpoint;
pub(super) mod table;
mod url;

use std::net::SocketAddr;

use self::address::Address;
pub(super) use self::endpoint::ListError;
pub use self::endpoint::{Endpoint, Scope};
use super::layers::{connection, filled, keepalive};
use super::options::Settings;
use super::service::{self, ServiceConfig, ServiceName};
use super::value::Scalar;
use super::{ListenConfig, ListenerConfig};

/// Value of `--listen`: an address, and settings for its connections.
#[derive(Clone, Debug, PartialEq)]
pub struct ListenSpec {
    address: Address,
    /// `None`: the service of `--service`.
    service: Option<ServiceName>,
    /// Values of the keys; they win over the global options.
    settings: Settings,
}

impl Scalar for ListenSpec {
    const NAME: &'static str = "ADDR[:PORT]";
}

/// Derives the listeners from their texts and the global settings, which include the defaults.
///
/// # Errors
/// The addresses do not fit each other, or a key does not fit the service.
pub(super) fn listeners(
    specs: &[ListenSpec],
    global: &Settings,
) -> Result<Vec<ListenerConfig>, ListError> {
    let addresses: Vec<Address> = specs.iter().map(|spec| spec.address).collect();
    let endpoints = endpoint::resolve(&addresses, filled(global.port).get())?;
    let with_endpoints = specs.iter().zip(endpoints).enumerate();
    let listeners = with_endpoints.map(|(index, (spec, endpoint))| {
        spec.listener(endpoint, global).map_err(|message| ListError { index: Some(index), message })
    });
    listeners.collect()
}

impl ListenSpec {
    fn listener(&self, endpoint: Endpoint, global: &Settings) -> Result<ListenerConfig, String> {
        let service = self.service.unwrap_or(filled(global.service));
        for key in service::keys(None).filter(|key| key.is_in(&self.settings)) {
            service::key(Some(service), key.name).map_err(|error| format!("'{self}': {error}"))?;
        }
        let settings = self.settings.clone().or(global.clone());
        Ok(ListenerConfig {
            endpoint,
            service: ServiceConfig::new(service, &settings),
            connection: connection(&settings),
            nodelay: filled(settings.enable_nodelay),
            keepalive: keepalive(&settings),
        })
    }
}

impl ListenConfig {
    /// Returns the addresses to listen on.
    pub fn endpoints(&self) -> impl ExactSizeIterator<Item = Endpoint> + Clone + '_ {
        self.listeners.iter().map(|listener| listener.endpoint)
    }

    /// Returns the first listener of each kind, in their order.
    pub fn kinds(&self) -> impl Iterator<Item = &ListenerConfig> {
        let is_first = |(index, listener): &(usize, &ListenerConfig)| {
            !self.listeners[..*index].iter().any(|earlier| earlier.serves_like(listener))
        };
        self.listeners.iter().enumerate().filter(is_first).map(|(_, listener)| listener)
    }

    /// Returns the listener that a bound address belongs to. The address can differ from the
    /// configured one: port 0 becomes a free port, and without IPv6 `*` is an IPv4 address. Sockets
    /// that were passed have the address of their unit; if no listener covers it, they belong to the
    /// first one.
    pub fn listener_at(&self, bound: SocketAddr) -> &ListenerConfig {
        let by_rank = |listener: &&ListenerConfig| listener.endpoint.mismatch(bound);
        let matching = self.listeners.iter().filter(|listener| by_rank(listener).is_some());
        matching.min_by_key(by_rank).unwrap_or(&self.listeners[0])
    }
}

impl ListenerConfig {
    /// Returns `true` if connections of both listeners differ in nothing but their address.
    pub fn serves_like(&self, other: &Self) -> bool {
        self.service == other.service && self.connection == other.connection
    }
}

impl Endpoint {
    /// Returns how far a bound address is from this endpoint, 0 if they are equal. `None`: a socket
    /// of this endpoint has another address.
    fn mismatch(&self, bound: SocketAddr) -> Option<u8> {
        let scope = if bound.is_ipv4() { Scope::V4 } else { Scope::V6Only };
        let other = Self { address: bound, scope };
        let mut with_port = *self;
        if self.address.port() == 0 {
            with_port.address.set_port(bound.port());
        }
        match () {
            () if self.address == bound => Some(0),
            () if self.covers(&other) => Some(1),
            () if with_port.address == bound => Some(2),
            () if with_port.covers(&other) => Some(3),
            () => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::options::OptionDefinition;
    use crate::config::{ConnectionConfig, IdleClose, Keepalive, Splice};

    /// Returns the listeners of a comma-separated list, with `global` settings such as `port=1`.
    fn resolve(list: &str, global: &[(&str, &str)]) -> Result<ListenConfig, ListError> {
        let option = |name| OptionDefinition::find(name).expect("an option");
        let global = global.iter().fold(Settings::default(), |settings, (name, value)| {
            settings.or(option(name).parse(value).expect("valid"))
        });
        let specs = option("listen").parse(list).expect("valid").listen.expect("a list");
        let listeners = listeners(&specs, &global.or(Settings::defaults()))?;
        Ok(ListenConfig { listeners, backlog: 128, share_port: false })
    }

    #[test]
    fn a_listener_has_its_own_settings_and_the_global_ones_for_the_rest() {
        let list = "*:1,lines://*:2?prefix={pid}%2C&quit=yes&max-line=1K&idle-timeout=3s\
                    &write-timeout=0&linger-timeout=4&keepalive-delay=50&enable-nodelay=false\
                    &buffer-size=8K&splice=off&enable-send-reset=true&idle-message=";
        let global = [("idle-message", "bye"), ("idle-timeout", "7s"), ("keepalive-delay", "60")];
        let config = resolve(list, &global).expect("valid");
        let [plain, own] = &config.listeners[..] else { panic!("{config:?}") };

        assert_eq!(plain.service.name, ServiceName::Echo);
        assert_eq!(plain.connection.idle_timeout, Some(Duration::from_secs(7)));
        assert_eq!(plain.connection.idle_message.as_deref(), Some("bye"));
        assert!(plain.nodelay);
        let minute = Duration::from_secs(60);
        // 60 seconds of silence, and three probes.
        let give_up = Some(Duration::from_secs(90));
        assert_eq!(plain.keepalive, Some(Keepalive { delay: minute, give_up }));

        let prefix = "{pid},".parse().expect("a template");
        let name = ServiceName::Lines;
        assert_eq!(own.service, ServiceConfig { name, prefix, quit: true, max_line: 1024 });
        assert_eq!(
            own.connection,
            ConnectionConfig {
                buffer_size: 8192,
                splice: Splice::Off,
                idle_timeout: Some(Duration::from_secs(3)),
                write_timeout: None,
                linger_timeout: Duration::from_secs(4),
                idle_close: IdleClose::Reset,
                idle_message: None,
            }
        );
        assert!(!own.nodelay);
        let delay = Duration::from_secs(50);
        assert_eq!(own.keepalive, Some(Keepalive { delay, give_up: None }));
    }

    #[test]
    fn a_listener_without_a_service_has_the_global_one() {
        let lines = |list| resolve(list, &[("service", "lines")]).expect("valid").listeners;
        let (name, prefix) = (ServiceName::Lines, "".parse().expect("empty"));
        let defaults = ServiceConfig { name, prefix, quit: false, max_line: 65_536 };
        assert_eq!(lines("*")[0].service, defaults);
        assert_eq!(lines("foo://*")[0].service.name, ServiceName::Foo);
        let quit = ServiceConfig { quit: true, ..defaults };
        assert_eq!(lines("*?quit=true")[0].service, quit);
    }

    #[test]
    fn a_key_must_fit_the_global_service() {
        let error = resolve("*:1,*:2?quit=1", &[]).expect_err("echo has no such key");
        assert_eq!(error.index, Some(1));
        let expected = "'*:2?quit=true': unknown key 'quit'; 'echo' has idle-timeout, ";
        assert!(error.message.starts_with(expected), "{}", error.message);
    }

    #[test]
    fn every_service_is_a_configuration() {
        for name in ServiceName::ALL {
            let listener = &resolve(&format!("{name}://*"), &[]).expect("valid").listeners[0];
            assert_eq!(listener.service.name, *name);
        }
    }

    #[test]
    fn a_bound_address_belongs_to_the_nearest_listener() {
        let config = resolve("127.0.0.1:80,0.0.0.0:0,[::1]:0,[::]:7,0.0.0.0:7,*:90,[::1]:91", &[]);
        let config = config.expect("valid");
        for (bound, written) in [
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("127.0.0.1:40000", "0.0.0.0:0"),
            ("0.0.0.0:40000", "0.0.0.0:0"),
            ("[::1]:40000", "[::1]:0"),
            ("[::]:7", "[::]:7"),
            ("0.0.0.0:7", "0.0.0.0:7"),
            ("10.0.0.1:7", "0.0.0.0:7"),
            ("[::2]:7", "[::]:7"),
            // A host without IPv6.
            ("0.0.0.0:90", "[::]:90"),
            ("10.0.0.1:90", "[::]:90"),
            ("[::1]:91", "[::1]:91"),
        ] {
            let listener = config.listener_at(bound.parse().expect("an address"));
            assert_eq!(listener.endpoint.to_string(), written, "{bound}");
        }
        let config = resolve("127.0.0.1:80,[::1]:81", &[]).expect("valid");
        let first = config.listener_at("10.0.0.1:81".parse().expect("an address"));
        assert_eq!(first.endpoint.to_string(), "127.0.0.1:80");
    }
}
