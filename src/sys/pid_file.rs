//! Pid files and lock files.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

/// A pid file locked by this process, removed when dropped.
///
/// The lock is one of fcntl(2): forked processes do not share it, and the kernel releases it when this
/// process dies, so a file left behind has no effect.
#[derive(Debug)]
pub(crate) struct PidFile {
    path: PathBuf,
    file: File,
}

/// A pid file that cannot be locked.
#[derive(Debug, thiserror::Error)]
pub enum PidFileError {
    /// Another process has locked it.
    #[error("cannot use pid file {path}: {} holds it", holder(*pid))]
    Held {
        /// Path of the file.
        path: PathBuf,
        /// Pid of that process; not positive if the system does not name it.
        pid: i32,
    },
    /// The file cannot be used.
    #[error("cannot use pid file {path}: {source}")]
    Io {
        /// Path of the file.
        path: PathBuf,
        /// Cause of the error.
        source: io::Error,
    },
}

impl PidFile {
    /// Creates and locks the file, readable for all, and writes the pid of this process into it.
    ///
    /// # Errors
    /// [`PidFileError`]: another process has locked it, it cannot be written, or it is not a pid file.
    pub(crate) fn create(path: &Path) -> Result<Self, PidFileError> {
        Self::hold(path, OpenOptions::new().mode(0o644))
    }

    /// Creates and locks a file that serves as a lock only: not a symbolic link, and not readable for others,
    /// who could lock it then.
    ///
    /// # Errors
    /// Those of [`Self::create`].
    pub(crate) fn create_lock(path: &Path) -> Result<Self, PidFileError> {
        Self::hold(path, OpenOptions::new().mode(0o600).custom_flags(libc::O_NOFOLLOW))
    }

    fn hold(path: &Path, options: &mut OpenOptions) -> Result<Self, PidFileError> {
        let failed = |source| PidFileError::Io { path: path.to_owned(), source };
        // Not truncated, as it may belong to a running instance. Also for reading, as opening a pipe only
        // for writing blocks.
        options.read(true).write(true).create(true).truncate(false);
        loop {
            let file = options.open(path).map_err(failed)?;
            if !file.metadata().map_err(failed)?.is_file() {
                return Err(failed(io::Error::other("it is not a regular file")));
            }
            match fcntl(&file, FcntlArg::F_SETLK(&whole_file())) {
                Err(Errno::EAGAIN | Errno::EACCES) => {
                    let mut holder = whole_file();
                    let _ = fcntl(&file, FcntlArg::F_GETLK(&mut holder));
                    return Err(PidFileError::Held { path: path.to_owned(), pid: holder.l_pid });
                }
                locked => locked.map_err(|errno| failed(errno.into()))?,
            };
            // Its last owner may have removed it before it was locked.
            if !is_in_place(&file, path) {
                continue;
            }
            if !holds_a_pid(&file).map_err(failed)? {
                return Err(failed(io::Error::other("it is something else and is left alone")));
            }
            let held = Self { path: path.to_owned(), file };
            held.file.set_len(0).map_err(failed)?;
            (&held.file).rewind().map_err(failed)?;
            writeln!(&held.file, "{}", std::process::id()).map_err(failed)?;
            return Ok(held);
        }
    }

    /// Restores a pid file that was kept open across an exec. The lock belongs to the process. It would be
    /// released by closing any descriptor of the file, so the file must not have been opened meanwhile.
    pub(crate) fn resume(path: PathBuf, file: OwnedFd) -> Self {
        Self { path, file: file.into() }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the descriptor, which must stay open across an exec to keep the lock.
    pub(crate) fn descriptor(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // The file may have been removed and created by another instance, or another program that does not
        // use the lock may have written its pid into it.
        if is_in_place(&self.file, &self.path) && names_this_process(&self.file) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Describes the process that holds a lock. fcntl(2) gives no positive pid for a process of another pid
/// namespace.
pub(crate) fn holder(pid: i32) -> String {
    if pid > 0 { format!("process {pid}") } else { "another process".to_owned() }
}

/// Returns `true` if the file at the path is still this one.
fn is_in_place(file: &File, path: &Path) -> bool {
    let identity = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
    let ours = file.metadata().ok().map(identity);
    ours.is_some() && ours == std::fs::metadata(path).ok().map(identity)
}

/// Returns `true` if the file holds the pid of this process.
fn names_this_process(file: &File) -> bool {
    let mut bytes = [0; 64];
    let length = file.read_at(&mut bytes, 0).unwrap_or(0);
    let text = std::str::from_utf8(&bytes[..length]).unwrap_or_default();
    text.trim().parse() == Ok(std::process::id())
}

/// Returns `true` if the file contains nothing but a number.
fn holds_a_pid(file: &File) -> io::Result<bool> {
    let mut text = Vec::new();
    file.take(64).read_to_end(&mut text)?;
    Ok(text.iter().all(|byte| byte.is_ascii_digit() || byte.is_ascii_whitespace()))
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
