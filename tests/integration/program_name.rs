//! The file that SIGHUP upgrades to: symbolic links and PATH.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::support::builds::Installation;
use super::support::operations::{assert_all_new, reload, wait_for_workers};
use super::support::{Server, TestLock};

/// The file that the controller runs.
fn running(server: &Server) -> PathBuf {
    fs::read_link(format!("/proc/{}/exe", server.controller())).expect("the controller lives")
}

/// Reloads. The daemon must be of this version and run this file, and all workers must be new.
#[track_caller]
fn assert_becomes(server: &Server, version: &str, file: &Path) {
    let before = server.workers();
    let line = reload(server);
    assert!(line.has(&format!("version={version} ")), "{version} in {line:?}");
    assert_eq!(running(server), file);
    assert_all_new(&before, &wait_for_workers(server, 2));
    server.assert_echoes();
}

#[test]
fn a_changed_symbolic_link_is_followed() {
    let lock = TestLock::shared();
    let installation = Installation::new();
    let (this, other) = installation.make_other();
    let folder = installation.folder();
    let link = folder.join("current");
    let point_to = |build: &str| {
        symlink(build, folder.join("next")).unwrap();
        fs::rename(folder.join("next"), &link).unwrap();
    };
    point_to("this");
    let server = lock.launch(&["--workers", "2"]).program(link.clone()).start();
    assert_eq!(running(&server), folder.join("this"));
    for (build, version) in [("other", &other), ("this", &this), ("other", &other)] {
        point_to(build);
        assert_becomes(&server, version, &folder.join(build));
    }
    server.stop();
}

#[test]
fn a_program_started_by_name_is_searched_in_path_again() {
    let lock = TestLock::shared();
    let [early, late] = [Installation::new(), Installation::new()];
    let ((this, other), _) = (late.make_other(), early.make_other());
    early.remove();
    let [first, second] = [early.program(), late.program()];
    let folders = format!("{}:{}", early.folder().display(), late.folder().display());
    let line = format!("PATH={folders}:$PATH; export PATH; exec tcp-echo \"$@\"");
    let server = lock.launch(&["--workers", "2"]).under_shell(&line).start();
    assert_eq!(running(&server), second);
    late.install_other();
    assert_becomes(&server, &other, &second);
    // What may not be executed is passed over.
    early.install_unexecutable();
    late.install_this();
    assert_becomes(&server, &this, &second);
    early.install_other();
    assert_becomes(&server, &other, &first);
    early.remove();
    assert_becomes(&server, &this, &second);
    server.stop();
}
