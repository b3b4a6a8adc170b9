//! The addresses that the daemon claims: for itself, and apart from each other.

use std::io;
use std::net::SocketAddr;

use crate::config::{AdminAddress, Config, Endpoint, ListenConfig};
use crate::process::front::FrontError;
use crate::process::sockets::{Claim, ListenError};

/// Claims every address, or takes the claim from those that are there already. Addresses without a
/// port of their own (port 0) share the first one's. On those in `ours` sockets of this daemon listen that
/// are not closed yet.
pub(super) fn claim_all(
    options: &ListenConfig,
    existing: &mut Vec<Claim>,
    ours: &[SocketAddr],
) -> Result<Vec<Claim>, ListenError> {
    let mut free_port = 0;
    let mut claims: Vec<Claim> = Vec::new();
    let mut fresh = Vec::new();
    for &wanted in &options.endpoints {
        let known = existing.iter().find(|claim| claim.wanted == wanted);
        let endpoint = match known {
            Some(claim) => claim.endpoint,
            None => {
                let shared = options.share_port || ours.contains(&wanted.address);
                let claim = Claim::new(wanted, free_port, shared)?;
                fresh.push(claim);
                fresh[fresh.len() - 1].endpoint
            }
        };
        if wanted.address.port() == 0 {
            free_port = endpoint.address.port();
        }
    }
    // Only now, when nothing can fail any more, the existing ones are used up.
    existing.retain(|claim| options.endpoints.contains(&claim.wanted));
    for wanted in &options.endpoints {
        let of_wanted = |claim: &Claim| claim.wanted == *wanted;
        let from = if fresh.iter().any(of_wanted) { &mut fresh } else { &mut *existing };
        if let Some(index) = from.iter().position(of_wanted) {
            claims.push(from.remove(index));
        }
    }
    Ok(claims)
}

/// The echo and the admin process cannot have the same address, and each would blame a stranger.
pub(super) fn keep_apart(config: &Config, passed: &[Endpoint]) -> Result<(), FrontError> {
    let Some(AdminAddress::Tcp(address)) = config.admin.address else { return Ok(()) };
    let echo = if passed.is_empty() { &config.listen.endpoints[..] } else { passed };
    match echo.iter().find(|endpoint| endpoint.clashes_with(address)) {
        Some(endpoint) => Err(FrontError {
            address: AdminAddress::Tcp(address),
            source: io::Error::other(format!("the echo listens on {endpoint}")),
        }),
        None => Ok(()),
    }
}
