//! Replacing the program of this process: execve(2), and descriptors that stay open across it.

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

/// The command that started this process.
#[derive(Clone, Debug)]
pub struct Invocation {
    /// Path of the program as it was given, so that a symbolic link can be pointed to another build.
    pub program: PathBuf,
    /// Arguments, the name of the program first.
    pub arguments: Vec<OsString>,
}

impl Invocation {
    /// Determines the command. Must be called before the process title is set, which overwrites it.
    ///
    /// # Errors
    /// The path of the program cannot be determined.
    pub fn of_this_process() -> io::Result<Self> {
        let arguments: Vec<OsString> = env::args_os().collect();
        let program = match arguments.first().map(Path::new) {
            Some(name) if name.components().count() > 1 => std::path::absolute(name)?,
            Some(name) => find_in_path(name).map_or_else(env::current_exe, Ok)?,
            None => env::current_exe()?,
        };
        Ok(Self { program, arguments })
    }

    /// Returns the command of this process with the path of its program from before an exec.
    pub fn again(program: PathBuf) -> Self {
        Self { program, arguments: env::args_os().collect() }
    }

    /// Searches `PATH` again for a program that was given without a slash. If it is not found, the path
    /// stays.
    pub fn refresh_program(&mut self) {
        let name = self.arguments.first().map(Path::new);
        let bare = name.filter(|name| name.components().count() == 1);
        if let Some(file) = bare.and_then(find_in_path) {
            self.program = file;
        }
    }
}

fn find_in_path(name: &Path) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    // Like execvp(3), skip files that are not executable.
    let is_program = |file: &PathBuf| file.is_file() && access(file, AccessFlags::X_OK).is_ok();
    let found = env::split_paths(&path).map(|folder| folder.join(name)).find(is_program);
    found.and_then(|file| std::path::absolute(file).ok())
}

/// Replaces the program of this process. Returns only if that fails, with everything as before.
///
/// All signals are blocked across the exec. Those that arrive meanwhile stay pending until the new program
/// unblocks them. The descriptors in `keep` stay open under their numbers.
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

/// Takes ownership of a descriptor that was kept open across an exec.
///
/// # Errors
/// `EBADF` if it is not open.
pub fn adopt_descriptor(descriptor: RawFd) -> io::Result<OwnedFd> {
    set_close_on_exec(&[descriptor], true)?;
    // SAFETY: it is open, and was kept open for this caller alone.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Writes `text` to a file in memory, which can be kept open across an exec.
///
/// # Errors
/// Out of memory or descriptors.
pub fn write_memory_file(text: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd_create("tcp-echo-handover", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(text)?;
    file.rewind()?;
    Ok(file.into())
}

/// Reads and closes a file of [`write_memory_file`] after an exec.
///
/// # Errors
/// The descriptor is not open or cannot be read.
pub fn read_memory_file(descriptor: RawFd) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::from(adopt_descriptor(descriptor)?).read_to_end(&mut text)?;
    Ok(text)
}

/// Removes environment variables that child processes must not see.
pub fn remove_variables(names: &[&str]) {
    for name in names {
        // SAFETY: there is one thread.
        unsafe { env::remove_var(name) };
    }
}
