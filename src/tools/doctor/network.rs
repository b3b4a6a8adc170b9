//! Checks of the network: kernel settings, and limits that load tests reach.

use super::facts::{Conntrack, Facts, Ipv6};
use super::files::{Fact, ReadError, if_exists};
use super::findings::Verdict;
use crate::config::{Config, Scope};

/// Compares the backlog with the kernel's limit of every accept queue.
pub(super) fn queue(facts: &Facts, config: &Config) -> Fact<Verdict> {
    let limit = facts.somaxconn.clone()?;
    let backlog = u64::from(config.listen.backlog);
    Ok(if limit < backlog {
        let text =
            format!("--connection-backlog {backlog} is limited to {limit} (net.core.somaxconn)");
        Verdict::warn(text).advise(format!("sysctl -w net.core.somaxconn={backlog}"))
    } else {
        let workers = config.fleet.workers;
        Verdict::ok(format!(
            "{backlog} connections can wait for each of {workers} workers; the kernel permits \
             {limit} (net.core.somaxconn)"
        ))
    })
}

/// Compares the backlog with the limit of incomplete handshakes, which SYN cookies do not need.
pub(super) fn handshakes(facts: &Facts, config: &Config) -> Fact<Verdict> {
    let limit = facts.syn_backlog.clone()?;
    let backlog = u64::from(config.listen.backlog);
    if limit >= backlog {
        return Ok(Verdict::ok(format!(
            "{limit} can be in progress (net.ipv4.tcp_max_syn_backlog)"
        )));
    }
    let text = format!(
        "{limit} can be in progress (net.ipv4.tcp_max_syn_backlog), fewer than \
         --connection-backlog {backlog}"
    );
    let verdict = match facts.syncookies.clone()? {
        0 => Verdict::warn(format!("{text}, and SYN cookies are off")),
        _ => Verdict::note(format!("{text}; SYN cookies compensate")),
    };
    Ok(verdict.advise(format!("sysctl -w net.ipv4.tcp_max_syn_backlog={backlog}")))
}

/// Checks `tcp_migrate_req`, which lets the kernel move the accept queue of a closed listener to another
/// one. A worker's queue never closes while the controller lives, so only several daemons need it.
pub(super) fn migration(facts: &Facts, config: &Config) -> Fact<Verdict> {
    let Some(value) = if_exists(facts.migrate_req.clone())? else {
        return Ok(Verdict::ok("not in this kernel, and not needed (net.ipv4.tcp_migrate_req)"));
    };
    Ok(match (value, config.listen.share_port) {
        (0, false) => Verdict::ok("off, and not needed (net.ipv4.tcp_migrate_req)"),
        (0, true) => {
            let text = "off (net.ipv4.tcp_migrate_req): with --allow-shared-port, killing one daemon \
                        resets the connections in its accept queue";
            Verdict::note(text).advise("sysctl -w net.ipv4.tcp_migrate_req=1")
        }
        _ => Verdict::ok("on (net.ipv4.tcp_migrate_req)"),
    })
}

/// Checks whether the kernel accepts a steering program.
pub(super) fn steering(facts: &Facts, config: &Config) -> Fact<Verdict> {
    Ok(match &facts.steering {
        Ok(()) if config.listen.share_port => {
            Verdict::note("works, but is not used with --allow-shared-port")
        }
        Ok(()) => Verdict::ok("works (SO_ATTACH_REUSEPORT_CBPF)"),
        Err(reason) => {
            let text = format!(
                "does not work (SO_ATTACH_REUSEPORT_CBPF: {reason}): new connections may reach \
                 failed workers"
            );
            Verdict::warn(text)
                .advise("Linux 4.6 or newer is needed, and a sandbox that permits the call")
        }
    })
}

/// Checks for IPv6, without which `*` is IPv4 only.
pub(super) fn ipv6(facts: &Facts, config: &Config) -> Fact<Verdict> {
    let Ipv6 { sockets, addresses, bindv6only } = &facts.ipv6;
    let wanted = config.listen.endpoints().any(|endpoint| endpoint.scope != Scope::V4);
    if !sockets {
        return Ok(match wanted {
            true => {
                Verdict::note("not available: * is 0.0.0.0, and IPv6 addresses cannot be bound")
                    .advise("boot without ipv6.disable=1, or use --listen 0.0.0.0")
            }
            false => Verdict::ok("not available, and not configured"),
        });
    }
    Ok(match if_exists(addresses.clone())? {
        None | Some(0) if wanted => {
            Verdict::note("no interface has an IPv6 address, so no client can connect to one")
                .advise("sysctl -w net.ipv6.conf.all.disable_ipv6=0, and bring the interfaces up")
        }
        None | Some(0) => Verdict::ok("no interface has an IPv6 address, and none is configured"),
        Some(_) if matches!(bindv6only, Ok(1..)) => {
            Verdict::ok("available; net.ipv6.bindv6only is on, but * still includes IPv4")
        }
        Some(_) => Verdict::ok("available"),
    })
}

