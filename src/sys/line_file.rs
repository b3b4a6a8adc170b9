//! A log file to which several processes append whole lines.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Seek, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

/// A file opened for appending lines. It is reopened once it was renamed or removed, as by logrotate(8).
#[derive(Debug)]
pub(crate) struct LineFile {
    path: PathBuf,
    file: Option<Opened>,
    /// `true` if the file ends with an incomplete line, written when the disk became full.
    torn: bool,
}

#[derive(Debug)]
struct Opened {
    file: File,
    identity: (u64, u64),
}

impl LineFile {
    /// Opens or creates the file, readable for the group. If that fails, the first line tries again.
    pub(crate) fn open(path: &Path) -> Self {
        Self { path: path.to_owned(), file: Opened::at(path).ok(), torn: false }
    }

    /// Checks whether the file can be opened. Does not open a pipe: the reader would get an end of file.
    ///
    /// # Errors
    /// Those of open(2).
    pub(crate) fn check(path: &Path) -> io::Result<()> {
        match fs::metadata(path) {
            Ok(found) if found.file_type().is_fifo() => Ok(access(path, AccessFlags::W_OK)?),
            _ => Opened::at(path).map(drop),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Appends a line, which ends with a newline, in one write. Blocks only on a slow disk.
    ///
    /// # Errors
    /// Those of open(2), if the file is reopened, and of write(2). The line is lost.
    pub(crate) fn write_line(&mut self, line: &[u8]) -> io::Result<()> {
        let there = fs::metadata(&self.path).as_ref().map(identity).ok();
        let mut file = match &self.file {
            Some(opened) if Some(opened.identity) == there => &opened.file,
            _ => {
                self.file = None;
                self.torn = false;
                &self.file.insert(Opened::at(&self.path)?).file
            }
        };
        if self.torn {
            file.write_all(b"\n")?;
            self.torn = false;
        }
        match file.write(line)? {
            count if count == line.len() => Ok(()),
            count => {
                self.torn = count > 0 && !take_back(file, count).unwrap_or(false);
                Err(nix::errno::Errno::ENOSPC.into())
            }
        }
    }
}

/// Removes the last `count` bytes written by this process. Returns `true` if it did: not if another process
/// has appended since, or for a pipe.
fn take_back(mut file: &File, count: usize) -> io::Result<bool> {
    let end = file.stream_position()?;
    let is_last = file.metadata()?.len() == end;
    if is_last {
        file.set_len(end.saturating_sub(count as u64))?;
    }
    Ok(is_last)
}

impl Opened {
    fn at(path: &Path) -> io::Result<Self> {
        let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
        let mut options = OpenOptions::new();
        let file = options.append(true).create(true).mode(0o640).custom_flags(flags).open(path)?;
        let identity = identity(&file.metadata()?);
        Ok(Self { file, identity })
    }
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_moved_away_is_made_anew() {
        let folder = tempfile::tempdir().expect("folder");
        let (path, old) = (folder.path().join("log"), folder.path().join("log.1"));
        let mut lines = LineFile::open(&path);
        lines.write_line(b"one\n").expect("written");
        fs::rename(&path, &old).expect("renamed");
        lines.write_line(b"two\n").expect("written");
        let read = |path| fs::read_to_string(path).expect("text");
        assert_eq!((read(&old), read(&path)), ("one\n".into(), "two\n".into()));
        assert_eq!(fs::metadata(&path).expect("file").mode() & 0o137, 0, "not for everybody");
    }

    #[test]
    fn what_cannot_be_written_is_an_error_until_it_can() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("later/log");
        let mut lines = LineFile::open(&path);
        assert!(LineFile::check(&path).is_err());
        assert!(lines.write_line(b"one\n").is_err());
        fs::create_dir(folder.path().join("later")).expect("folder");
        lines.write_line(b"two\n").expect("written");
        assert_eq!(fs::read_to_string(&path).expect("text"), "two\n");
        assert!(LineFile::open(Path::new("/dev/full")).write_line(b"three\n").is_err());
    }
}
