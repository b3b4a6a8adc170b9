//! Reloads that the check rejects: the daemon keeps serving with the old configuration.

use std::collections::BTreeMap;

use nix::sys::signal::Signal;

use super::support::operations::{
    ConfigFile, assert_all_new, assert_untouched, free_port, refused_reload, reload, send_signal,
    wait_for_workers,
};
use super::support::{SOON, Server, TestLock, proc, wait_until};

/// Kills a worker. The next one must listen where all did before.
#[track_caller]
fn assert_settings_hold(server: &Server, before: &BTreeMap<u32, i32>) {
    let bound = |pid| proc::listeners_of(pid).into_iter().map(|one| one.local).collect::<Vec<_>>();
    let addresses = bound(before[&1]);
    send_signal(before[&1], Signal::SIGKILL);
    wait_until(SOON, "slot 1 has a new worker", || {
        server.logged_workers().get(&1) != Some(&before[&1])
    });
    let workers = wait_for_workers(server, before.len());
    assert_eq!(bound(workers[&1]), addresses, "where the new worker listens");
    (0..10).for_each(|_| server.assert_echoes());
}

#[test]
fn a_reload_that_needs_more_descriptors_than_the_limit_is_rejected() {
    let lock = TestLock::shared();
    let file = ConfigFile::new("workers = 2\n");
    let launch = lock.launch(&["--config", file.name()]);
    let mut server = launch.under_shell("ulimit -n 64; exec \"$0\" \"$@\"").start();
    let before = server.workers();
    file.write("workers = 100\n");
    let refusal = refused_reload(&server);
    for words in [
        "cannot supervise 100 workers: ",
        "the limit is 64 (raise ulimit -n)",
        "(exit code 1)",
        "failed=1",
    ] {
        assert!(refusal.has(words), "{words:?} in {refusal:?}");
    }
    assert_untouched(&mut server, &before);
    assert_settings_hold(&server, &before);
    file.write("workers = 3\n");
    let before = server.workers();
    reload(&server);
    assert_all_new(&before, &wait_for_workers(&server, 3));
    server.stop();
}

#[test]
fn a_reload_with_overlapping_addresses_is_rejected() {
    let lock = TestLock::shared();
    let port = free_port();
    let text = |addresses: &str| format!("workers = 2\nlisten = [{addresses}]\n");
    let one = format!("\"127.0.0.1:{port}\"");
    let file = ConfigFile::new(&text(&one));
    let mut server = lock.start(&["--config", file.name()]);
    let before = server.workers();
    let location = format!("{}:2", file.name());
    let bound = format!("cannot listen on [::]:{port}");
    // In the file itself; and with what the daemon listens on until then.
    let any = format!("\"*:{port}\"");
    let cases = [
        (format!("{one}, {any}"), [location.as_str(), "(exit code 2)"]),
        (any, [bound.as_str(), "in use"]),
    ];
    for (addresses, words) in cases {
        file.write(&text(&addresses));
        let refusal = refused_reload(&server);
        assert!(words.iter().all(|words| refusal.has(words)), "{words:?} in {refusal:?}");
        assert_untouched(&mut server, &before);
    }
    assert_settings_hold(&server, &before);
    file.write(&text(&one));
    reload(&server);
    wait_for_workers(&server, 2);
    server.assert_echoes();
    server.stop();
}
