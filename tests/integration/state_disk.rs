//! Order of writes to the state file: synced before renamed.

use std::time::Duration;

use super::support::strace::Tracer;
use super::support::{Server, TestLock, secs, wait_until};

const CALLS: [&str; 2] = ["-y", "--trace=fsync,fdatasync,rename,renameat,renameat2"];

/// A server with a state file, and a tracer of its controller.
fn traced(lock: &TestLock, options: &[&str]) -> Option<(Server, Tracer, tempfile::TempDir)> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    let launch = lock.launch(&["--workers", "1", "--state-file"]).arg(path.to_str().unwrap());
    let server = launch.start();
    let tracer = Tracer::attach(server.controller(), &[&CALLS, options].concat())?;
    Some((server, tracer, folder))
}

/// Moments of the renames, in seconds.
fn renames(tracer: &Tracer) -> Vec<f64> {
    let calls = tracer.calls().into_iter().filter(|call| call.contains("rename"));
    calls.map(|call| call.split(' ').next().unwrap().parse().expect("a time")).collect()
}

#[test]
fn the_state_file_is_synced_before_it_is_renamed() {
    let lock = TestLock::shared();
    let Some((server, tracer, folder)) = traced(&lock, &[]) else { return };
    let (draft, folder) = (folder.path().join("state.tmp"), folder.path());
    let synced = |call: &str, what: &str| {
        call.contains("sync(") && call.contains(&format!("<{what}>)")) && call.ends_with("= 0")
    };
    wait_until(secs(60), "it is saved three times", || tracer.calls().len() >= 9);
    let calls = tracer.calls();
    // The beginning of the first save may have been missed.
    let first = calls.iter().position(|call| call.contains("sync(") && call.contains("state.tmp"));
    for save in calls[first.expect("the new file is synced")..].chunks_exact(3) {
        assert!(synced(&save[0], draft.to_str().unwrap()), "first the new file: {save:#?}");
        assert!(save[1].contains("rename") && save[1].contains("state.tmp"), "{save:#?}");
        assert!(synced(&save[2], folder.to_str().unwrap()), "then its name: {save:#?}");
    }
    drop(tracer);
    server.stop();
}

#[test]
fn a_slow_disk_makes_saves_rare_and_blocks_no_client() {
    const SLOW: Duration = Duration::from_millis(400);
    let lock = TestLock::shared();
    let delay = format!("inject=fsync:delay_enter={}", SLOW.as_micros());
    let Some((server, tracer, _folder)) = traced(&lock, &["-ttt", "-e", &delay]) else { return };
    wait_until(secs(60), "it is saved three times", || renames(&tracer).len() >= 3);
    // The first save may have begun before it was traced, and the second one is the first slow one.
    let times = renames(&tracer);
    let apart = times[2] - times[1];
    // Two calls each, and five times as long from one save to the next.
    assert!(apart >= 5.0 * 2.0 * SLOW.as_secs_f64(), "{apart} s between two saves");
    server.assert_echoes();
    drop(tracer);
    server.stop();
}
