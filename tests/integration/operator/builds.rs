//! Programs to upgrade to: another build of the daemon, and files that only look like one.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use tempfile::TempDir;

use crate::support::launch::binary;

/// The program's file in a directory of its own, where it can be replaced.
#[derive(Debug)]
pub(crate) struct Installation {
    directory: TempDir,
}

impl Installation {
    /// A copy of the program under test, which everybody may run.
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let installation = Self { directory };
        copy(&binary(), &installation.path("this"));
        installation.install("this");
        installation
    }

    /// The file that is run.
    pub(crate) fn program(&self) -> PathBuf {
        self.path("tcp-echo")
    }

    /// The directory that it lies in.
    pub(crate) fn folder(&self) -> &Path {
        self.directory.path()
    }

    /// The program under test, out of the way of replacements.
    pub(crate) fn original(&self) -> PathBuf {
        self.path("this")
    }

    /// Puts the program under test into place.
    pub(crate) fn install_this(&self) {
        self.install("this");
    }

    /// Makes another build, which calls itself by another version, and returns both: this build's
    /// version and the other's.
    pub(crate) fn make_other(&self) -> (String, String) {
        let version = version_of(&self.original());
        let other = successor(&version);
        let mut image = fs::read(self.original()).unwrap();
        // The search takes a while, and every copy of the program is the same.
        static PLACES: OnceLock<Vec<usize>> = OnceLock::new();
        for &place in PLACES.get_or_init(|| places_of(version.as_bytes(), &image)) {
            image[place..place + version.len()].copy_from_slice(other.as_bytes());
        }
        fs::write(self.path("image"), image).unwrap();
        copy(&self.path("image"), &self.path("other"));
        assert_eq!(version_of(&self.path("other")), other, "the other build names its version");
        (version, other)
    }

    /// Puts the other build into place.
    pub(crate) fn install_other(&self) {
        self.install("other");
    }

    /// Puts the other build and this one into place by turns.
    pub(crate) fn install_for(&self, round: usize) {
        if round % 2 == 0 {
            self.install_other();
        } else {
            self.install_this();
        }
    }

    /// Puts a shell script into place.
    pub(crate) fn install_script(&self, body: &str) {
        fs::write(self.path("text"), format!("#!/bin/sh\n{body}\n")).unwrap();
        copy(&self.path("text"), &self.path("script"));
        fs::rename(self.path("script"), self.program()).unwrap();
    }

    /// Puts a script into place that starts the program under test with a fault.
    pub(crate) fn install_with_fault(&self, fault: &str) {
        let original = self.original().display().to_string();
        self.install_script(&format!("exec {original} \"$@\" --fault={fault}"));
    }

    /// Puts a file into place that nobody may run.
    pub(crate) fn install_unexecutable(&self) {
        fs::write(self.path("text"), "nothing\n").unwrap();
        fs::rename(self.path("text"), self.program()).unwrap();
    }

    /// Removes the program's file.
    pub(crate) fn remove(&self) {
        fs::remove_file(self.program()).unwrap();
    }

    /// Replaces the program's file in one step.
    fn install(&self, name: &str) {
        let next = self.path("next");
        fs::hard_link(self.path(name), &next).unwrap();
        fs::rename(next, self.program()).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

/// Copies a program. Another process does it: a descriptor of ours that is open for writing could be
/// inherited by what another test starts in this moment, and a file that is open for writing cannot
/// be run.
fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("--").args([from, to]).status().expect("there is cp");
    assert!(copied.success());
    fs::set_permissions(to, fs::Permissions::from_mode(0o755)).unwrap();
}

/// What `--version` says, without the program's name.
fn version_of(program: &Path) -> String {
    let output = Command::new(program).arg("--version").output().expect("it can be run");
    let text = String::from_utf8(output.stdout).unwrap();
    text.trim().strip_prefix("tcp-echo ").expect("`tcp-echo VERSION`").to_owned()
}

/// Another version of equal length: the last digit is the next one.
fn successor(version: &str) -> String {
    let last = version.rfind(|c: char| c.is_ascii_digit()).expect("a version has digits");
    let digit = version.as_bytes()[last] - b'0';
    format!("{}{}{}", &version[..last], (digit + 1) % 10, &version[last + 1..])
}

/// Where the version stands in the program, not as a part of a longer number.
fn places_of(version: &[u8], image: &[u8]) -> Vec<usize> {
    let continues =
        |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_digit() || *byte == b'.');
    let stands_alone = |place: &usize| {
        let before = place.checked_sub(1).and_then(|before| image.get(before));
        !continues(before) && !continues(image.get(place + version.len()))
    };
    let windows = image.windows(version.len()).enumerate();
    let all = windows.filter(|(_, window)| *window == version).map(|(place, _)| place);
    all.filter(stands_alone).collect()
}
