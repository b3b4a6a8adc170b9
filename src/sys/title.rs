//! The process title shown by ps(1), and the kernel's short name of the process.
//!
//! The title overwrites the arguments in the memory that execve(2) has filled. The environment follows
//! there. A long title overwrites it, too, so it is copied to the heap first.

use std::ffi::{CString, c_char};
use std::os::unix::ffi::OsStrExt;

unsafe extern "C" {
    /// The C library's pointer to the first argument (program_invocation_name(3)).
    static program_invocation_name: *mut c_char;
}

/// The memory of arguments and environment, which ps(1) shows.
#[derive(Debug)]
pub struct TitleArea {
    start: *mut u8,
    arguments: usize,
    length: usize,
}

impl TitleArea {
    /// Locates the memory. Must be called once, while there is one thread. After [`Self::set`]
    /// `std::env::args` returns parts of the title.
    pub fn claim() -> Self {
        let arguments: usize = std::env::args_os().map(|argument| argument.len() + 1).sum();
        let variables: Vec<_> = std::env::vars_os().collect();
        let environment: usize =
            variables.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
        for (name, value) in &variables {
            // Skip names that setenv(3) rejects.
            if !name.is_empty() && !name.as_bytes().contains(&b'=') {
                // SAFETY: there is one thread.
                unsafe { std::env::set_var(name, value) };
            }
        }
        // SAFETY: the C library sets it before main, and nothing writes to it.
        let start = unsafe { program_invocation_name }.cast();
        Self { start, arguments, length: arguments + environment }
    }

    /// Sets the title, cut to the size of the memory, and the short name (`comm`), its first 15 bytes.
    pub fn set(&mut self, title: &str) {
        if let Ok(name) = CString::new(title) {
            let _ = nix::sys::prctl::set_name(&name);
        }
        if self.start.is_null() || self.length == 0 {
            return;
        }
        let kept = title.len().min(self.length - 1);
        // ps(1) would show what is left of the arguments.
        let end = self.arguments.max(kept + 1).min(self.length);
        // SAFETY: `start..start + length` is the writable area found in `claim`; the environment lives
        // on the heap by now, and the arguments are not read again.
        unsafe {
            std::ptr::copy_nonoverlapping(title.as_ptr(), self.start, kept);
            std::ptr::write_bytes(self.start.add(kept), 0, end - kept);
        }
    }
}
