//! The state file: totals survive restarts, and unrelated files are kept.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::statistics::{assert_counters_consistent, idle_stats};
use super::support::operations::reload;
use super::support::{
    SOON, Server, TestLock, ms, permitted, secs, stats, total, wait_for, wait_until,
};

pub(super) struct StateFile {
    pub(super) folder: TempDir,
    pub(super) path: PathBuf,
}

impl StateFile {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        Self { folder, path }
    }

    pub(super) fn start(&self, lock: &TestLock) -> Server {
        let launch = lock.launch(&["--workers", "1", "--state-file"]);
        launch.arg(self.path.to_str().unwrap()).start()
    }

    /// What the file says; nothing while it is not there.
    pub(super) fn saved(&self, name: &str) -> Option<u64> {
        let saved: Value = serde_json::from_slice(&fs::read(&self.path).ok()?).expect("whole");
        saved["totals"][name].as_u64()
    }

    #[track_caller]
    pub(super) fn wait_saved(&self, accepted: u64) {
        wait_until(SOON, "the totals are saved", || self.saved("accepted") == Some(accepted));
    }

    pub(super) fn names(&self) -> Vec<String> {
        let names = fs::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<String> =
            names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

pub(super) const NOT_KEPT: &str = "totals not saved ";
pub(super) const KEPT: &str = "totals saved again ";

fn accepted(server: &Server) -> u64 {
    total(&stats(server), "connections_accepted")
}

#[test]
fn totals_and_rates_survive_a_stop_and_a_crash() {
    let lock = TestLock::shared();
    let state_file = StateFile::new();
    let server = state_file.start(&lock);
    (0..10).for_each(|_| server.assert_echoes());
    let last = idle_stats(&server);
    server.stop();
    assert_eq!(state_file.names(), ["state"], "nothing is left beside it");
    assert_eq!((state_file.saved("accepted"), state_file.saved("sent")), (Some(10), Some(10_000)));

    let mut server = state_file.start(&lock);
    let now = stats(&server);
    assert_eq!(now["totals"]["bytes_sent"], last["totals"]["bytes_sent"]);
    assert_eq!(total(&now, "connections_closed/client_fin"), 10);
    assert_eq!(now["slots"][0]["figures"]["connections_accepted"], 0, "slots begin anew");
    wait_until(SOON, "the rates go on", || stats(&server)["rates"]["10s"]["connections"] != 0.0);
    let mut open = server.connect();
    open.echo(100);
    state_file.wait_saved(11);
    server.signal(Signal::SIGKILL);
    wait_until(SOON, "all are gone", || server.exit_code().is_some() && server.family().is_empty());

    let server = state_file.start(&lock);
    let now = idle_stats(&server);
    assert_eq!((total(&now, "connections_accepted"), total(&now, "bytes_sent")), (11, 10_100));
    assert_eq!(total(&now, "connections_closed/worker_died"), 1, "it had been open");
    assert_eq!(now["totals"]["bytes_lost"], 0);
    server.assert_echoes();
    idle_stats(&server);
    assert_eq!(accepted(&server), 12);
    server.stop();
}

#[test]
fn a_reload_counts_nothing_twice_and_continues_saving() {
    let lock = TestLock::shared();
    let state_file = StateFile::new();
    let server = state_file.start(&lock);
    (0..5).for_each(|_| server.assert_echoes());
    state_file.wait_saved(5);
    for round in 0..3 {
        reload(&server);
        server.assert_echoes();
        state_file.wait_saved(6 + round);
        assert_eq!(accepted(&server), 6 + round);
    }
    assert_counters_consistent(&idle_stats(&server));
    assert_eq!(server.log.count(NOT_KEPT), 0);
    server.stop();
    assert_eq!(
        (state_file.saved("accepted"), state_file.names()),
        (Some(8), vec!["state".to_owned()])
    );
}

#[test]
fn an_unrelated_file_is_kept() {
    let lock = TestLock::shared();
    let state_file = StateFile::new();
    let newer = r#"{"tcp-echo-state":2,"totals":{}}"#;
    for (text, why) in [("root:x:0:0\n", "not a state file"), (newer, "later version")] {
        fs::write(&state_file.path, text).unwrap();
        let server = state_file.start(&lock);
        assert!(server.log.wait_for(SOON, NOT_KEPT).has(why));
        server.assert_echoes();
        std::thread::sleep(ms(2500));
        assert_eq!(server.log.count(NOT_KEPT), 1, "said once, not every second");
        assert_eq!(fs::read_to_string(&state_file.path).unwrap(), text);
        assert_eq!(state_file.names(), ["state"], "nothing is put beside it");
        fs::remove_file(&state_file.path).unwrap();
        server.log.wait_for(SOON, KEPT);
        state_file.wait_saved(1);
        server.stop();
    }
    for device in ["/dev/full", "/dev/null", "/dev"] {
        let server = lock.launch(&["--workers", "1", "--state-file", device]).start();
        assert!(server.log.wait_for(SOON, NOT_KEPT).has(device));
        server.assert_echoes();
        server.stop();
        assert!(!fs::metadata(device).unwrap().is_file());
    }
}

#[test]
fn a_damaged_file_is_moved_aside_once() {
    let lock = TestLock::shared();
    let state_file = StateFile::new();
    for round in 0..2 {
        let damaged = format!(r#"{{"tcp-echo-state":1,"saved-at-ms":{round},"tot"#);
        fs::write(&state_file.path, &damaged).unwrap();
        let server = state_file.start(&lock);
        let line = server.log.wait_for(SOON, "damaged");
        assert!(line.has("state"), "{line:?}");
        server.assert_echoes();
        if round == 0 {
            state_file.wait_saved(1);
        } else {
            assert_eq!(fs::read_to_string(&state_file.path).unwrap(), damaged, "both are kept");
        }
        server.stop();
        let aside = fs::read_to_string(state_file.folder.path().join("state.bad")).unwrap();
        assert!(aside.contains(r#":0,"tot"#), "the first one: {aside}");
    }
    fs::write(&state_file.path, [0; 100]).unwrap();
    let server = state_file.start(&lock);
    server.assert_echoes();
    assert_new_file(&state_file);
    server.stop();
}

/// Nothing but zeros is what a power failure may leave: there is nothing to lose.
#[track_caller]
fn assert_new_file(state_file: &StateFile) {
    wait_until(SOON, "it is written over", || {
        fs::read(&state_file.path).is_ok_and(|text| text.first() == Some(&b'{'))
    });
    state_file.wait_saved(1);
}

#[test]
fn two_daemons_never_share_a_file() {
    let lock = TestLock::shared();
    let state_file = StateFile::new();
    let first = state_file.start(&lock);
    first.assert_echoes();
    state_file.wait_saved(1);
    let second = state_file.start(&lock);
    let line = second.log.wait_for(SOON, NOT_KEPT);
    assert!(line.has(&format!("in use by process {}", first.controller())), "{line:?}");
    (0..3).for_each(|_| second.assert_echoes());
    idle_stats(&second);
    assert_eq!(accepted(&second), 3, "the first one's are the first one's");
    reload(&first);
    std::thread::sleep(ms(1500));
    assert_eq!((state_file.saved("accepted"), second.log.count(NOT_KEPT)), (Some(1), 1));
    first.stop();
    second.log.wait_for(SOON, KEPT);
    state_file.wait_saved(4);
    let now = stats(&second);
    assert_eq!(total(&now, "connections_accepted"), 4, "now they are former ones");
    assert!(now["rates"]["1s"]["connections"].as_f64().unwrap() < 3.5, "no rush: {now}");
    second.stop();
}

#[test]
fn missing_directories_and_links_work() {
    let lock = TestLock::shared();
    let mut state_file = StateFile::new();
    let inner = state_file.folder.path().join("inner");
    state_file.path = inner.join("state");
    let server = state_file.start(&lock);
    assert!(server.log.wait_for(SOON, NOT_KEPT).has("inner/state"));
    server.assert_echoes();
    fs::create_dir(&inner).unwrap();
    server.log.wait_for(SOON, KEPT);
    state_file.wait_saved(1);
    fs::remove_dir_all(&inner).unwrap();
    wait_until(SOON, "said again", || server.log.count(NOT_KEPT) == 2);
    fs::create_dir(&inner).unwrap();
    state_file.wait_saved(1);
    server.stop();

    let link = state_file.folder.path().join("link");
    symlink(&state_file.path, &link).unwrap();
    let server = lock.launch(&["--workers", "1", "--state-file", link.to_str().unwrap()]).start();
    server.assert_echoes();
    state_file.wait_saved(2);
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink(), "the link is still one");
    server.stop();
}

#[test]
fn a_full_disk_is_logged_once_and_damages_neither_file() {
    if !permitted(&["unshare", "--mount", "true"]) {
        return;
    }
    let lock = TestLock::shared();
    let state_file = StateFile::new();
    let disk = state_file.folder.path().to_str().unwrap().to_owned();
    let script = format!("mount -t tmpfs -o size=128k none {disk} && exec \"$0\" \"$@\"");
    let launch = lock.launch(&["--workers", "1", "--access-log", "all"]);
    let launch = launch.arg("--state-file").arg(state_file.path.to_str().unwrap());
    let launch = launch.arg("--access-log-file").arg(&format!("{disk}/access.log"));
    let wrapper = ["unshare", "--mount", "--propagation", "private", "sh", "-c", &script];
    let server = launch.under(&wrapper).start();
    server.assert_echoes();
    // Seen through the daemon's own mounts.
    let inside = |name: &str| format!("/proc/{}/root{disk}/{name}", server.controller());
    let saved =
        || -> Option<Value> { serde_json::from_slice(&fs::read(inside("state")).ok()?).ok() };
    wait_until(SOON, "it is saved", || saved().is_some_and(|it| it["totals"]["accepted"] == 1));
    let _ = fs::write(inside("filler"), vec![1; 256 * 1024]);
    wait_for(SOON, "the state file is in trouble", || server.log.with(NOT_KEPT).pop());
    wait_until(SOON, "the access log, too", || {
        server.assert_echoes();
        server.log.count("access log write failed, ") == 1
    });
    assert_eq!(saved().expect("the last one is whole")["totals"]["accepted"], 1);
    assert!(fs::metadata(inside("state.tmp")).is_err(), "no scraps");
    std::thread::sleep(secs(2));
    assert_eq!((server.log.count(NOT_KEPT), server.log.count("access log write failed, ")), (1, 1));
    fs::remove_file(inside("filler")).unwrap();
    server.log.wait_for(SOON, KEPT);
    wait_until(SOON, "the access log works again", || {
        server.assert_echoes();
        server.log.count("access log recovered ") == 1
    });
    let handled = accepted(&server);
    wait_until(SOON, "it is saved", || {
        saved().is_some_and(|it| it["totals"]["accepted"] == handled)
    });
    let lines = fs::read_to_string(inside("access.log")).unwrap();
    assert!(lines.lines().count() >= 2, "some before the trouble, some after it: {lines:?}");
    for line in lines.lines() {
        let whole = line.contains("connection ended") && line.ends_with("reason=client_fin");
        assert!(whole && line.matches("INFO").count() == 1, "{line:?}");
    }
    server.stop();
}

#[test]
fn a_reload_does_not_release_the_file_to_a_second_instance() {
    let lock = TestLock::shared();
    let state_file = StateFile::new();
    let first = state_file.start(&lock);
    (0..5).for_each(|_| first.assert_echoes());
    state_file.wait_saved(5);
    let second = state_file.start(&lock);
    second.log.wait_for(SOON, "in use by process ");
    for _ in 0..4 {
        reload(&first);
    }
    // The second one looks once a second.
    std::thread::sleep(ms(1500));
    assert_eq!((first.log.count(NOT_KEPT), second.log.count(KEPT)), (0, 0));
    assert_eq!(accepted(&second), 0);
    first.stop();
    second.log.wait_for(SOON, KEPT);
    second.stop();
}

#[test]
fn a_reload_with_another_path_accepts_the_moved_file_only() {
    let lock = TestLock::shared();
    let state_file = StateFile::new();
    let server = state_file.start(&lock);
    (0..7).for_each(|_| server.assert_echoes());
    state_file.wait_saved(7);
    server.stop();
    let old = state_file.folder.path().join("old");
    fs::rename(&state_file.path, &old).unwrap();

    let file = state_file.folder.path().join("settings.toml");
    let configure =
        |path: &PathBuf| fs::write(&file, format!("state-file = {:?}\n", path.display())).unwrap();
    configure(&state_file.path);
    let launch = lock.launch(&["--workers", "1", "--config"]).arg(file.to_str().unwrap());
    let server = launch.start();
    server.assert_echoes();
    state_file.wait_saved(1);
    let before = fs::read(&old).unwrap();
    configure(&old);
    reload(&server);
    assert!(server.log.wait_for(SOON, NOT_KEPT).has("another daemon"));
    assert_eq!(fs::read(&old).unwrap(), before);

    let moved = state_file.folder.path().join("moved");
    fs::rename(&state_file.path, &moved).unwrap();
    configure(&moved);
    reload(&server);
    server.assert_echoes();
    let totals = || serde_json::from_slice::<Value>(&fs::read(&moved).unwrap()).unwrap();
    wait_until(SOON, "it goes on there", || totals()["totals"]["accepted"] == 2);
    assert_eq!(accepted(&server), 2);
    server.stop();
}

#[test]
fn unrelated_files_next_to_the_state_file_are_kept() {
    let lock = TestLock::shared();
    let mut state_file = StateFile::new();
    let folder = state_file.folder.path().to_owned();
    fs::write(folder.join("notes"), "precious\n").unwrap();
    for (index, ending) in [".lock", ".tmp"].iter().enumerate() {
        for kind in ["text", "link", "pipe", "folder"] {
            state_file.path = folder.join(format!("state{index}-{kind}"));
            let beside = folder.join(format!("state{index}-{kind}{ending}"));
            match kind {
                "text" => fs::write(&beside, "precious\n").unwrap(),
                "link" => symlink(folder.join("notes"), &beside).unwrap(),
                "pipe" => nix::unistd::mkfifo(&beside, nix::sys::stat::Mode::S_IRWXU).unwrap(),
                _ => fs::create_dir(&beside).unwrap(),
            }
            let server = state_file.start(&lock);
            server.log.wait_for(SOON, NOT_KEPT);
            server.assert_echoes();
            server.stop();
            let found = fs::symlink_metadata(&beside).unwrap();
            assert_eq!((found.is_file(), found.is_dir()), (kind == "text", kind == "folder"));
            assert!(!state_file.path.exists(), "{kind}{ending}");
            if kind == "text" {
                assert_eq!(fs::read_to_string(&beside).unwrap(), "precious\n");
            }
        }
    }
    assert_eq!(fs::read_to_string(folder.join("notes")).unwrap(), "precious\n");
}

#[test]
fn a_dangling_link_stays_a_link() {
    let lock = TestLock::shared();
    let state_file = StateFile::new();
    let (link, folder) =
        (state_file.folder.path().join("link"), state_file.folder.path().join("later"));
    symlink("later/state", &link).unwrap();
    let server = lock.launch(&["--workers", "1", "--state-file", link.to_str().unwrap()]).start();
    server.log.wait_for(SOON, NOT_KEPT);
    fs::create_dir(&folder).unwrap();
    server.log.wait_for(SOON, KEPT);
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert!(folder.join("state").is_file());
    server.stop();
}
