//! Small files of /proc and /sys, read below a root that tests can choose.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::PathBuf;

use crate::config::reason;

/// What the system says, or the file that does not say it.
pub(super) type Fact<T> = Result<T, Unread>;

/// Why something is not known. Reads: `/proc/sys/fs/nr_open cannot be read: Permission denied`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name} cannot be read: {reason}")]
pub(super) struct Unread {
    name: String,
    reason: String,
    /// Whether the kernel does not know the file: what it would tell of is not there either.
    missing: bool,
}

impl Unread {
    pub(super) fn new(name: &str, reason: impl Into<String>) -> Self {
        Self { name: name.to_owned(), reason: reason.into(), missing: false }
    }
}

/// Turns a file that the kernel does not know into `None`.
pub(super) fn if_any<T>(fact: Fact<T>) -> Fact<Option<T>> {
    match fact {
        Ok(value) => Ok(Some(value)),
        Err(unread) if unread.missing => Ok(None),
        Err(unread) => Err(unread),
    }
}

/// Where the files are.
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

    /// The place of `name`, which is an absolute path, below the root.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name.trim_start_matches('/'))
    }

    pub(super) fn text(&self, name: &str) -> Fact<String> {
        fs::read(self.path(name))
            .map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned())
            .map_err(|error| self.unread(name, &error))
    }

    /// A file with one number. Of several the first counts.
    pub(super) fn number(&self, name: &str) -> Fact<u64> {
        let text = self.text(name)?;
        let first = text.split_whitespace().next().and_then(|word| word.parse().ok());
        first.ok_or_else(|| Unread::new(name, "it is not a number"))
    }

    /// A limit: `max`, -1 and what is beyond all reason are none.
    pub(super) fn limit(&self, name: &str) -> Fact<Option<u64>> {
        const BEYOND: u64 = 1 << 62;
        match self.text(name)?.as_str() {
            "max" | "-1" => Ok(None),
            _ => Ok(Some(self.number(name)?).filter(|limit| *limit < BEYOND)),
        }
    }

    pub(super) fn link(&self, name: &str) -> Fact<String> {
        fs::read_link(self.path(name))
            .map(|target| target.display().to_string())
            .map_err(|error| self.unread(name, &error))
    }

    pub(super) fn exists(&self, name: &str) -> bool {
        self.path(name).exists()
    }

    /// A file that is not there tells something only where the kernel shows its files at all.
    fn unread(&self, name: &str, error: &io::Error) -> Unread {
        let area = if name.starts_with("/proc/") { "/proc/sys" } else { "/sys/fs" };
        let missing = error.kind() == ErrorKind::NotFound && self.exists(area);
        Unread { name: name.to_owned(), reason: reason(error), missing }
    }
}

/// A tree of files for tests.
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
    fn numbers_and_limits_are_read() {
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
            let text = format!("{name} cannot be read: it is not a number");
            assert_eq!(files.number(&name).map_err(|e| e.to_string()), Err(text.clone()));
            assert_eq!(files.limit(&name).map_err(|e| e.to_string()), Err(text));
        }
    }

    #[test]
    fn what_the_kernel_does_not_know_is_told_from_a_kernel_that_is_not_asked() {
        let (_root, files) = tree(&[("/proc/sys/fs/nr_open", "1")]);
        let missing = files.number("/proc/sys/net/none");
        let text = "/proc/sys/net/none cannot be read: No such file or directory";
        assert_eq!(missing.clone().map_err(|e| e.to_string()), Err(text.to_owned()));
        assert_eq!(if_any(missing), Ok(None));
        assert_eq!(if_any(files.number("/proc/sys/fs/nr_open")), Ok(Some(1)));
        let (_root, nothing) = tree(&[]);
        assert!(if_any(nothing.number("/proc/sys/net/none")).is_err());
    }
}
