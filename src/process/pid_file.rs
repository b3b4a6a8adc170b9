//! The pid file: who runs, and the proof that only one does.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
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
        // Not truncated: the file of a running instance must stay as it is.
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(failed)?;
        match fcntl(&file, FcntlArg::F_SETLK(&whole_file())) {
            Err(Errno::EAGAIN | Errno::EACCES) => {
                let mut holder = whole_file();
                let _ = fcntl(&file, FcntlArg::F_GETLK(&mut holder));
                return Err(PidFileError::Held { path: path.to_owned(), pid: holder.l_pid });
            }
            locked => locked.map_err(|errno| failed(errno.into()))?,
        };
        let write = || {
            file.set_len(0)?;
            writeln!(&file, "{}", std::process::id())
        };
        write().map_err(failed)?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// The number of the open descriptor, to be kept open as long as the lock is wanted.
    pub fn descriptor(&self) -> i32 {
        self.file.as_raw_fd()
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // Still locked here, so the file is ours.
        let _ = std::fs::remove_file(&self.path);
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
