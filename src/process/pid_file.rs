//! The pid file: who runs, and the proof that only one does.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
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
    #[error("cannot use pid file {path}: {} holds it", holder(*pid))]
    Held {
        /// The file.
        path: PathBuf,
        /// Who holds it; not positive where the system does not tell.
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
    /// Creates and locks the file, for everybody to read, and writes this process's pid into it.
    ///
    /// # Errors
    /// [`PidFileError`]: another process holds it, or the file cannot be written, or what is there is
    /// something else.
    pub fn create(path: &Path) -> Result<Self, PidFileError> {
        Self::hold(path, OpenOptions::new().mode(0o644))
    }

    /// The same for a file that is only a lock: nobody else may open it, because whoever reads a file
    /// can lock it, and it is no symbolic link.
    ///
    /// # Errors
    /// Those of [`Self::create`].
    pub fn create_lock(path: &Path) -> Result<Self, PidFileError> {
        Self::hold(path, OpenOptions::new().mode(0o600).custom_flags(libc::O_NOFOLLOW))
    }

    fn hold(path: &Path, options: &mut OpenOptions) -> Result<Self, PidFileError> {
        let failed = |source| PidFileError::Io { path: path.to_owned(), source };
        // Not truncated: the file of a running instance must stay as it is. For reading, too: so a
        // pipe is opened at once, and found out.
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
            // Its last owner may have removed it before we had the lock.
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
        // Somebody may have removed ours, and another instance made its own; or another program,
        // which knows nothing of the lock, has written its pid over ours.
        if is_in_place(&self.file, &self.path) && names_this_process(&self.file) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Who holds a lock: fcntl(2) does not name everybody.
fn holder(pid: i32) -> String {
    if pid > 0 { format!("process {pid}") } else { "another process".to_owned() }
}

/// Whether the file at the path is still this one.
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

/// Whether nothing stands in it but a number.
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
