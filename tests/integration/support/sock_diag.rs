//! Lists TCP sockets by sock_diag(7). The kernel filters by state, so connections in TIME_WAIT cost nothing;
//! `/proc/net/tcp` lists them all.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::{Domain, Protocol, Socket as Netlink, Type};

use super::proc::Socket;

/// Mask of socket states; the bit numbers are those of tcp_states.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct States(u32);

impl States {
    /// Listeners.
    pub(crate) const LISTEN: Self = Self(1 << LISTEN);
    /// All states of a socket that a process can hold: all but TIME_WAIT and SYN_RECV.
    pub(crate) const HELD: Self = Self(0xfff & !(1 << 6) & !(1 << 3));
}

const LISTEN: u8 = 10;

// linux/netlink.h and linux/sock_diag.h
const NETLINK_SOCK_DIAG: i32 = 4;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST_DUMP: u16 = 0x301;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const IPPROTO_TCP: u8 = 6;

/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Length of `struct inet_diag_req_v2`.
const REQUEST: usize = 56;
/// Length of `struct inet_diag_msg`, without attributes.
const MESSAGE: usize = 72;

/// Returns the IPv4 and IPv6 sockets in these states.
///
/// # Errors
/// The kernel has no sock_diag(7).
pub(crate) fn sockets(states: States) -> io::Result<Vec<Socket>> {
    let mut all = Vec::new();
    for family in [Domain::IPV4, Domain::IPV6] {
        dump(i32::from(family) as u8, states, &mut all)?;
    }
    Ok(all)
}

fn dump(family: u8, states: States, all: &mut Vec<Socket>) -> io::Result<()> {
    // AF_NETLINK
    let domain = Domain::from(16);
    let mut netlink = Netlink::new(domain, Type::RAW, Some(Protocol::from(NETLINK_SOCK_DIAG)))?;
    netlink.set_read_timeout(Some(super::SOON))?;
    let mut request = Vec::with_capacity(HEADER + REQUEST);
    request.extend(((HEADER + REQUEST) as u32).to_ne_bytes());
    request.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request.extend(NLM_F_REQUEST_DUMP.to_ne_bytes());
    // Sequence number and port.
    request.extend([0; 8]);
    request.extend([family, IPPROTO_TCP, 0, 0]);
    request.extend(states.0.to_ne_bytes());
    request.resize(HEADER + REQUEST, 0);
    netlink.write_all(&request)?;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = super::client::uninterrupted(|| netlink.read(&mut buffer))?;
        let mut rest = &buffer[..length];
        while rest.len() >= HEADER {
            let size = (word(rest, 0) as usize).clamp(HEADER, rest.len());
            match u16::from_ne_bytes([rest[4], rest[5]]) {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => {
                    return Err(io::Error::from_raw_os_error(-(word(rest, HEADER) as i32)));
                }
                _ => all.extend(rest.get(HEADER..size).and_then(socket)),
            }
            // Messages are aligned to four bytes.
            rest = &rest[size.next_multiple_of(4).min(rest.len())..];
        }
    }
}

/// Decodes a `struct inet_diag_msg`: family, state, timer, retransmissions; ports, addresses, interface,
/// cookie; expiry, queues, user, inode.
fn socket(message: &[u8]) -> Option<Socket> {
    if message.len() < MESSAGE {
        return None;
    }
    let port = |at: usize| u16::from_be_bytes([message[at], message[at + 1]]);
    let address = |at: usize| -> IpAddr {
        let bytes: [u8; 16] = message[at..at + 16].try_into().expect("sixteen bytes");
        if i32::from(message[0]) == i32::from(Domain::IPV4) {
            Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]).into()
        } else {
            Ipv6Addr::from(bytes).into()
        }
    };
    Some(Socket {
        inode: u64::from(word(message, 68)),
        local: SocketAddr::new(address(8), port(4)),
        remote: SocketAddr::new(address(24), port(6)),
        listens: message[1] == LISTEN,
        keepalive: message[2] == 2,
        retransmits: message[2] == 1,
        queued: word(message, 56) as usize,
    })
}

fn word(bytes: &[u8], at: usize) -> u32 {
    let word = bytes.get(at..at + 4).and_then(|word| word.try_into().ok());
    word.map_or(0, u32::from_ne_bytes)
}
