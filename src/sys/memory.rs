//! Memory shared between processes, and memory given back to the system.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::sys::stat::fstat;
use nix::unistd::ftruncate;

/// An array of 64-bit words shared by this process and the processes it forks, initially zero.
///
/// It needs no file system, so it works on a read-only root and without `/dev/shm`.
#[derive(Debug)]
pub(crate) struct SharedWords {
    start: NonNull<AtomicU64>,
    words: usize,
    file: OwnedFd,
}

impl SharedWords {
    /// Allocates `words` words, at least one.
    ///
    /// # Errors
    /// Those of memfd_create(2) and mmap(2): out of memory or descriptors.
    pub(crate) fn new(words: usize) -> io::Result<Self> {
        let file = memfd_create("tcp-echo", MFdFlags::MFD_CLOEXEC)?;
        ftruncate(&file, (words * size_of::<AtomicU64>()) as libc::off_t)?;
        Self::map(file, words)
    }

    /// Maps memory that was kept open across an exec.
    ///
    /// # Errors
    /// The memory is too small for `words` words, or those of mmap(2).
    pub(crate) fn map(file: OwnedFd, words: usize) -> io::Result<Self> {
        let bytes = NonZeroUsize::new(words * size_of::<AtomicU64>())
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        if (fstat(&file)?.st_size as usize) < bytes.get() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a fresh mapping of a file of sufficient length that nothing truncates, at
        // an address of the kernel's choice; it is unmapped only in `drop`.
        let start = unsafe { mmap(None, bytes, protection, MapFlags::MAP_SHARED, &file, 0) }?;
        Ok(Self { start: start.cast(), words, file })
    }

    pub(crate) fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is `words` words long, aligned to a page, zeroed by the kernel, lives
        // as long as `self`, and atomics may be changed by other processes at any time.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.words) }
    }

    pub(crate) fn file(&self) -> &OwnedFd {
        &self.file
    }
}

impl Drop for SharedWords {
    fn drop(&mut self) {
        // SAFETY: mapped in `new` with this length; the borrow rules end all uses before this.
        let _ = unsafe { munmap(self.start.cast(), self.words * size_of::<AtomicU64>()) };
    }
}

/// Returns free heap memory to the system (malloc_trim(3)). Takes about a millisecond.
pub(crate) fn trim() {
    // Other C libraries do so by themselves.
    #[cfg(target_env = "gnu")]
    // SAFETY: it touches nothing but memory that is free.
    unsafe {
        libc::malloc_trim(0)
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

    #[test]
    fn words_start_at_zero_and_keep_what_is_stored() {
        let shared = SharedWords::new(1000).expect("memory");
        assert!(shared.words().iter().all(|word| word.load(Ordering::Relaxed) == 0));
        shared.words()[999].store(7, Ordering::Relaxed);
        assert_eq!(shared.words()[999].load(Ordering::Relaxed), 7);
    }

    #[test]
    fn nothing_cannot_be_shared() {
        assert!(SharedWords::new(0).is_err());
    }
}
