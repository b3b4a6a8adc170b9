//! SIGHUP during a reload: requests are merged, none is lost.

use nix::sys::signal::Signal;

use super::support::accept_queues::{let_boot, stopped_at_boot};
use super::support::builds::Installation;
use super::support::operations::{ConfigFile, assert_all_new, connection_counts, wait_for_workers};
use super::support::{SOON, Server, TestLock, secs, wait_until};

const RELOADS: &str = ": reloading ";

fn workers(count: usize) -> String {
    format!("workers = {count}\nidle-timeout = 60\n")
}

#[track_caller]
fn wait_for_count(server: &Server, words: &str, count: usize) {
    let what = format!("{count} lines with {words:?}");
    wait_until(secs(8), &what, || server.log.count(words) >= count);
}

/// Sends SIGHUP `times` times, each after the previous one was received.
#[track_caller]
fn send_sighups(server: &Server, times: usize) {
    for _ in 0..times {
        let received = server.log.count("received SIGHUP");
        server.signal(Signal::SIGHUP);
        wait_for_count(server, "received SIGHUP", received + 1);
    }
}

/// A reload is held up by a worker that stops itself, and as many requests as `times` come then.
/// They must be one more reload, with what the file says at that time.
fn send_sighups_during_reload(times: usize) {
    let lock = TestLock::shared();
    let file = ConfigFile::new(&workers(2));
    let launch = lock.launch(&["--config", file.name(), "--fault", "stop-at-boot:2"]);
    let mut server = launch.start_unready();
    let_boot(&server, 2);
    server.wait_serving(SOON);
    let before = server.workers();
    file.write(&workers(3));
    server.signal(Signal::SIGHUP);
    stopped_at_boot(&server, 2);
    file.write(&workers(4));
    send_sighups(&server, times);
    assert_eq!(server.log.count(RELOADS), 1, "the first one is still under way");
    let_boot(&server, 2);
    wait_for_count(&server, RELOADS, 2);
    let_boot(&server, 2);
    wait_for_count(&server, ": reloaded ", 2);
    // Another one would have begun together with the end of the second.
    connection_counts(&server);
    assert_eq!(server.log.count(RELOADS), 2, "one for the first SIGHUP, one for all others");
    assert_eq!(server.log.with(": reloaded ").pop().unwrap().number("done"), Some(2));
    assert_all_new(&before, &wait_for_workers(&server, 4));
    server.assert_echoes();
    server.stop();
}

#[test]
fn a_hup_during_a_reload_causes_a_second_reload() {
    send_sighups_during_reload(1);
}

#[test]
fn fifty_hups_during_a_reload_cause_one_more_reload() {
    send_sighups_during_reload(50);
}

#[test]
fn fifty_hups_before_the_end_of_the_check_are_one_reload() {
    let lock = TestLock::shared();
    let file = ConfigFile::new(&workers(2));
    let installation = Installation::new();
    let launch = lock.launch(&["--config", file.name()]).program(installation.program());
    let server = launch.start();
    let before = server.workers();
    let [original, go] = [installation.original(), file.directory().join("go")];
    let (original, gate) = (original.display(), go.display());
    installation.install_script(&format!(
        "until [ -e {gate} ]; do sleep 0.01; done; exec {original} \"$@\""
    ));
    file.write(&workers(3));
    server.signal(Signal::SIGHUP);
    wait_for_count(&server, RELOADS, 1);
    file.write(&workers(4));
    (1..50).for_each(|_| server.signal(Signal::SIGHUP));
    wait_for_count(&server, "received SIGHUP", 2);
    std::fs::write(&go, "").unwrap();
    wait_for_count(&server, ": reloaded ", 1);
    connection_counts(&server);
    // The image that takes over reads the file after the last of them.
    assert_eq!(server.log.count(RELOADS), 1, "all of them are answered by one reload");
    assert_all_new(&before, &wait_for_workers(&server, 4));
    server.assert_echoes();
    server.stop();
}
