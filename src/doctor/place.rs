//! Judgements about where the daemon would run.

use super::facts::{Facts, Place};
use super::files::Fact;
use super::report::Verdict;
use crate::config::Config;

/// A container has limits and sysctls of its own, and mostly may not change them.
pub(super) fn container(facts: &Facts, _: &Config) -> Fact<Verdict> {
    const ADVICE: &str = "sysctls are set from outside: docker run --sysctl NAME=VALUE, \
                          securityContext.sysctls in Kubernetes";
    let Place { pid, container, pid_namespace, .. } = &facts.place;
    let what = match (container, pid_namespace) {
        (Some(name), _) => name,
        (None, Ok(true)) => "a pid namespace of its own",
        (None, Ok(false)) => return Ok(Verdict::ok("none to be seen")),
        (None, Err(unread)) => return Err(unread.clone()),
    };
    Ok(Verdict::note(match pid {
        1 => format!(
            "{what}, as PID 1: the daemon acts on its signals and reaps what is not its own"
        ),
        _ => what.to_owned(),
    })
    .advise(ADVICE))
}

/// The daemon runs without /proc; the doctor knows little then.
pub(super) fn proc(facts: &Facts, _: &Config) -> Fact<Verdict> {
    Ok(match &facts.place.proc {
        Ok(()) => Verdict::ok("can be read"),
        Err(unread) => Verdict::note(unread.to_string()).advise("mount -t proc proc /proc"),
    })
}

#[cfg(test)]
mod tests {
    use super::super::facts::example::{config, fine, unread};
    use super::super::report::Level;
    use super::*;

    #[test]
    fn containers_are_named() {
        let judge = |container: Option<&str>, pid, pid_namespace| {
            let container = container.map(str::to_owned);
            let place = Place { pid, container, pid_namespace, proc: Ok(()) };
            container_verdict(place).map(|verdict| (verdict.level, verdict.text))
        };
        let note = |text: &str| Ok((Level::Note, text.to_owned()));
        assert_eq!(judge(None, 5, Ok(false)), Ok((Level::Ok, "none to be seen".into())));
        assert_eq!(judge(Some("Docker"), 7, unread()), note("Docker"));
        let one = "a pid namespace of its own, as PID 1: the daemon acts on its signals and reaps \
                   what is not its own";
        assert_eq!(judge(None, 1, Ok(true)), note(one));
        assert!(judge(None, 1, unread()).is_err());
    }

    fn container_verdict(place: Place) -> Fact<Verdict> {
        container(&Facts { place, ..fine() }, &config(""))
    }

    #[test]
    fn a_missing_proc_is_a_note() {
        let place = Place { proc: unread(), ..fine().place };
        let verdict = proc(&Facts { place, ..fine() }, &config("")).expect("always known");
        assert_eq!(verdict.level, Level::Note);
        assert_eq!(verdict.text, "/proc/secret cannot be read: Permission denied");
    }
}
