//! `--state-file`: totals that survive the end of the daemon.
//!
//! Once a second the file is replaced: a draft is written, synced, and renamed, so that after a crash or
//! a power failure the file is whole. fsync(2) blocks the controller; after each save it pauses saving
//! for five times the duration of the save. `PATH.lock` keeps a second daemon away. If the file cannot be
//! read or written, the daemon serves nevertheless and tries again. It never overwrites a file that is
//! not its own.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::fcntl::OFlag;
use tracing::{info, warn};

use crate::daemon::controller::Controller;
use crate::daemon::controller::reload::state_handover::HandoverState;
use crate::daemon::stats::saved::{self, ParseError, SavedTotals};
use crate::daemon::stats::{FleetField, Layout};
use crate::sys::clock::unix_ms;
use crate::sys::exec::adopt_descriptor;
use crate::sys::pid_file::{PidFile, PidFileError, holder};

/// Pause after a save, as a multiple of its duration.
const PAUSE: u32 = 5;

/// Maximum length of a state file, in bytes.
const MAX_LENGTH: u64 = 256 * 1024;

/// [`FleetField::SavedAt`] before the first save, if the totals of former daemons were restored or there
/// were none.
const RESTORED: u64 = 1;

/// A reason for which the totals are not saved.
#[derive(Debug, thiserror::Error)]
enum StateError {
    #[error("in use by {}", holder(*.0))]
    InUse(i32),
    #[error(transparent)]
    Parse(#[from] ParseError),
    #[error("state file is damaged, and {0} exists")]
    DamagedAgain(PathBuf),
    #[error("state file has the totals of another daemon")]
    OtherDaemon,
    #[error("{0} is not a draft of a state file")]
    NotADraft(PathBuf),
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// The state file of this daemon.
#[derive(Debug)]
pub(crate) struct StateFile {
    /// Path of the option.
    configured: PathBuf,
    /// Path without symbolic links, which a rename would replace.
    path: PathBuf,
    /// Held once the file was loaded.
    lock: Option<PidFile>,
    next_save: Option<Instant>,
    /// The error that was logged last, while it lasts.
    logged: Option<String>,
}

impl StateFile {
    /// Does not touch the file before [`Self::update`].
    pub(crate) fn new(configured: &Path) -> Self {
        let (configured, path) = (configured.to_owned(), configured.to_owned());
        Self { configured, path, lock: None, next_save: None, logged: None }
    }

    /// Restores the file after a reload, loaded and locked.
    pub(crate) fn restore(handover: HandoverState) -> io::Result<Self> {
        let HandoverState { configured, path, lock } = handover;
        let lock: OwnedFd = adopt_descriptor(lock)?;
        let lock = Some(PidFile::resume(beside(&path, ".lock"), lock));
        Ok(Self { configured, path, lock, next_save: None, logged: None })
    }

    /// Returns what [`Self::restore`] needs, `None` if the file was not loaded.
    pub(crate) fn serialize(&self) -> Option<HandoverState> {
        let lock = self.lock.as_ref()?.descriptor();
        Some(HandoverState { configured: self.configured.clone(), path: self.path.clone(), lock })
    }

    pub(crate) fn configured_path(&self) -> &Path {
        &self.configured
    }

    /// Loads the file unless that was done, and saves the totals. To be called once a second.
    pub(crate) fn update(&mut self, layout: Layout<'_>, uptime_ms: u64, now: Instant) {
        if self.next_save.is_some_and(|at| now < at) {
            return;
        }
        let begin = Instant::now();
        let saved = self.load(layout, uptime_ms).and_then(|()| self.save(layout, uptime_ms));
        self.next_save = Some(now + PAUSE * begin.elapsed());
        self.log(saved);
    }

    /// Saves the totals at the end of the daemon.
    pub(crate) fn finish(mut self, layout: Layout<'_>, uptime_ms: u64) {
        if self.lock.is_some() {
            let saved = self.save(layout, uptime_ms);
            self.log(saved);
        }
    }

    /// Logs an error once, and once when it is over.
    fn log(&mut self, saved: Result<(), StateError>) {
        let reason = saved.err().map(|error| error.to_string());
        if reason != self.logged {
            let path = self.configured.display();
            match &reason {
                Some(reason) => warn!(%path, reason, "totals not saved"),
                None => info!(%path, "totals saved again"),
            }
        }
        self.logged = reason;
    }

    fn load(&mut self, layout: Layout<'_>, uptime_ms: u64) -> Result<(), StateError> {
        if self.lock.is_some() {
            return Ok(());
        }
        self.path = without_links(&self.configured);
        // Before the lock, so that nothing is created beside a file of somebody else.
        match self.read(layout) {
            Ok(_) | Err(StateError::Parse(ParseError::Damaged)) => {}
            Err(error) => return Err(error),
        }
        let lock =
            PidFile::create_lock(&beside(&self.path, ".lock")).map_err(|error| match error {
                PidFileError::Held { pid, .. } => StateError::InUse(pid),
                PidFileError::Io { source, .. } => StateError::Io(source),
            })?;
        // Its last owner may have saved once more.
        let found = match self.read(layout) {
            Err(StateError::Parse(ParseError::Damaged)) => self.put_aside().map(|()| None)?,
            found => found?,
        };
        if layout.fleet(FleetField::SavedAt) == 0 {
            layout.set_fleet(FleetField::SavedAt, RESTORED);
            if let Some(saved) = found {
                saved.restore(layout, unix_ms(), uptime_ms);
                layout.set_fleet(FleetField::SavedAt, saved.saved_at_ms);
                info!(path = %self.configured.display(), "totals restored");
            }
        }
        self.lock = Some(lock);
        Ok(())
    }

    /// Reads the file, `None` if there is nothing in it. Once totals were restored or saved, it must have
    /// the very totals saved last: after a reload it may be another file.
    fn read(&self, layout: Layout<'_>) -> Result<Option<SavedTotals>, StateError> {
        let metadata = match fs::metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            found => found?,
        };
        if !metadata.is_file() || metadata.len() > MAX_LENGTH {
            return Err(ParseError::Foreign.into());
        }
        let found = SavedTotals::parse(&fs::read(&self.path)?)?;
        match (layout.fleet(FleetField::SavedAt), &found) {
            (1.., Some(saved)) if saved.saved_at_ms != layout.fleet(FleetField::SavedAt) => {
                Err(StateError::OtherDaemon)
            }
            _ => Ok(found),
        }
    }

    /// Renames a damaged file, unless there is one from before.
    fn put_aside(&self) -> Result<(), StateError> {
        let aside = beside(&self.path, ".bad");
        if fs::symlink_metadata(&aside).is_ok() {
            return Err(StateError::DamagedAgain(aside));
        }
        fs::rename(&self.path, &aside)?;
        let (path, renamed_to) = (self.configured.display(), aside.display());
        warn!(%path, %renamed_to, "state file is damaged, starting afresh");
        Ok(())
    }

    fn save(&self, layout: Layout<'_>, uptime_ms: u64) -> Result<(), StateError> {
        let totals = SavedTotals::new(layout, unix_ms(), uptime_ms);
        let draft = beside(&self.path, ".tmp");
        let mut file = open_draft(&draft)?;
        let replaced = file
            .write_all(&totals.to_text())
            .and_then(|()| file.sync_all())
            .and_then(|()| fs::rename(&draft, &self.path));
        if replaced.is_err() {
            let _ = fs::remove_file(&draft);
        }
        replaced?;
        layout.set_fleet(FleetField::SavedAt, totals.saved_at_ms);
        // Not every directory can be opened or synced. Without it a power failure may bring the previous
        // file back.
        let _ = File::open(folder_of(&self.path)).and_then(|folder| folder.sync_all());
        Ok(())
    }
}

/// Opens an empty draft, perhaps one that was left by a daemon that was killed.
fn open_draft(path: &Path) -> Result<File, StateError> {
    let mut options = OpenOptions::new();
    // Also for reading: otherwise opening a pipe blocks.
    options.read(true).write(true).create(true).truncate(false);
    let mut file = options.mode(0o640).custom_flags(OFlag::O_NOFOLLOW.bits()).open(path)?;
    let mut beginning = Vec::new();
    let is_file = file.metadata()?.is_file();
    if is_file {
        Read::by_ref(&mut file).take(saved::BEGINNING.len() as u64).read_to_end(&mut beginning)?;
    }
    if !is_file || !saved::BEGINNING.starts_with(&beginning) {
        return Err(StateError::NotADraft(path.to_owned()));
    }
    file.set_len(0)?;
    file.rewind()?;
    Ok(file)
}

/// Returns the path without symbolic links, even if there is no file yet.
fn without_links(path: &Path) -> PathBuf {
    let mut path = path.to_owned();
    // The limit of path_resolution(7).
    for _ in 0..40 {
        let Ok(target) = fs::read_link(&path) else { break };
        path = folder_of(&path).join(target);
    }
    match (fs::canonicalize(folder_of(&path)), path.file_name()) {
        (Ok(folder), Some(name)) => folder.join(name),
        _ => path,
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

impl Controller<'_> {
    /// Saves the totals, if there is a state file. To be called once a second.
    pub(crate) fn save_state(&mut self, now: Instant) {
        let uptime = self.publisher.clock.uptime_ms(now);
        if let Some(state) = &mut self.publisher.state_file {
            state.update(self.publisher.statistics.layout(), uptime, now);
        }
    }

    /// Saves the totals at the end of the daemon.
    pub(crate) fn save_final_state(&mut self) {
        let uptime = self.publisher.clock.uptime_ms(Instant::now());
        if let Some(state) = self.publisher.state_file.take() {
            state.finish(self.publisher.statistics.layout(), uptime);
        }
    }
}
