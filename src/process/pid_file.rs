//! The pid file: who runs, and the proof that only one does.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

/// A pid file held by this process: locked, and removed when dropped.
///
/// The lock is fcntl(2)'s, which a forked process does not share: a worker cannot release it, and
/// the kernel does when the controller dies, so a stale file never stands in the way.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    file: File,
}

/// Why the pid file could not be had.
#[derive(Debug, thiserror::Error)]
pub enum PidFileError {
    /// Another process holds it.
    #[error("cannot use pid file {path}: process {pid} holds it")]
    Held {
        /// The file.
        path: PathBuf,
        /// Who holds it.
        pid: i32,
    },
    /// The system refused.
    #[error("cannot use pid file {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl PidFile {
    /// Creates and locks the file and writes this process's pid into it.
    ///
    /// # Errors
    /// [`PidFileError`]: another process holds it, or the file cannot be written.
    pub fn create(path: &Path) -> Result<Self, PidFileError> {
        let failed = |source| PidFileError::Io { path: path.to_owned(), source };
        loop {
            // Not truncated: the file of a running instance must stay as it is.
            let options = OpenOptions::new().write(true).create(true).truncate(false).clone();
            let file = options.open(path).map_err(failed)?;
            match fcntl(&file, FcntlArg::F_SETLK(&whole_file())) {
                Err(Errno::EAGAIN | Errno::EACCES) => {
                    let mut holder = whole_file();
                    let _ = fcntl(&file, FcntlArg::F_GETLK(&mut holder));
                    return Err(PidFileError::Held { path: path.to_owned(), pid: holder.l_pid });
                }
                locked => locked.map_err(|errno| failed(errno.into()))?,
            };
            let held = Self { path: path.to_owned(), file };
            // Its last owner may have removed it before we had the lock.
            if held.is_in_place() {
                held.file.set_len(0).map_err(failed)?;
                writeln!(&held.file, "{}", std::process::id()).map_err(failed)?;
                return Ok(held);
            }
        }
    }

    /// Whether the file at the path is still the one that is locked.
    fn is_in_place(&self) -> bool {
        let identity = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
        let ours = self.file.metadata().ok().map(identity);
        ours.is_some() && ours == std::fs::metadata(&self.path).ok().map(identity)
    }

    /// The pid file that the image before has left, still locked: the lock belongs to the process.
    /// Nobody may open the file in between: closing any descriptor of it gives the lock away.
    pub fn resume(path: PathBuf, file: OwnedFd) -> Self {
        Self { path, file: file.into() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The number of the open descriptor, to be kept open as long as the lock is wanted.
    pub fn descriptor(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // Somebody may have removed ours, and another instance made its own.
        if self.is_in_place() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn whole_file() -> libc::flock {
    libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}
