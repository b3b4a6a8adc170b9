//! Small files of /proc and /sys, below a root directory that tests can replace.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::PathBuf;

use crate::text::reason;

/// A fact about the machine, or the error that hides it.
pub(super) type Fact<T> = Result<T, ReadError>;

/// Error of an unknown fact, such as `cannot read /proc/sys/fs/nr_open: Permission denied`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot read {name}: {reason}")]
pub(super) struct ReadError {
    name: String,
    reason: String,
    /// `true` if the kernel has no such file, so the feature behind it does not exist.
    missing: bool,
}

impl ReadError {
    pub(super) fn new(name: &str, reason: impl Into<String>) -> Self {
        Self { name: name.to_owned(), reason: reason.into(), missing: false }
    }
}

/// Returns `None` for a file that this kernel does not have.
pub(super) fn if_exists<T>(fact: Fact<T>) -> Fact<Option<T>> {
    match fact {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.missing => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reader of the files below a root directory.
#[derive(Clone, Debug)]
pub(super) struct Files {
    root: PathBuf,
}

impl Files {
    pub(super) fn of_this_machine() -> Self {
        Self { root: PathBuf::from("/") }
    }

    #[cfg(test)]
    pub(super) fn below(root: &std::path::Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Returns the location of the absolute path `name` below the root.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name.trim_start_matches('/'))
    }

    pub(super) fn text(&self, name: &str) -> Fact<String> {
        fs::read(self.path(name))
            .map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned())
            .map_err(|error| self.error(name, &error))
    }

    /// Reads the first number of a file.
    pub(super) fn number(&self, name: &str) -> Fact<u64> {
        let text = self.text(name)?;
        let first = text.split_whitespace().next().and_then(|word| word.parse().ok());
        first.ok_or_else(|| ReadError::new(name, "it is not a number"))
    }

    /// Reads a limit. `max`, -1, and values near the maximum mean that there is none.
    pub(super) fn limit(&self, name: &str) -> Fact<Option<u64>> {
        const UNLIMITED: u64 = 1 << 62;
        match self.text(name)?.as_str() {
            "max" | "-1" => Ok(None),
            _ => Ok(Some(self.number(name)?).filter(|limit| *limit < UNLIMITED)),
        }
    }

    pub(super) fn link(&self, name: &str) -> Fact<String> {
        fs::read_link(self.path(name))
            .map(|target| target.display().to_string())
            .map_err(|error| self.error(name, &error))
    }

    pub(super) fn exists(&self, name: &str) -> bool {
        self.path(name).exists()
    }

    /// A missing file is significant only if its file system is mounted.
    fn error(&self, name: &str, error: &io::Error) -> ReadError {
        let area = if name.starts_with("/proc/") { "/proc/sys" } else { "/sys/fs" };
        let missing = error.kind() == ErrorKind::NotFound && self.exists(area);
        ReadError { name: name.to_owned(), reason: reason(error), missing }
    }
}

/// Creates a temporary tree of files.
#[cfg(test)]
pub(super) fn tree(files: &[(&str, &str)]) -> (tempfile::TempDir, Files) {
    let root = tempfile::tempdir().expect("temporary directory");
    let tree = Files::below(root.path());
    for (name, text) in files {
        let path = tree.path(name);
        fs::create_dir_all(path.parent().expect("it is below the root")).expect("directory");
        fs::write(path, text).expect("file");
    }
    (root, tree)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_limits_are_parsed() {
        let (_root, files) = tree(&[
            ("/proc/sys/a", "128\n"),
            ("/proc/sys/b", "502\t0\t2466183\n"),
            ("/proc/sys/c", "max\n"),
            ("/proc/sys/d", "9223372036854771712\n"),
            ("/proc/sys/e", "-1\n"),
            ("/proc/sys/f", "much"),
            ("/proc/sys/g", ""),
        ]);
        assert_eq!(files.number("/proc/sys/a"), Ok(128));
        assert_eq!(files.number("/proc/sys/b"), Ok(502));
        assert_eq!(files.limit("/proc/sys/a"), Ok(Some(128)));
        for none in ["c", "d", "e"] {
            assert_eq!(files.limit(&format!("/proc/sys/{none}")), Ok(None), "{none}");
        }
        for bad in ["f", "g"] {
            let name = format!("/proc/sys/{bad}");
            let text = format!("cannot read {name}: it is not a number");
            assert_eq!(files.number(&name).map_err(|e| e.to_string()), Err(text.clone()));
            assert_eq!(files.limit(&name).map_err(|e| e.to_string()), Err(text));
        }
    }

    #[test]
    fn a_missing_file_differs_from_a_missing_file_system() {
        let (_root, files) = tree(&[("/proc/sys/fs/nr_open", "1")]);
        let missing = files.number("/proc/sys/net/none");
        let text = "cannot read /proc/sys/net/none: No such file or directory";
        assert_eq!(missing.clone().map_err(|e| e.to_string()), Err(text.to_owned()));
        assert_eq!(if_exists(missing), Ok(None));
        assert_eq!(if_exists(files.number("/proc/sys/fs/nr_open")), Ok(Some(1)));
        let (_root, nothing) = tree(&[]);
        assert!(if_exists(nothing.number("/proc/sys/net/none")).is_err());
    }
}
