//! Checks of the listen addresses.

use super::facts::Facts;
use super::files::Fact;
use super::findings::Verdict;
use super::probes::BindResult;
use crate::config::{Config, Endpoint};

/// Checks the privilege for ports below `ip_unprivileged_port_start`.
pub(super) fn low_ports(facts: &Facts, _: &Config) -> Fact<Verdict> {
    let first = facts.ports.unprivileged.clone()?;
    let low = facts.addresses.iter().filter(|(endpoint, _)| is_low(endpoint, first));
    let Some(lowest) = low.clone().map(|(endpoint, _)| endpoint.address.port()).min() else {
        return Ok(Verdict::ok(format!("no privilege is needed for ports from {first} on")));
    };
    if low.clone().any(|(_, result)| *result == BindResult::Denied) {
        let text = format!("port {lowest} is below {first}, and CAP_NET_BIND_SERVICE is missing");
        return Ok(Verdict::wrong(text).advise(format!(
            "AmbientCapabilities=CAP_NET_BIND_SERVICE in the unit, docker run --cap-add \
             NET_BIND_SERVICE, or sysctl -w net.ipv4.ip_unprivileged_port_start={lowest}"
        )));
    }
    Ok(match facts.ports.privilege {
        Ok(true) => Verdict::note(format!(
            "port {lowest} is below {first}: permitted by CAP_NET_BIND_SERVICE, which the daemon \
             also needs"
        )),
        _ => Verdict::ok(format!("port {lowest} is below {first}, but can be bound")),
    })
}

fn is_low(endpoint: &Endpoint, first: u64) -> bool {
    let port = endpoint.address.port();
    port != 0 && u64::from(port) < first
}

/// Returns a verdict for each listen address, unless [`low_ports`] already reports it.
pub(super) fn check(facts: &Facts) -> Vec<Verdict> {
    let is_reported = |endpoint: &Endpoint, result: &BindResult| {
        let low = facts.ports.unprivileged.as_ref().is_ok_and(|first| is_low(endpoint, *first));
        low && *result == BindResult::Denied
    };
    let addresses = facts.addresses.iter();
    let addresses = addresses.filter(|(endpoint, result)| !is_reported(endpoint, result));
    addresses.map(|(endpoint, result)| endpoint_verdict(endpoint, result)).collect()
}

fn endpoint_verdict(endpoint: &Endpoint, result: &BindResult) -> Verdict {
    let verdict = |option| bind_verdict(&endpoint.to_string(), result, option);
    match result {
        BindResult::Free if endpoint.address.port() == 0 => {
            Verdict::ok(format!("{}: any free port", endpoint.address.ip()))
        }
        BindResult::InUse(Some(owner)) if owner.is_service_manager() => Verdict::warn(format!(
            "{endpoint} is in use by {owner}; correct if it passes the socket to the daemon"
        ))
        .advise("systemctl list-sockets shows its purpose"),
        BindResult::InUse(Some(owner)) if owner.is_tcp_echo() => {
            verdict("--port or --listen, or --allow-shared-port")
        }
        BindResult::InUse(None) => {
            verdict("").advise(format!("as root: ss -ltnp sport = :{}", endpoint.address.port()))
        }
        BindResult::Failed(_) => verdict("").advise("correct --listen, or the interface"),
        _ => verdict("--port or --listen"),
    }
}

/// Returns the verdict on a trial bind. The advice is to choose another value of `option`.
pub(super) fn bind_verdict(address: &str, result: &BindResult, option: &str) -> Verdict {
    let another = format!("choose another {option}");
    match result {
        BindResult::Free => Verdict::ok(format!("{address} is free")),
        BindResult::InUse(Some(owner)) if owner.is_tcp_echo() => {
            Verdict::warn(format!("{address} is in use by {owner}; a second daemon cannot start"))
                .advise(format!("for a second daemon: another {option}"))
        }
        BindResult::InUse(Some(owner)) => Verdict::wrong(format!("{address} is in use by {owner}"))
            .advise(format!("stop that process, or {another}")),
        BindResult::InUse(None) => {
            Verdict::wrong(format!("{address} is in use by a process that is not visible here"))
                .advise(another)
        }
        BindResult::Denied => Verdict::wrong(format!("cannot bind {address}: permission denied"))
            .advise("check privileges, SELinux, AppArmor, seccomp, and Landlock"),
        BindResult::Failed(error) => Verdict::wrong(error.as_str()).advise(another),
    }
}

