//! Checks of the admin address, and of the files that the daemon writes.

use super::addresses::bind_verdict;
use super::facts::Facts;
use super::findings::{Finding, Verdict};
use super::probes::BindResult;
use crate::config::AdminAddress;

/// Returns a finding for the admin address and for each file.
pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let admin = facts.admin.iter().map(|(address, result)| {
        let clashes = |tcp| facts.addresses.iter().any(|(echo, _)| echo.clashes_with(tcp));
        let wrong = |text: String| Verdict::wrong(text).advise("choose another --admin");
        let verdict = match (address, result) {
            (AdminAddress::Tcp(tcp), _) if clashes(*tcp) => {
                wrong(format!("{address} is also a listen address"))
            }
            (_, BindResult::Failed(error)) => wrong(format!("{address}: {error}")),
            _ => bind_verdict(&address.to_string(), result, "--admin"),
        };
        Finding::new("admin", verdict)
    });
    let files = facts.files.iter().map(|file| {
        let path = file.path.display();
        let Some(error) = &file.error else {
            return Finding::new(file.subject, Verdict::ok(format!("{path} is writable")));
        };
        let text = format!("cannot write {path}: {error}");
        // The daemon runs without a state file, and retries every second.
        let is_fatal = file.subject != "state file";
        let verdict = if is_fatal { Verdict::wrong(text) } else { Verdict::warn(text) };
        let advice = "create the directory, and make it writable for the daemon's user";
        Finding::new(file.subject, verdict.advise(advice))
    });
    admin.chain(files).collect()
}

#[cfg(test)]
mod tests {
    use super::super::findings::Level;
    use super::super::fixtures::fine;
    use super::super::probes::OutputFile;
    use super::super::socket_owner::SocketOwner;
    use super::*;

    fn verdict(facts: &Facts) -> Verdict {
        check(facts).swap_remove(0).verdict
    }

    #[test]
    fn an_unusable_admin_address_is_wrong_or_a_warning() {
        let in_use =
            |name: &str| BindResult::InUse(Some(SocketOwner { pid: 7, name: name.to_owned() }));
        for (result, level, text) in [
            (BindResult::Free, Level::Ok, "127.0.0.1:1 is free"),
            (in_use("nginx"), Level::Wrong, "127.0.0.1:1 is in use by nginx (pid 7)"),
            (in_use("tcp-echo[ctrlr]"), Level::Warn, "127.0.0.1:1 is in use by tcp-echo[ctrlr]"),
            (BindResult::InUse(None), Level::Wrong, "127.0.0.1:1 is in use"),
            (BindResult::Denied, Level::Wrong, "cannot bind 127.0.0.1:1: permission denied"),
            (BindResult::Failed("why".into()), Level::Wrong, "127.0.0.1:1: why"),
        ] {
            let address = AdminAddress::Tcp("127.0.0.1:1".parse().expect("an address"));
            let verdict = verdict(&Facts { admin: Some((address, result)), ..fine() });
            assert_eq!(verdict.level, level, "{verdict:?}");
            assert!(verdict.text.starts_with(text), "{verdict:?}");
            assert_eq!(verdict.advice.is_some(), level > Level::Note, "{verdict:?}");
        }
    }

    #[test]
    fn an_unwritable_file_is_wrong_except_the_state_file() {
        for (subject, level) in [("pid file", Level::Wrong), ("state file", Level::Warn)] {
            let file = OutputFile { subject, path: "/x".into(), error: Some("no".to_owned()) };
            let verdict = verdict(&Facts { files: vec![file], ..fine() });
            assert_eq!(verdict.level, level, "{subject}");
            assert_eq!(verdict.text, "cannot write /x: no");
        }
    }
}
