//! `--state-file`: keeping the totals beyond the end of the daemon.
//!
//! The file is replaced as a whole once a second, by a rename, and brought to the disk only at the
//! end: a power failure may cost a little, a slow disk costs nothing. Beside it lie `PATH.lock`,
//! which keeps a second instance away, and for a moment `PATH.tmp`. Nothing that goes wrong here is a
//! reason not to serve, and nothing that is not ours is ever written over.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::fcntl::OFlag;
use tracing::{info, warn};

use super::Controller;
use super::figures::unix_millis;
use crate::process::pid_file::{PidFile, PidFileError};
use crate::stats::Layout;
use crate::stats::saved::{self, NotSaved, Saved};

/// No state file is longer.
const LONGEST: u64 = 256 * 1024;

/// Why the totals are not kept.
#[derive(Debug, thiserror::Error)]
enum StateError {
    #[error("process {0} keeps its totals there")]
    Held(i32),
    #[error("it is not a state file of tcp-echo and is left alone")]
    Foreign,
    #[error("it is of a later version ({0}) and is left alone")]
    Newer(u32),
    #[error("it is damaged")]
    Damaged,
    #[error("it is damaged, and so was a former one, {0}: both are left alone")]
    DamagedAgain(PathBuf),
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// The file, and how it stands.
#[derive(Debug)]
pub(super) struct StateFile {
    /// As it was given.
    given: PathBuf,
    /// As it is, behind symbolic links.
    path: PathBuf,
    lock: Option<PidFile>,
    /// What was there has been read, and may be replaced.
    opened: bool,
    /// What was said last of what is wrong.
    trouble: Option<String>,
}

impl StateFile {
    /// Nothing is done yet.
    pub(super) fn new(path: &Path) -> Self {
        let (given, path) = (path.to_owned(), path.to_owned());
        Self { given, path, lock: None, opened: false, trouble: None }
    }

    /// Once a second: opens the file, if that has not been possible yet, and saves the totals.
    pub(super) fn keep(&mut self, layout: Layout<'_>, uptime_ms: u64) {
        let done = self
            .open(layout, uptime_ms)
            .and_then(|()| Ok(self.save(&Saved::of(layout, unix_millis(), uptime_ms), false)?));
        self.tell(done);
    }

    /// At the end: saves the totals for good.
    pub(super) fn finish(mut self, layout: Layout<'_>, uptime_ms: u64) {
        if self.opened {
            let done = self.save(&Saved::of(layout, unix_millis(), uptime_ms), true);
            self.tell(done.map_err(StateError::from));
        }
    }

    /// Says what is wrong once, and once that it no longer is.
    fn tell(&mut self, done: Result<(), StateError>) {
        let said = done.err().map(|error| error.to_string());
        if said != self.trouble {
            let path = self.given.display();
            match &said {
                Some(reason) => warn!("--state-file {path}: the totals are not kept: {reason}"),
                None => info!("--state-file {path}: the totals are kept again"),
            }
        }
        self.trouble = said;
    }

    fn open(&mut self, layout: Layout<'_>, uptime_ms: u64) -> Result<(), StateError> {
        if self.opened {
            return Ok(());
        }
        // A rename must not put a file in the place of a link.
        self.path = fs::canonicalize(&self.given).unwrap_or_else(|_| self.given.clone());
        if self.lock.is_none() {
            // Nothing is put beside what is none of ours.
            match self.read() {
                Ok(_) | Err(StateError::Damaged) => {}
                Err(error) => return Err(error),
            }
            let lock = PidFile::create(&beside(&self.path, ".lock"));
            self.lock = Some(lock.map_err(|error| match error {
                PidFileError::Held { pid, .. } => StateError::Held(pid),
                PidFileError::Io { source, .. } => StateError::Io(source),
            })?);
        }
        let found = match self.read() {
            Err(StateError::Damaged) => self.put_aside().map(|()| None)?,
            found => found?,
        };
        // After a reload they are there already.
        if !saved::is_restored(layout) {
            if let Some(saved) = found {
                saved.restore(layout, unix_millis(), uptime_ms);
                info!("going on with the totals in {}", self.given.display());
            }
            saved::set_restored(layout);
        }
        self.opened = true;
        Ok(())
    }

    fn read(&self) -> Result<Option<Saved>, StateError> {
        let metadata = match fs::metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            found => found?,
        };
        if !metadata.is_file() || metadata.len() > LONGEST {
            return Err(StateError::Foreign);
        }
        let mut text = Vec::new();
        File::open(&self.path)?.take(LONGEST).read_to_end(&mut text)?;
        match Saved::parse(&text) {
            Ok(found) => Ok(found),
            Err(NotSaved::Foreign) => Err(StateError::Foreign),
            Err(NotSaved::Newer(version)) => Err(StateError::Newer(version)),
            Err(NotSaved::Damaged) => Err(StateError::Damaged),
        }
    }

    /// Keeps what is damaged for whoever wants to look at it.
    fn put_aside(&self) -> Result<(), StateError> {
        let aside = beside(&self.path, ".bad");
        if fs::symlink_metadata(&aside).is_ok() {
            return Err(StateError::DamagedAgain(aside));
        }
        fs::rename(&self.path, &aside)?;
        let path = self.given.display();
        warn!("--state-file {path}: it is damaged: kept as {}, begun anew", aside.display());
        Ok(())
    }

    fn save(&self, saved: &Saved, for_good: bool) -> io::Result<()> {
        let draft = beside(&self.path, ".tmp");
        let written =
            write(&draft, &saved.to_text(), for_good).and_then(|()| fs::rename(&draft, &self.path));
        if written.is_err() {
            let _ = fs::remove_file(&draft);
        } else if for_good {
            let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
            File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
        }
        written
    }
}

fn write(path: &Path, text: &[u8], for_good: bool) -> io::Result<()> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o640).custom_flags(flags.bits());
    let mut file = options.open(path)?;
    file.write_all(text)?;
    if for_good { file.sync_all() } else { Ok(()) }
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(ending);
    name.into()
}

impl Controller<'_> {
    /// Saves the totals, if they are to be kept.
    pub(super) fn keep_state(&mut self, now: Instant) {
        let uptime = self.clock.uptime(now).as_millis() as u64;
        if let Some(state) = &mut self.state_file {
            state.keep(self.statistics.layout(), uptime);
        }
    }

    /// The same at the very end.
    pub(super) fn keep_state_for_good(&mut self) {
        let uptime = self.clock.uptime(Instant::now()).as_millis() as u64;
        if let Some(state) = self.state_file.take() {
            state.finish(self.statistics.layout(), uptime);
        }
    }
}
