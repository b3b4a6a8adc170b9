//! Judgements: can the daemon listen where it is told to?

use super::facts::{Facts, Trial};
use super::files::Fact;
use super::report::Verdict;
use crate::config::{Config, Endpoint};

/// Ports that not everybody may bind.
pub(super) fn low_ports(facts: &Facts, _: &Config) -> Fact<Verdict> {
    let first = facts.ports.unprivileged.clone()?;
    let low = facts.addresses.iter().filter(|(endpoint, _)| is_low(endpoint, first));
    let Some(lowest) = low.clone().map(|(endpoint, _)| endpoint.address.port()).min() else {
        return Ok(Verdict::ok(format!("everybody may bind ports from {first} on")));
    };
    if low.clone().any(|(_, trial)| *trial == Trial::Denied) {
        let text = format!("port {lowest} is below {first}, and CAP_NET_BIND_SERVICE is missing");
        return Ok(Verdict::wrong(text).advise(format!(
            "AmbientCapabilities=CAP_NET_BIND_SERVICE in the unit, docker run --cap-add \
             NET_BIND_SERVICE, or sysctl -w net.ipv4.ip_unprivileged_port_start={lowest}"
        )));
    }
    Ok(match facts.ports.privilege {
        Ok(true) => Verdict::note(format!(
            "port {lowest} is below {first}: CAP_NET_BIND_SERVICE permits it here, and the daemon \
             must have it, too"
        )),
        _ => Verdict::ok(format!("port {lowest} is below {first}, and can be bound all the same")),
    })
}

fn is_low(endpoint: &Endpoint, first: u64) -> bool {
    let port = endpoint.address.port();
    port != 0 && u64::from(port) < first
}

/// A verdict for each address; none where [`low_ports`] says it already.
pub(super) fn judge(facts: &Facts) -> Vec<Verdict> {
    let said = |endpoint: &Endpoint, trial: &Trial| {
        let low = facts.ports.unprivileged.as_ref().is_ok_and(|first| is_low(endpoint, *first));
        low && *trial == Trial::Denied
    };
    let rest = facts.addresses.iter().filter(|(endpoint, trial)| !said(endpoint, trial));
    rest.map(|(endpoint, trial)| address(endpoint, trial)).collect()
}