#[cfg(test)]
mod tests {
    use super::super::facts::Ports;
    use super::super::findings::Level;
    use super::super::fixtures::{config, fine, unreadable};
    use super::super::socket_owner::SocketOwner;
    use super::*;

    fn facts(listen: &str, result: &BindResult, privilege: bool) -> (Facts, Config) {
        let config = config(&format!("--listen {listen}"));
        let endpoints = config.listen.endpoints();
        let addresses = endpoints.map(|endpoint| (endpoint, result.clone())).collect();
        let ports = Ports { privilege: Ok(privilege), ..fine().ports };
        (Facts { addresses, ports, ..fine() }, config)
    }

    #[test]
    fn low_ports_need_the_privilege() {
        for (listen, result, privilege, level, said) in [
            (
                "*:8090",
                BindResult::Free,
                false,
                Level::Ok,
                "no privilege is needed for ports from 1024 on",
            ),
            ("*:0", BindResult::Free, false, Level::Ok, "no privilege"),
            ("*:1024", BindResult::Free, false, Level::Ok, "no privilege"),
            (
                "*:1023",
                BindResult::Denied,
                false,
                Level::Wrong,
                "port 1023 is below 1024, and CAP_NET_",
            ),
            (
                "*:80,*:7",
                BindResult::Denied,
                false,
                Level::Wrong,
                "port 7 is below 1024, and CAP_NET_",
            ),
            (
                "*:80",
                BindResult::Free,
                true,
                Level::Note,
                "port 80 is below 1024: permitted by CAP_NET_BIND_SERVICE",
            ),
            ("*:80", BindResult::Free, false, Level::Ok, "port 80 is below 1024, but can be bound"),
            (
                "*:80",
                BindResult::InUse(None),
                true,
                Level::Note,
                "port 80 is below 1024: permitted by CAP_NET_",
            ),
        ] {
            let (facts, config) = facts(listen, &result, privilege);
            let verdict = low_ports(&facts, &config).expect("known");
            assert_eq!(verdict.level, level, "{listen} {result:?}");
            assert!(verdict.text.starts_with(said), "{verdict:?}");
        }
    }

    #[test]
    fn a_denied_low_port_is_reported_once() {
        let (facts, config) = facts("*:80,127.0.0.1:8090", &BindResult::Denied, false);
        let verdict = low_ports(&facts, &config).expect("known");
        let advice = verdict.advice.expect("advice");
        assert!(advice.ends_with("sysctl -w net.ipv4.ip_unprivileged_port_start=80"), "{advice}");
        let others = check(&facts);
        assert_eq!(others.len(), 1);
        assert_eq!(others[0].text, "cannot bind 127.0.0.1:8090: permission denied");
        let ports = Ports { unprivileged: unreadable(), ..facts.ports.clone() };
        let facts = Facts { ports, ..facts };
        assert!(low_ports(&facts, &config).is_err());
        assert_eq!(check(&facts).len(), 2);
    }

    fn in_use_by(name: &str) -> BindResult {
        BindResult::InUse(Some(SocketOwner { pid: 7, name: name.to_owned() }))
    }

    #[test]
    fn every_bind_result_has_its_verdict() {
        let failed = "cannot listen on 1.2.3.4:5: no interface of this host has this address";
        for (result, level, text) in [
            (BindResult::Free, Level::Ok, "1.2.3.4:5000 is free"),
            (BindResult::InUse(None), Level::Wrong, "1.2.3.4:5000 is in use by a process"),
            (in_use_by("nginx"), Level::Wrong, "1.2.3.4:5000 is in use by nginx (pid 7)"),
            (
                in_use_by("systemd"),
                Level::Warn,
                "1.2.3.4:5000 is in use by systemd (pid 7); correct",
            ),
            (
                in_use_by("tcp-echo[ctrlr]"),
                Level::Warn,
                "1.2.3.4:5000 is in use by tcp-echo[ctrlr]",
            ),
            (BindResult::Denied, Level::Wrong, "cannot bind 1.2.3.4:5000: "),
            (BindResult::Failed(failed.into()), Level::Wrong, failed),
        ] {
            let (facts, _) = facts("1.2.3.4:5000", &result, false);
            let verdict = &check(&facts)[0];
            assert_eq!(verdict.level, level, "{result:?}");
            assert!(verdict.text.starts_with(text), "{verdict:?}");
            assert_eq!(verdict.advice.is_some(), level > Level::Note, "{verdict:?}");
        }
        let (facts, _) = facts("[::1]:0", &BindResult::Free, false);
        assert_eq!(check(&facts)[0].text, "::1: any free port");
    }
}
