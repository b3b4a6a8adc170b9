//! Checks of the environment: container and /proc.

use super::facts::{Environment, Facts};
use super::files::Fact;
use super::findings::Verdict;
use crate::config::Config;

/// Detects a container, whose sysctls are usually read-only inside.
pub(super) fn container(facts: &Facts, _: &Config) -> Fact<Verdict> {
    const ADVICE: &str = "set sysctls from outside: docker run --sysctl NAME=VALUE, \
                          securityContext.sysctls in Kubernetes";
    let Environment { pid, container, pid_namespace, .. } = &facts.environment;
    let name = match (container, pid_namespace) {
        (Some(name), _) => name,
        (None, Ok(true)) => "a separate pid namespace",
        (None, Ok(false)) => return Ok(Verdict::ok("none detected")),
        (None, Err(error)) => return Err(error.clone()),
    };
    Ok(Verdict::note(match pid {
        1 => format!("{name}, as PID 1: the daemon handles signals and reaps orphaned processes"),
        _ => name.to_owned(),
    })
    .advise(ADVICE))
}

/// Checks /proc, without which the doctor knows little. The daemon runs without it.
pub(super) fn proc(facts: &Facts, _: &Config) -> Fact<Verdict> {
    Ok(match &facts.environment.proc {
        Ok(()) => Verdict::ok("readable"),
        Err(error) => Verdict::note(error.to_string()).advise("mount -t proc proc /proc"),
    })
}

#[cfg(test)]
mod tests {
    use super::super::findings::Level;
    use super::super::fixtures::{config, fine, unreadable};
    use super::*;

    #[test]
    fn containers_are_reported() {
        let check = |container: Option<&str>, pid, pid_namespace| {
            let container = container.map(str::to_owned);
            let environment = Environment { pid, container, pid_namespace, proc: Ok(()) };
            container_verdict(environment).map(|verdict| (verdict.level, verdict.text))
        };
        let note = |text: &str| Ok((Level::Note, text.to_owned()));
        assert_eq!(check(None, 5, Ok(false)), Ok((Level::Ok, "none detected".into())));
        assert_eq!(check(Some("Docker"), 7, unreadable()), note("Docker"));
        let one = "a separate pid namespace, as PID 1: the daemon handles signals and reaps \
                   orphaned processes";
        assert_eq!(check(None, 1, Ok(true)), note(one));
        assert!(check(None, 1, unreadable()).is_err());
    }

    fn container_verdict(environment: Environment) -> Fact<Verdict> {
        container(&Facts { environment, ..fine() }, &config(""))
    }

    #[test]
    fn a_missing_proc_is_a_note() {
        let environment = Environment { proc: unreadable(), ..fine().environment };
        let verdict = proc(&Facts { environment, ..fine() }, &config("")).expect("always known");
        assert_eq!(verdict.level, Level::Note);
        assert_eq!(verdict.text, "cannot read /proc/secret: Permission denied");
    }
}