fn address(endpoint: &Endpoint, trial: &Trial) -> Verdict {
    match trial {
        Trial::Free if endpoint.address.port() == 0 => {
            Verdict::ok(format!("{}: any free port", endpoint.address.ip()))
        }
        Trial::Free => Verdict::ok(format!("{endpoint} is free")),
        Trial::InUse(Some(holder)) if holder.is_tcp_echo() => Verdict::warn(format!(
            "{endpoint} is in use by {holder}; another one would not start"
        ))
        .advise("if it is to be another one: another --port or --listen, or --allow-shared-port"),
        Trial::InUse(Some(holder)) if holder.is_service_manager() => Verdict::warn(format!(
            "{endpoint} is in use by {holder}; fine if that passes it to the daemon"
        ))
        .advise("systemctl list-sockets tells what it is for"),
        Trial::InUse(Some(holder)) => Verdict::wrong(format!("{endpoint} is in use by {holder}"))
            .advise("stop that, or choose another --port or --listen"),
        Trial::InUse(None) => {
            let port = endpoint.address.port();
            Verdict::wrong(format!("{endpoint} is in use, by whom is not to be seen from here"))
                .advise(format!("as root: ss -ltnp sport = :{port}"))
        }
        Trial::Denied => Verdict::wrong(format!("{endpoint} may not be bound: permission denied"))
            .advise("some rule forbids it: SELinux, AppArmor, seccomp or Landlock"),
        Trial::Failed(text) => {
            Verdict::wrong(text.as_str()).advise("correct --listen, or the interfaces (ip address)")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::facts::Ports;
    use super::super::facts::example::{config, fine, unread};
    use super::super::holder::Holder;
    use super::super::report::Level;
    use super::*;

    fn facts(listen: &str, trial: &Trial, privilege: bool) -> (Facts, Config) {
        let config = config(&format!("--listen {listen}"));
        let endpoints = config.listen.endpoints.iter();
        let addresses = endpoints.map(|&endpoint| (endpoint, trial.clone())).collect();
        let ports = Ports { privilege: Ok(privilege), ..fine().ports };
        (Facts { addresses, ports, ..fine() }, config)
    }

    #[test]
    fn low_ports_need_the_privilege() {
        for (listen, trial, privilege, level, said) in [
            ("*:8090", Trial::Free, false, Level::Ok, "everybody may bind ports from 1024 on"),
            ("*:0", Trial::Free, false, Level::Ok, "everybody may"),
            ("*:1024", Trial::Free, false, Level::Ok, "everybody may"),
            ("*:1023", Trial::Denied, false, Level::Wrong, "port 1023 is below 1024, and CAP_NET_"),
            ("*:80,*:7", Trial::Denied, false, Level::Wrong, "port 7 is below 1024, and CAP_NET_"),
            ("*:80", Trial::Free, true, Level::Note, "port 80 is below 1024: CAP_NET_BIND_SERVICE"),
            ("*:80", Trial::Free, false, Level::Ok, "port 80 is below 1024, and can be bound"),
            ("*:80", Trial::InUse(None), true, Level::Note, "port 80 is below 1024: CAP_NET_"),
        ] {
            let (facts, config) = facts(listen, &trial, privilege);
            let verdict = low_ports(&facts, &config).expect("known");
            assert_eq!(verdict.level, level, "{listen} {trial:?}");
            assert!(verdict.text.starts_with(said), "{verdict:?}");
        }
    }

    #[test]
    fn what_the_kernel_refuses_is_told_once() {
        let (facts, config) = facts("*:80,127.0.0.1:8090", &Trial::Denied, false);
        let verdict = low_ports(&facts, &config).expect("known");
        let advice = verdict.advice.expect("advice");
        assert!(advice.ends_with("sysctl -w net.ipv4.ip_unprivileged_port_start=80"), "{advice}");
        let others = judge(&facts);
        assert_eq!(others.len(), 1);
        assert_eq!(others[0].text, "127.0.0.1:8090 may not be bound: permission denied");
        let ports = Ports { unprivileged: unread(), ..facts.ports.clone() };
        let facts = Facts { ports, ..facts };
        assert!(low_ports(&facts, &config).is_err());
        assert_eq!(judge(&facts).len(), 2);
    }

    fn held_by(name: &str) -> Trial {
        Trial::InUse(Some(Holder { pid: 7, name: name.to_owned() }))
    }

    #[test]
    fn every_trial_has_its_verdict() {
        let failed = "cannot listen on 1.2.3.4:5: no interface of this host has this address";
        for (trial, level, text) in [
            (Trial::Free, Level::Ok, "1.2.3.4:5000 is free"),
            (Trial::InUse(None), Level::Wrong, "1.2.3.4:5000 is in use, by whom is not to be seen"),
            (held_by("nginx"), Level::Wrong, "1.2.3.4:5000 is in use by nginx (pid 7)"),
            (held_by("systemd"), Level::Warn, "1.2.3.4:5000 is in use by systemd (pid 7); fine"),
            (held_by("tcp-echo[ctrlr]"), Level::Warn, "1.2.3.4:5000 is in use by tcp-echo[ctrlr]"),
            (Trial::Denied, Level::Wrong, "1.2.3.4:5000 may not be bound"),
            (Trial::Failed(failed.into()), Level::Wrong, failed),
        ] {
            let (facts, _) = facts("1.2.3.4:5000", &trial, false);
            let verdict = &judge(&facts)[0];
            assert_eq!(verdict.level, level, "{trial:?}");
            assert!(verdict.text.starts_with(text), "{verdict:?}");
            assert_eq!(verdict.advice.is_some(), level > Level::Note, "{verdict:?}");
        }
        let (facts, _) = facts("[::1]:0", &Trial::Free, false);
        assert_eq!(judge(&facts)[0].text, "::1: any free port");
    }
}