/// Compares the ports for outgoing connections with the listen ports, which an outgoing connection could
/// occupy, and with the connections of a load test on this machine.
pub(super) fn local_ports(facts: &Facts, config: &Config) -> Fact<Verdict> {
    const RANGE: &str = "net.ipv4.ip_local_port_range";
    let (first, last) = range(&facts.ports.local.clone()?).ok_or_else(|| {
        ReadError::new("/proc/sys/net/ipv4/ip_local_port_range", "it is not a range of ports")
    })?;
    let reserved = if_exists(facts.ports.reserved.clone())?.unwrap_or_default();
    let is_reserved = |port: u16| {
        reserved.split(',').filter_map(range).any(|(first, last)| (first..=last).contains(&port))
    };
    let is_local = |port: &u16| (first..=last).contains(port) && !is_reserved(*port);
    let mut ports = config.listen.endpoints().map(|endpoint| endpoint.address.port());
    if let Some(port) = ports.find(is_local) {
        let text = format!(
            "an outgoing connection may take port {port} before the daemon ({first}-{last}, {RANGE})"
        );
        let all = if reserved.is_empty() { port.to_string() } else { format!("{reserved},{port}") };
        let advice = format!("sysctl -w net.ipv4.ip_local_reserved_ports={all}");
        return Ok(Verdict::note(text).advise(advice));
    }
    let count = u64::from(last.saturating_sub(first)) + 1;
    let text = format!(
        "{count} connections from each address of a client on this machine ({first}-{last}, {RANGE})"
    );
    Ok(match max_connections(config) {
        Some(max) if max > count => {
            Verdict::note(format!("{text}, fewer than the {max} that the workers accept"))
                .advise(format!("bench --source-ip, or sysctl -w {RANGE}=\"1024 65535\""))
        }
        _ => Verdict::ok(text),
    })
}

/// Parses `32768 60999`, `9000-9010`, or `80`.
fn range(text: &str) -> Option<(u16, u16)> {
    let mut ends = text.split([' ', '\t', '-']).map(|end| end.parse::<u16>());
    let first = ends.next()?.ok()?;
    Some((first, ends.next().unwrap_or(Ok(first)).ok()?))
}

/// Checks the table of tracked connections. If it is full, the kernel silently drops new ones.
pub(super) fn conntrack(facts: &Facts, config: &Config) -> Fact<Verdict> {
    let Conntrack { max, count, time_wait } = &facts.conntrack;
    let Some(max) = if_exists(max.clone())? else {
        return Ok(Verdict::ok("connections are not tracked"));
    };
    let count = count.clone()?;
    let free = max.saturating_sub(count);
    let table = format!("{count} of {max} entries in use (net.netfilter.nf_conntrack_max)");
    if let Some(wanted) = max_connections(config).filter(|wanted| *wanted > free) {
        let text = format!("{table}, too few for the {wanted} connections of the workers");
        let enough = count.saturating_add(wanted).saturating_mul(2);
        let advice = format!("sysctl -w net.netfilter.nf_conntrack_max={enough}");
        return Ok(Verdict::warn(text).advise(advice));
    }
    let seconds = time_wait.clone().unwrap_or(120).max(1);
    let rate = free / seconds;
    let text = format!(
        "{table}; closed connections stay for {seconds} s, so more than {rate} new ones per second \
         fill the table"
    );
    let more = max.saturating_mul(4);
    let advice = format!("for such a load: sysctl -w net.netfilter.nf_conntrack_max={more}");
    Ok(Verdict::note(text).advise(advice))
}

/// Returns the configured limit of connections of all workers together.
fn max_connections(config: &Config) -> Option<u64> {
    let limit = u64::from(config.limits.max_concurrent_connections?.get());
    Some(limit * u64::from(config.fleet.workers.get()))
}

#[cfg(test)]
#[path = "network_tests.rs"]
mod tests;
