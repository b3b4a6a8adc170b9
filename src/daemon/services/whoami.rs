//! A service that tells who answered and who asked, then ends the connection.
//!
//! ```text
//! hostname: web-1
//! pid: 4711
//! worker: 3
//! version: 2.0.0
//! local_ip: 198.51.100.1
//! local_port: 8090
//! peer_ip: 192.0.2.7
//! peer_port: 51234
//! ```

use super::expansion::{write_ip, write_port};
use super::identity::Identity;
use super::{Create, Io, Service, ServiceContext};

/// A service that sends a block of `key: value` lines and ends the connection. The keys are those of
/// templates, and `local_ip`.
#[derive(Clone, Debug)]
pub struct Whoami {
    /// Lines that are the same for all connections.
    worker: String,
}

impl Whoami {
    /// Creates the service of a worker.
    #[must_use]
    pub fn new(identity: &Identity) -> Self {
        let Identity { hostname, pid, worker, version } = identity;
        let worker =
            format!("hostname: {hostname}\npid: {pid}\nworker: {worker}\nversion: {version}\n");
        Self { worker }
    }
}

impl Create for Whoami {
    fn create(context: &ServiceContext<'_>) -> Self {
        Self::new(context.identity)
    }
}

impl Service for Whoami {
    type Session = ();

    fn opened(&mut self, (): &mut (), io: &mut impl Io) {
        let mut block = self.worker.clone().into_bytes();
        for (side, address) in [("local", io.local()), ("peer", io.peer())] {
            block.extend_from_slice(side.as_bytes());
            block.extend_from_slice(b"_ip: ");
            write_ip(address, &mut block);
            block.extend_from_slice(b"\n");
            block.extend_from_slice(side.as_bytes());
            block.extend_from_slice(b"_port: ");
            write_port(address, &mut block);
            block.extend_from_slice(b"\n");
        }
        io.send(&block);
        io.finish();
    }

    fn received(&mut self, (): &mut (), _: &mut impl Io, _: &[u8]) {}
}

#[cfg(test)]
mod tests {
    use super::super::recorder::{Recorder, converse};
    use super::*;

    fn service() -> Whoami {
        let identity =
            Identity { hostname: "web-1".into(), pid: 4711, worker: 3, version: "2.0.0" };
        Whoami::new(&identity)
    }

    #[test]
    fn a_connection_gets_the_block_and_ends() {
        let io = converse(&mut service(), []);
        let block = "hostname: web-1\npid: 4711\nworker: 3\nversion: 2.0.0\n\
            local_ip: 198.51.100.1\nlocal_port: 8090\npeer_ip: 192.0.2.7\npeer_port: 51234\n";
        assert_eq!(io.text(), block);
        assert_eq!(io.calls, [block.len()]);
        assert!(io.finished);
    }

    #[test]
    fn addresses_are_of_the_family_that_the_client_uses() {
        let address = |text: &str| Some(text.parse().expect("an address"));
        let (local, peer) = (address("[::ffff:127.0.0.1]:7"), address("[2001:db8::1]:50000"));
        let mut io = Recorder { local, peer, ..Recorder::default() };
        service().opened(&mut (), &mut io);
        let tail = "\nlocal_ip: 127.0.0.1\nlocal_port: 7\npeer_ip: 2001:db8::1\npeer_port: 50000\n";
        assert!(io.text().ends_with(tail), "{}", io.text());
    }

    #[test]
    fn every_line_is_key_and_value_even_without_addresses() {
        let mut io = Recorder { local: None, peer: None, ..Recorder::default() };
        service().opened(&mut (), &mut io);
        assert!(io.finished);
        assert_eq!(io.text().lines().count(), 8);
        assert!(io.text().lines().all(|line| line.contains(": ")), "{}", io.text());
    }
}
