//! `--state-file`: keeping the totals beyond the end of the daemon.
//!
//! The file is replaced as a whole once a second, by a rename. What is renamed is on the disk by then,
//! so that a power failure costs a moment and never the file. While the disk is slow, the file is
//! replaced less often: writing takes at most a fifth of the controller's time. Beside it lie `PATH.lock`,
//! which keeps a second instance away, and for a moment `PATH.tmp`. Nothing that goes wrong here is a
//! reason not to serve, and nothing that is not ours is ever written over.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::fcntl::OFlag;
use tracing::{info, warn};

use super::Controller;
use super::figures::unix_millis;
use super::handover::HandedState;
use crate::process::exec::take_over;
use crate::process::pid_file::{PidFile, PidFileError};
use crate::stats::Layout;
use crate::stats::saved::{self, NotSaved, Saved};

/// From one save to the next, as a multiple of the time that the first one took.
const REST: u32 = 5;

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
    #[error("it has the totals of another daemon, and is left alone")]
    Another,
    #[error("{0} is something else and is left alone")]
    NoDraft(PathBuf),
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
    /// The disk is slow: when to save again.
    rest_until: Option<Instant>,
    /// What was said last of what is wrong.
    trouble: Option<String>,
}

impl StateFile {
    /// Nothing is done yet.
    pub(super) fn new(path: &Path) -> Self {
        let (given, path) = (path.to_owned(), path.to_owned());
        Self { given, path, lock: None, opened: false, rest_until: None, trouble: None }
    }

    /// The file as the image before has left it: what it has read, this one need not, and the lock
    /// has never been given away.
    pub(super) fn resume(handed: HandedState) -> io::Result<Self> {
        let HandedState { given, path, lock } = handed;
        let file: OwnedFd = take_over(lock)?;
        let lock = Some(PidFile::resume(beside(&path, ".lock"), file));
        Ok(Self { given, path, lock, opened: true, rest_until: None, trouble: None })
    }

    /// What the next image needs for that.
    pub(super) fn handover(&self) -> Option<HandedState> {
        let lock = self.lock.as_ref().filter(|_| self.opened)?.descriptor();
        Some(HandedState { given: self.given.clone(), path: self.path.clone(), lock })
    }

    /// As it was given.
    pub(super) fn given(&self) -> &Path {
        &self.given
    }

    /// Once a second: opens the file, if that has not been possible yet, and saves the totals.
    pub(super) fn keep(&mut self, layout: Layout<'_>, uptime_ms: u64, now: Instant) {
        if self.rest_until.is_some_and(|until| now < until) {
            return;
        }
        let begin = Instant::now();
        let done = self.open(layout, uptime_ms).and_then(|()| self.save(layout, uptime_ms));
        self.rest_until = Some(now + REST * begin.elapsed());
        self.tell(done);
    }

    /// At the end: saves the totals for good.
    pub(super) fn finish(mut self, layout: Layout<'_>, uptime_ms: u64) {
        if self.opened {
            let done = self.save(layout, uptime_ms);
            self.tell(done);
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
        self.path = behind_links(&self.given);
        if self.lock.is_none() {
            // Nothing is put beside what is none of ours.
            match self.read_for(layout) {
                Ok(_) | Err(StateError::Damaged) => {}
                Err(error) => return Err(error),
            }
            let lock = PidFile::create_lock(&beside(&self.path, ".lock"));
            self.lock = Some(lock.map_err(|error| match error {
                PidFileError::Held { pid, .. } => StateError::Held(pid),
                PidFileError::Io { source, .. } => StateError::Io(source),
            })?);
        }
        let found = match self.read_for(layout) {
            Err(StateError::Damaged) => self.put_aside().map(|()| None)?,
            found => found?,
        };
        match (saved::kept_at(layout), found) {
            (None, None) => saved::set_kept(layout, 1),
            (None, Some(saved)) => {
                saved.restore(layout, unix_millis(), uptime_ms);
                saved::set_kept(layout, saved.at_ms());
                info!("going on with the totals in {}", self.given.display());
            }
            (Some(_), _) => {}
        }
        self.opened = true;
        Ok(())
    }

    /// What is there, if it may be counted, or is what we have written last. After a reload with
    /// another path it may be neither.
    fn read_for(&self, layout: Layout<'_>) -> Result<Option<Saved>, StateError> {
        match (saved::kept_at(layout), self.read()?) {
            (Some(at), Some(saved)) if saved.at_ms() != at => Err(StateError::Another),
            (_, found) => Ok(found),
        }
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

    fn save(&self, layout: Layout<'_>, uptime_ms: u64) -> Result<(), StateError> {
        let saved = Saved::of(layout, unix_millis(), uptime_ms);
        let draft = beside(&self.path, ".tmp");
        let mut file = open_draft(&draft)?;
        let written = file
            .write_all(&saved.to_text())
            .and_then(|()| file.sync_all())
            .and_then(|()| fs::rename(&draft, &self.path));
        if let Err(error) = written {
            let _ = fs::remove_file(&draft);
            return Err(error.into());
        }
        saved::set_kept(layout, saved.at_ms());
        // Not every folder can be read, nor every one be synced. Without it a power failure may bring
        // the former file back.
        let _ = File::open(folder_of(&self.path)).and_then(|folder| folder.sync_all());
        Ok(())
    }
}

/// An empty draft; one may have been left behind by an instance that was killed.
fn open_draft(path: &Path) -> Result<File, StateError> {
    let mut options = OpenOptions::new();
    // For reading, too: so a pipe is opened at once, and found out.
    options.read(true).write(true).create(true).truncate(false);
    let mut file = options.mode(0o640).custom_flags(OFlag::O_NOFOLLOW.bits()).open(path)?;
    let mut beginning = Vec::new();
    if file.metadata()?.is_file() {
        Read::by_ref(&mut file).take(saved::BEGINNING.len() as u64).read_to_end(&mut beginning)?;
    }
    if !file.metadata()?.is_file() || !saved::BEGINNING.starts_with(&beginning) {
        return Err(StateError::NoDraft(path.to_owned()));
    }
    file.set_len(0)?;
    file.rewind()?;
    Ok(file)
}

/// The path without symbolic links, whether there is a file yet or not: a rename must not put a file in
/// the place of a link.
fn behind_links(path: &Path) -> PathBuf {
    let mut path = path.to_owned();
    // As many as the system follows (path_resolution(7)).
    for _ in 0..40 {
        let Ok(target) = fs::read_link(&path) else { break };
        path = folder_of(&path).join(target);
    }
    let folder = fs::canonicalize(folder_of(&path));
    match (folder, path.file_name()) {
        (Ok(folder), Some(name)) => folder.join(name),
        _ => path,
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(ending);
    name.into()
}

impl Controller<'_> {
    /// Saves the totals, if they are to be kept.
    pub(super) fn keep_state(&mut self, now: Instant) {
        let uptime = self.publisher.clock.uptime(now).as_millis() as u64;
        if let Some(state) = &mut self.publisher.state_file {
            state.keep(self.publisher.statistics.layout(), uptime, now);
        }
    }

    /// The same at the very end.
    pub(super) fn keep_state_for_good(&mut self) {
        let uptime = self.publisher.clock.uptime(Instant::now()).as_millis() as u64;
        if let Some(state) = self.publisher.state_file.take() {
            state.finish(self.publisher.statistics.layout(), uptime);
        }
    }
}
