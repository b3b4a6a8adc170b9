//! Address reservations, and the check that service and admin process use different addresses.

use std::io;
use std::net::SocketAddr;

use crate::config::{AdminAddress, Config, Endpoint, ListenConfig};
use crate::daemon::admin_socket::AdminSocketError;
use crate::daemon::listeners::{ListenError, Reservation};

/// Reserves every configured address, reusing the `existing` reservations. Addresses with port 0
/// share the port of the first one. `ours` are addresses on which sockets of this daemon still
/// listen.
///
/// # Errors
/// [`ListenError`]; the existing reservations are unchanged.
pub(crate) fn reserve_all(
    options: &ListenConfig,
    existing: &mut Vec<Reservation>,
    ours: &[SocketAddr],
) -> Result<Vec<Reservation>, ListenError> {
    let mut free_port = 0;
    let mut reservations: Vec<Reservation> = Vec::new();
    let mut fresh = Vec::new();
    for wanted in options.endpoints() {
        let known = existing.iter().find(|reservation| reservation.wanted == wanted);
        let endpoint = match known {
            Some(reservation) => reservation.endpoint,
            None => {
                let shared = options.share_port || ours.contains(&wanted.address);
                let reservation = Reservation::new(wanted, free_port, shared)?;
                fresh.push(reservation);
                fresh[fresh.len() - 1].endpoint
            }
        };
        if wanted.address.port() == 0 {
            free_port = endpoint.address.port();
        }
    }
    // Nothing can fail from here on, so the existing ones are used.
    existing.retain(|reservation| options.endpoints().any(|it| it == reservation.wanted));
    for wanted in options.endpoints() {
        let of_wanted = |reservation: &Reservation| reservation.wanted == wanted;
        let from = if fresh.iter().any(of_wanted) { &mut fresh } else { &mut *existing };
        if let Some(index) = from.iter().position(of_wanted) {
            reservations.push(from.remove(index));
        }
    }
    Ok(reservations)
}

/// Checks that the admin process and the service use different addresses. The system's error would
/// name no cause.
///
/// # Errors
/// [`AdminSocketError`].
pub(crate) fn check_admin_address(
    config: &Config,
    passed: &[Endpoint],
) -> Result<(), AdminSocketError> {
    let Some(AdminAddress::Tcp(address)) = config.admin.address else { return Ok(()) };
    let configured = config.listen.endpoints().filter(|_| passed.is_empty());
    let mut all = configured.chain(passed.iter().copied());
    match all.find(|endpoint| endpoint.clashes_with(address)) {
        Some(endpoint) => Err(AdminSocketError {
            address: AdminAddress::Tcp(address),
            source: io::Error::other(format!("address already used by --listen {endpoint}")),
        }),
        None => Ok(()),
    }
}
