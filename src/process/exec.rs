//! Becoming another build of oneself: the same pid, another image, and what it takes along.

use std::env;
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::{AccessFlags, access};

use super::signals::SignalMask;

/// What was typed to start this process.
#[derive(Clone, Debug)]
pub struct Invocation {
    /// The program file: as it was named, so that a link that is moved to another build counts.
    pub program: PathBuf,
    /// The arguments, the program's name first.
    pub arguments: Vec<OsString>,
}

impl Invocation {
    /// Finds it out. Call it before the process title is written over the arguments.
    ///
    /// # Errors
    /// The program's file cannot be determined.
    pub fn of_this_process() -> io::Result<Self> {
        let arguments: Vec<OsString> = env::args_os().collect();
        let program = match arguments.first().map(Path::new) {
            Some(name) if name.components().count() > 1 => std::path::absolute(name)?,
            Some(name) => find_in_path(name).map_or_else(env::current_exe, Ok)?,
            None => env::current_exe()?,
        };
        Ok(Self { program, arguments })
    }

    /// The same for a process that knows its program's file from the image before.
    pub fn again(program: PathBuf) -> Self {
        Self { program, arguments: env::args_os().collect() }
    }

    /// Looks up a program that was named without a slash in `PATH` again. If nothing is found, the
    /// file stays as it is.
    pub fn look_up_again(&mut self) {
        let name = self.arguments.first().map(Path::new);
        let bare = name.filter(|name| name.components().count() == 1);
        if let Some(file) = bare.and_then(find_in_path) {
            self.program = file;
        }
    }
}

fn find_in_path(name: &Path) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    // A file that may not be executed is passed over, as by execvp(3).
    let is_program = |file: &PathBuf| file.is_file() && access(file, AccessFlags::X_OK).is_ok();
    let found = env::split_paths(&path).map(|folder| folder.join(name)).find(is_program);
    found.and_then(|file| std::path::absolute(file).ok())
}

/// Replaces this process's image; returns only when that fails, and then everything is as before.
///
/// All signals are blocked across the exec: those that arrive meanwhile wait for the new image, which
/// lets them through when it can handle them. The descriptors `keep` stay open, at their numbers.
pub fn replace(
    invocation: &Invocation,
    environment: &[(OsString, OsString)],
    keep: &[RawFd],
) -> io::Error {
    match try_replace(invocation, environment, keep) {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

fn try_replace(
    invocation: &Invocation,
    environment: &[(OsString, OsString)],
    keep: &[RawFd],
) -> io::Result<std::convert::Infallible> {
    let text = |text: &OsStr| CString::new(text.as_bytes()).map_err(io::Error::from);
    let program = text(invocation.program.as_os_str())?;
    let arguments: Vec<CString> =
        invocation.arguments.iter().map(|argument| text(argument)).collect::<Result<_, _>>()?;
    let environment: Vec<CString> = environment
        .iter()
        .map(|(name, value)| {
            text(&OsString::from_vec([name.as_bytes(), b"=", value.as_bytes()].concat()))
        })
        .collect::<Result<_, _>>()?;
    let mask = SignalMask::block_all()?;
    let replaced = set_close_on_exec(keep, false)
        .and_then(|()| Ok(nix::unistd::execve(&program, &arguments, &environment)?));
    let _ = set_close_on_exec(keep, true);
    mask.restore();
    replaced
}

fn set_close_on_exec(descriptors: &[RawFd], wanted: bool) -> io::Result<()> {
    let flags = if wanted { FdFlag::FD_CLOEXEC } else { FdFlag::empty() };
    for &descriptor in descriptors {
        // SAFETY: the caller owns it for the time of the call.
        let descriptor = unsafe { std::os::fd::BorrowedFd::borrow_raw(descriptor) };
        fcntl(descriptor, FcntlArg::F_SETFD(flags))?;
    }
    Ok(())
}

/// Takes over a descriptor that the image before has left open at this number.
///
/// # Errors
/// `EBADF`: there is none.
pub fn take_over(descriptor: RawFd) -> io::Result<OwnedFd> {
    set_close_on_exec(&[descriptor], true)?;
    // SAFETY: it is open, and the image before has named it for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Writes a note to the next image; its descriptor is to be kept.
///
/// # Errors
/// No memory, or no descriptors.
pub fn leave_note(text: &[u8]) -> io::Result<OwnedFd> {
    let mut note = File::from(memfd_create("tcp-echo-handover", MFdFlags::MFD_CLOEXEC)?);
    note.write_all(text)?;
    note.rewind()?;
    Ok(note.into())
}

/// Reads the note that the image before has left.
///
/// # Errors
/// There is none at this descriptor.
pub fn read_note(descriptor: RawFd) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::from(take_over(descriptor)?).read_to_end(&mut text)?;
    Ok(text)
}

/// Removes variables that were meant for this process alone, so that no other takes them for its own.
pub fn forget_variables(names: &[&str]) {
    for name in names {
        // SAFETY: there is one thread.
        unsafe { env::remove_var(name) };
    }
}
