//! Program files for upgrades: this build, another build, and files that are not compatible.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use tempfile::TempDir;

use crate::support::launch::binary;

/// Program file in a temporary directory, where tests replace it.
#[derive(Debug)]
pub(crate) struct Installation {
    directory: TempDir,
}

impl Installation {
    /// Copies the program under test; every user may run the copy.
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let installation = Self { directory };
        copy(&binary(), &installation.path("this"));
        installation.install("this");
        installation
    }

    /// Returns the path of the program file.
    pub(crate) fn program(&self) -> PathBuf {
        self.path("tcp-echo")
    }

    /// Returns the directory of the program file.
    pub(crate) fn folder(&self) -> &Path {
        self.directory.path()
    }

    /// Returns the path of a copy that is never replaced.
    pub(crate) fn original(&self) -> PathBuf {
        self.path("this")
    }

    /// Installs the program under test.
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
        static OFFSETS: OnceLock<Vec<usize>> = OnceLock::new();
        for &offset in OFFSETS.get_or_init(|| offsets_of(version.as_bytes(), &image)) {
            image[offset..offset + version.len()].copy_from_slice(other.as_bytes());
        }
        fs::write(self.path("image"), image).unwrap();
        copy(&self.path("image"), &self.path("other"));
        assert_eq!(version_of(&self.path("other")), other, "the other build names its version");
        (version, other)
    }

    /// Installs the other build.
    pub(crate) fn install_other(&self) {
        self.install("other");
    }

    /// Installs the other build in even rounds and this build in odd ones.
    pub(crate) fn install_for(&self, round: usize) {
        if round % 2 == 0 {
            self.install_other();
        } else {
            self.install_this();
        }
    }

    /// Installs a shell script.
    pub(crate) fn install_script(&self, body: &str) {
        fs::write(self.path("text"), format!("#!/bin/sh\n{body}\n")).unwrap();
        copy(&self.path("text"), &self.path("script"));
        fs::rename(self.path("script"), self.program()).unwrap();
    }

    /// Installs a script that starts the program under test with a fault.
    pub(crate) fn install_with_fault(&self, fault: &str) {
        let original = self.original().display().to_string();
        self.install_script(&format!("exec {original} \"$@\" --fault={fault}"));
    }

    /// Installs a file without execute permission.
    pub(crate) fn install_unexecutable(&self) {
        fs::write(self.path("text"), "nothing\n").unwrap();
        fs::rename(self.path("text"), self.program()).unwrap();
    }

    /// Removes the program file.
    pub(crate) fn remove(&self) {
        fs::remove_file(self.program()).unwrap();
    }

    /// Replaces the program file atomically.
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

/// Returns the version that `--version` prints.
fn version_of(program: &Path) -> String {
    let output = Command::new(program).arg("--version").output().expect("it can be run");
    let text = String::from_utf8(output.stdout).unwrap();
    text.trim().strip_prefix("tcp-echo ").expect("`tcp-echo VERSION`").to_owned()
}

/// Returns a version of the same length with the last digit increased.
fn successor(version: &str) -> String {
    let last = version.rfind(|c: char| c.is_ascii_digit()).expect("a version has digits");
    let digit = version.as_bytes()[last] - b'0';
    format!("{}{}{}", &version[..last], (digit + 1) % 10, &version[last + 1..])
}

/// Returns the offsets of a version in a program. The linker merges texts, so digits may precede or
/// follow it.
fn offsets_of(version: &[u8], image: &[u8]) -> Vec<usize> {
    let windows = image.windows(version.len()).enumerate();
    windows.filter(|(_, window)| *window == version).map(|(offset, _)| offset).collect()
}
