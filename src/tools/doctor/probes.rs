//! Probes: trial binds of the configured addresses, and write permissions of the configured files.

use std::io;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

use super::files::Files;
use super::socket_owner::{self, SocketOwner};
use crate::config::{AccessLog, AdminAddress, Config, Endpoint, ListenConfig};
use crate::daemon::admin_socket::{self, AdminSocket};
use crate::daemon::listeners::{ListenError, Reservation};
use crate::text::reason;

/// Result of a trial bind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum BindResult {
    Free,
    /// In use, by a process that may be visible.
    InUse(Option<SocketOwner>),
    Denied,
    /// Any other error, as one clause.
    Failed(String),
}

/// A file that the daemon is configured to write.
#[derive(Clone, Debug)]
pub(super) struct OutputFile {
    pub(super) subject: &'static str,
    pub(super) path: PathBuf,
    /// Reason why the file cannot be written.
    pub(super) error: Option<String>,
}

/// Binds each listen address briefly, as the daemon would.
pub(super) fn bind_endpoints(files: &Files, listen: &ListenConfig) -> Vec<(Endpoint, BindResult)> {
    let endpoints = listen.endpoints();
    endpoints.map(|endpoint| (endpoint, bind(files, endpoint, listen.share_port))).collect()
}

fn bind(files: &Files, endpoint: Endpoint, share_port: bool) -> BindResult {
    match Reservation::new(endpoint, 0, share_port) {
        Ok(_) => BindResult::Free,
        Err(error) if error.is_in_use() => {
            BindResult::InUse(socket_owner::find(files, endpoint.address))
        }
        Err(ListenError { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => {
            BindResult::Denied
        }
        Err(error) => BindResult::Failed(error.to_string()),
    }
}

/// Binds the admin address briefly. For a Unix socket, only looks at its path.
pub(super) fn bind_admin(files: &Files, address: &AdminAddress) -> BindResult {
    let tcp = match address {
        AdminAddress::Tcp(address) => *address,
        AdminAddress::Unix(path) if path.exists() && !admin_socket::is_stale(path) => {
            return BindResult::InUse(socket_owner::find_unix(files, path));
        }
        AdminAddress::Unix(path) => {
            return write_error(path).map_or(BindResult::Free, BindResult::Failed);
        }
    };
    match AdminSocket::open(address) {
        Ok(socket) => {
            socket.remove();
            BindResult::Free
        }
        Err(error) => match error.source.kind() {
            io::ErrorKind::AddrInUse => BindResult::InUse(socket_owner::find(files, tcp)),
            io::ErrorKind::PermissionDenied => BindResult::Denied,
            _ => BindResult::Failed(error.to_string()),
        },
    }
}

/// Returns the files that the daemon is configured to write.
pub(super) fn output_files(config: &Config) -> Vec<OutputFile> {
    let (log, process) = (&config.log, &config.process);
    [
        ("pid file", process.pid_file.as_ref()),
        ("state file", process.state_file.as_ref()),
        ("access log", log.access_file.as_ref().filter(|_| log.access != AccessLog::Off)),
    ]
    .into_iter()
    .filter_map(|(subject, path)| {
        let path = path?.clone();
        Some(OutputFile { subject, error: write_error(&path), path })
    })
    .collect()
}

/// Returns the reason why a file cannot be written, without touching it.
fn write_error(path: &Path) -> Option<String> {
    let (path, flags) = match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => return Some("it is a directory".to_owned()),
        Ok(_) => (path, AccessFlags::W_OK),
        Err(_) => {
            let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
            (directory.unwrap_or(Path::new(".")), AccessFlags::W_OK | AccessFlags::X_OK)
        }
    };
    access(path, flags).err().map(|error| reason(&error.into()))
}

#[cfg(test)]
mod tests {
    use super::super::files::tree;
    use super::super::fixtures::config;
    use super::*;

    #[test]
    fn an_address_is_bound_as_the_daemon_would() {
        let (_root, files) = tree(&[]);
        let other = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = other.local_addr().expect("address");
        let bind = |listen: &str| {
            let listen = config(&format!("--listen {listen}")).listen;
            bind_endpoints(&files, &listen).swap_remove(0).1
        };
        assert_eq!(bind(&address.to_string()), BindResult::InUse(None));
        assert_eq!(bind("127.0.0.1:0"), BindResult::Free);
        let BindResult::Failed(text) = bind("203.0.113.7:0") else { panic!("not a local address") };
        assert!(text.ends_with("no interface of this host has this address"), "{text}");
    }
}
