//! Judgements about the network: what the kernel grants, and what a load test may run into.

use super::facts::{Conntrack, Facts, Ipv6};
use super::files::{Fact, Unread, if_any};
use super::report::Verdict;
use crate::config::{Config, Endpoint, Scope};

/// The kernel cuts every listener's queue to its own limit.
pub(super) fn queue(facts: &Facts, config: &Config) -> Fact<Verdict> {
    let limit = facts.somaxconn.clone()?;
    let backlog = u64::from(config.listen.backlog);
    Ok(if limit < backlog {
        let text = format!("--connection-backlog {backlog} is cut to {limit} (net.core.somaxconn)");
        Verdict::warn(text).advise(format!("sysctl -w net.core.somaxconn={backlog}"))
    } else {
        let workers = config.fleet.workers;
        Verdict::ok(format!(
            "{backlog} connections may wait for each of {workers} workers; the kernel permits \
             {limit} (net.core.somaxconn)"
        ))
    })
}

/// Connections whose handshake is under way. With cookies the kernel needs no place for them.
pub(super) fn handshakes(facts: &Facts, config: &Config) -> Fact<Verdict> {
    let limit = facts.syn_backlog.clone()?;
    let backlog = u64::from(config.listen.backlog);
    if limit >= backlog {
        return Ok(Verdict::ok(format!("{limit} may be under way (net.ipv4.tcp_max_syn_backlog)")));
    }
    let text = format!(
        "{limit} may be under way (net.ipv4.tcp_max_syn_backlog), fewer than \
         --connection-backlog {backlog}"
    );
    let verdict = match facts.syncookies.clone()? {
        0 => Verdict::warn(format!("{text}, and there are no SYN cookies to help out")),
        _ => Verdict::note(format!("{text}; SYN cookies help out")),
    };
    Ok(verdict.advise(format!("sysctl -w net.ipv4.tcp_max_syn_backlog={backlog}")))
}

/// `tcp_migrate_req` lets the kernel move the queue of a listener that is closed to another one. A
/// worker's queue never closes while the controller lives, so it matters for several daemons only.
pub(super) fn migration(facts: &Facts, config: &Config) -> Fact<Verdict> {
    let Some(value) = if_any(facts.migrate_req.clone())? else {
        return Ok(Verdict::ok("not in this kernel, and not needed (net.ipv4.tcp_migrate_req)"));
    };
    Ok(match (value, config.listen.share_port) {
        (0, false) => Verdict::ok("off, and not needed (net.ipv4.tcp_migrate_req)"),
        (0, true) => {
            let text = "off (net.ipv4.tcp_migrate_req): with --allow-shared-port what waits for a \
                        daemon that is killed is reset";
            Verdict::note(text).advise("sysctl -w net.ipv4.tcp_migrate_req=1")
        }
        _ => Verdict::ok("on (net.ipv4.tcp_migrate_req)"),
    })
}

/// New connections avoid workers in trouble only where the kernel takes a program for it.
pub(super) fn steering(facts: &Facts, config: &Config) -> Fact<Verdict> {
    Ok(match &facts.steering {
        Ok(()) if config.listen.share_port => {
            Verdict::note("works, but is not used with --allow-shared-port")
        }
        Ok(()) => Verdict::ok("works (SO_ATTACH_REUSEPORT_CBPF)"),
        Err(reason) => {
            let text = format!(
                "does not work (SO_ATTACH_REUSEPORT_CBPF: {reason}): new connections do not avoid \
                 workers in trouble"
            );
            Verdict::warn(text).advise("it needs Linux 4.6, and a sandbox that permits it")
        }
    })
}

/// `*` is IPv4 only where there is no IPv6.
pub(super) fn ipv6(facts: &Facts, config: &Config) -> Fact<Verdict> {
    let Ipv6 { sockets, addresses, bindv6only } = &facts.ipv6;
    let wanted = config.listen.endpoints.iter().any(|endpoint| endpoint.scope != Scope::V4);
    if !sockets {
        return Ok(match wanted {
            true => Verdict::note("not there: * is 0.0.0.0, and no IPv6 address can be had")
                .advise("boot without ipv6.disable=1, or --listen 0.0.0.0 to say what is meant"),
            false => Verdict::ok("not there, and not asked for"),
        });
    }
    Ok(match if_any(addresses.clone())? {
        None | Some(0) if wanted => {
            Verdict::note("no interface has an IPv6 address, so no client can use one")
                .advise("sysctl -w net.ipv6.conf.all.disable_ipv6=0, and bring the interfaces up")
        }
        None | Some(0) => Verdict::ok("no interface has an address, and none is asked for"),
        Some(_) if matches!(bindv6only, Ok(1..)) => {
            Verdict::ok("can be used; net.ipv6.bindv6only is on, and * is IPv4, too, all the same")
        }
        Some(_) => Verdict::ok("can be used"),
    })
}

