//! Random configurations.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::manager::StoredName;
use super::random::Random;
use crate::daemon::controller::supervisor::Plan;
use crate::daemon::ids::SlotId;

/// Number of different addresses.
const ADDRESSES: u64 = 4;

/// Configuration, reduced to the settings that the controller uses.
#[derive(Clone, Debug)]
pub(super) struct Setup {
    pub(super) slots: u32,
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) handoff: bool,
    pub(super) admin: bool,
    /// `true` if a service manager stores duplicates of the listening sockets.
    pub(super) stores: bool,
    /// Sockets passed by another program, with their names in the store.
    pub(super) passed: Vec<(SocketAddr, Option<StoredName>)>,
    pub(super) worker_timeout: Option<Duration>,
    pub(super) graceful_timeout: Duration,
    pub(super) shutdown_delay: Duration,
    pub(super) drain_timeout: Duration,
}

impl Setup {
    pub(super) fn plan(&self) -> Plan {
        Plan {
            slots: self.slots,
            worker_timeout: self.worker_timeout,
            graceful_timeout: self.graceful_timeout,
            shutdown_delay: self.shutdown_delay,
            drain_timeout: self.drain_timeout,
            admin: self.admin,
        }
    }
}

fn address(number: u64) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 7000 + number as u16).into()
}

fn some_addresses(random: &mut Random) -> Vec<SocketAddr> {
    let count = random.between(1, 3);
    let first = random.below(ADDRESSES);
    (0..count).map(|step| address((first + step) % ADDRESSES)).collect()
}

/// Returns the configuration at the start of the daemon.
pub(super) fn first_setup(random: &mut Random) -> Setup {
    let millis = |random: &mut Random, low, high| Duration::from_millis(random.between(low, high));
    let mut setup = Setup {
        slots: random.between(1, 4) as u32,
        addresses: some_addresses(random),
        handoff: random.chance(35),
        admin: random.chance(50),
        stores: random.chance(30),
        passed: Vec::new(),
        worker_timeout: random.chance(75).then(|| millis(random, 1000, 8000)),
        graceful_timeout: millis(random, 500, 6000),
        shutdown_delay: if random.chance(30) { millis(random, 50, 2000) } else { Duration::ZERO },
        drain_timeout: millis(random, 500, 12_000),
    };
    if random.chance(15) {
        // Rarely more sockets than fit into one message.
        let count = if random.chance(3) { 140 } else { random.between(1, 7) };
        let stored = setup.stores && random.chance(40);
        setup.addresses.truncate(2);
        for number in 0..count {
            let address = setup.addresses[random.index(setup.addresses.len())];
            let name = (SlotId(random.between(1, 4) as u32), number as u32);
            setup.passed.push((address, (stored && random.chance(60)).then_some(name)));
        }
        setup.addresses.retain(|address| setup.passed.iter().any(|(passed, _)| passed == address));
    }
    setup
}

/// Returns the configuration for a reload: a variation of the current one.
pub(super) fn next_setup(current: &Setup, random: &mut Random) -> Setup {
    let mut next = current.clone();
    if random.chance(40) && current.passed.is_empty() {
        next.addresses = some_addresses(random);
    }
    if random.chance(30) {
        next.slots = random.between(1, 4) as u32;
    }
    if random.chance(20) {
        next.handoff = !current.handoff;
    }
    if random.chance(20) {
        next.admin = !current.admin;
    }
    if random.chance(20) {
        next.drain_timeout = Duration::from_millis(random.between(500, 12_000));
    }
    if random.chance(10) {
        next.worker_timeout =
            random.chance(75).then(|| Duration::from_millis(random.between(1000, 8000)));
    }
    next
}
