//! Judgements: can the figures be asked for, and the files be written, where the daemon is told to?

use super::facts::{Facts, Trial};
use super::report::{Finding, Verdict};
use crate::config::AdminAddress;

/// A finding for the admin address and for each file.
pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let admin = facts.admin.iter().map(|(address, trial)| match address {
        AdminAddress::Tcp(tcp) if facts.addresses.iter().any(|(it, _)| it.clashes_with(*tcp)) => {
            Verdict::wrong(format!("{address}: the echo is to listen there"))
                .advise("choose another --admin")
        }
        _ => admin(&address.to_string(), trial),
    });
    let files = facts.files.iter().map(|(what, path, trouble)| {
        let path = path.display();
        let verdict = match trouble {
            None => Verdict::ok(format!("{path} can be written")),
            // It serves without, and tries again every second.
            Some(why) if *what == "state file" => {
                Verdict::warn(format!("{path} cannot be written: {why}")).advise(ADVICE)
            }
            Some(why) => Verdict::wrong(format!("{path} cannot be written: {why}")).advise(ADVICE),
        };
        Finding::new(what, verdict)
    });
    admin.map(|verdict| Finding::new("admin", verdict)).chain(files).collect()
}

const ADVICE: &str = "make the directory, and let the daemon's user write in it";

fn admin(address: &str, trial: &Trial) -> Verdict {
    match trial {
        Trial::Free => Verdict::ok(format!("{address} is free")),
        Trial::InUse(Some(holder)) if holder.is_tcp_echo() => {
            Verdict::warn(format!("{address} is in use by {holder}; another one would not start"))
                .advise("if it is to be another one: another --admin")
        }
        Trial::InUse(holder) => {
            let who = holder.as_ref().map(|holder| format!(" by {holder}")).unwrap_or_default();
            Verdict::wrong(format!("{address} is in use{who}")).advise("choose another --admin")
        }
        Trial::Denied => Verdict::wrong(format!("{address} may not be bound: permission denied"))
            .advise("choose a port from 1024 on"),
        Trial::Failed(why) => Verdict::wrong(format!("{address}: {why}")).advise("correct --admin"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::facts::example::fine;
    use super::super::holder::Holder;
    use super::super::report::Level;
    use super::*;

    #[test]
    fn what_cannot_be_is_wrong_or_a_warning() {
        let held = |name: &str| Trial::InUse(Some(Holder { pid: 7, name: name.to_owned() }));
        for (trial, level, text) in [
            (Trial::Free, Level::Ok, "127.0.0.1:1 is free"),
            (held("nginx"), Level::Wrong, "127.0.0.1:1 is in use by nginx (pid 7)"),
            (held("tcp-echo[ctrlr]"), Level::Warn, "127.0.0.1:1 is in use by tcp-echo[ctrlr]"),
            (Trial::InUse(None), Level::Wrong, "127.0.0.1:1 is in use"),
            (Trial::Denied, Level::Wrong, "127.0.0.1:1 may not be bound"),
            (Trial::Failed("why".into()), Level::Wrong, "127.0.0.1:1: why"),
        ] {
            let verdict = admin("127.0.0.1:1", &trial);
            assert_eq!(verdict.level, level, "{trial:?}");
            assert!(verdict.text.starts_with(text), "{verdict:?}");
            assert_eq!(verdict.advice.is_some(), level > Level::Note, "{verdict:?}");
        }
        let trouble = Some("no".to_owned());
        let files = ["pid file", "state file"].map(|it| (it, "/x".into(), trouble.clone()));
        let found = judge(&crate::doctor::facts::Facts { files: files.into(), ..fine() });
        let levels: Vec<Level> = found.iter().map(|finding| finding.verdict.level).collect();
        assert_eq!(levels, [Level::Wrong, Level::Warn]);
        assert_eq!(found[0].verdict.text, "/x cannot be written: no");
    }
}