/// Ports for outgoing connections: a load test on this machine has no more of them, and the daemon
/// should not listen on one of them.
pub(super) fn local_ports(facts: &Facts, config: &Config) -> Fact<Verdict> {
    const RANGE: &str = "net.ipv4.ip_local_port_range";
    let (first, last) = range(&facts.ports.local.clone()?).ok_or_else(|| {
        Unread::new("/proc/sys/net/ipv4/ip_local_port_range", "it is not a range of ports")
    })?;
    let reserved = if_any(facts.ports.reserved.clone())?.unwrap_or_default();
    let is_reserved = |port: u16| {
        reserved.split(',').filter_map(range).any(|(first, last)| (first..=last).contains(&port))
    };
    let is_local = |port: &u16| (first..=last).contains(port) && !is_reserved(*port);
    let mut ports =
        config.listen.endpoints.iter().map(|endpoint: &Endpoint| endpoint.address.port());
    if let Some(port) = ports.find(is_local) {
        let text = format!(
            "an outgoing connection may get port {port} before the daemon does ({first}-{last}, \
             {RANGE})"
        );
        let all = if reserved.is_empty() { port.to_string() } else { format!("{reserved},{port}") };
        let advice = format!("sysctl -w net.ipv4.ip_local_reserved_ports={all}");
        return Ok(Verdict::note(text).advise(advice));
    }
    let count = u64::from(last.saturating_sub(first)) + 1;
    let text = format!(
        "{count} connections at once from one address of a client here ({first}-{last}, {RANGE})"
    );
    Ok(match asked_for(config) {
        Some(wanted) if wanted > count => {
            let text = format!("{text}, fewer than the {wanted} that the workers may have");
            Verdict::note(text)
                .advise(format!("bench --source-ip, or sysctl -w {RANGE}=\"1024 65535\""))
        }
        _ => Verdict::ok(text),
    })
}

/// `32768 60999`, `9000-9010` or `80`.
fn range(text: &str) -> Option<(u16, u16)> {
    let mut ends = text.split([' ', '\t', '-']).map(|end| end.parse::<u16>());
    let first = ends.next()?.ok()?;
    Some((first, ends.next().unwrap_or(Ok(first)).ok()?))
}

/// A table of connections that is full drops new ones without a word.
pub(super) fn conntrack(facts: &Facts, config: &Config) -> Fact<Verdict> {
    let Conntrack { most, now, time_wait } = &facts.conntrack;
    let Some(most) = if_any(most.clone())? else {
        return Ok(Verdict::ok("not there: nobody keeps a table of connections"));
    };
    let now = now.clone()?;
    let free = most.saturating_sub(now);
    let table = format!("{most} entries (net.netfilter.nf_conntrack_max), {now} in use");
    if let Some(wanted) = asked_for(config).filter(|wanted| *wanted > free) {
        let text = format!("{table}, too few for the {wanted} connections of the workers");
        let enough = now.saturating_add(wanted).saturating_mul(2);
        let advice = format!("sysctl -w net.netfilter.nf_conntrack_max={enough}");
        return Ok(Verdict::warn(text).advise(advice));
    }
    let seconds = time_wait.clone().unwrap_or(120).max(1);
    let rate = free / seconds;
    let text = format!(
        "{table}; a closed connection keeps its own for {seconds} s, so a test with more than \
         {rate} new ones a second fills the table"
    );
    let more = most.saturating_mul(4);
    let advice = format!("for such a test: sysctl -w net.netfilter.nf_conntrack_max={more}");
    Ok(Verdict::note(text).advise(advice))
}

/// The connections that all workers may have at once, if that is limited.
fn asked_for(config: &Config) -> Option<u64> {
    let most = u64::from(config.connection.max_concurrent_connections?.get());
    Some(most * u64::from(config.fleet.workers.get()))
}

#[cfg(test)]
#[path = "network_tests.rs"]
mod tests;
