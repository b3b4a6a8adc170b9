//! Errors of accept(2), counted by errno.

use super::statistics::idle_stats;
use super::support::strace::Tracer;
use super::support::{TestLock, total};

/// An error of accept(2), and the kind that it counts as, if it counts.
const ERRORS: [(&str, Option<&str>); 6] = [
    ("ECONNABORTED", Some("ECONNABORTED")),
    ("EINTR", None),
    ("EPROTO", Some("other")),
    ("EHOSTUNREACH", Some("other")),
    ("EMFILE", Some("EMFILE")),
    ("ENOMEM", Some("ENOMEM")),
];

#[test]
fn an_error_of_accept_is_counted_under_its_own_name() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "1"]);
    for (error, _) in ERRORS {
        let inject = format!("inject=accept4:error={error}:when=1");
        let options = ["-e", "trace=accept4", "-e", &inject];
        let Some(tracer) = Tracer::attach(server.worker(), &options) else { return };
        server.assert_echoes();
        assert!(tracer.calls()[0].contains("(INJECTED)"), "{:?}", tracer.calls());
    }
    let stats = idle_stats(&server);
    for kind in ["ECONNABORTED", "EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "EPERM", "other"] {
        let expected = ERRORS.iter().filter(|(_, counted)| *counted == Some(kind)).count();
        assert_eq!(total(&stats, &format!("accept_errors/{kind}")), expected as u64, "{kind}");
    }
    assert_eq!(total(&stats, "connections_accepted"), ERRORS.len() as u64);
    server.stop();
}
