//! The process title in `ps`: the argument area, overwritten in place, and the kernel's short name.
//!
//! The area is the one execve(2) laid out: the arguments and, right behind, the environment. A title
//! longer than the arguments reaches into the environment, so that is moved to the heap first.

use std::ffi::{CString, c_char};
use std::os::unix::ffi::OsStrExt;

unsafe extern "C" {
    /// The C library's pointer to the first argument (program_invocation_name(3)).
    static program_invocation_name: *mut c_char;
}

/// The memory that `ps` shows.
#[derive(Debug)]
pub struct TitleArea {
    start: *mut u8,
    arguments: usize,
    length: usize,
}

impl TitleArea {
    /// Finds the area. Call it once, early, while there is one thread. After the first [`Self::set`]
    /// `std::env::args` is of no use any more: it reads the very same memory.
    pub fn claim() -> Self {
        let arguments: usize = std::env::args_os().map(|argument| argument.len() + 1).sum();
        let variables: Vec<_> = std::env::vars_os().collect();
        let environment: usize =
            variables.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
        for (name, value) in &variables {
            // What the kernel allows is not always what setenv(3) takes: leave such a one alone.
            if !name.is_empty() && !name.as_bytes().contains(&b'=') {
                // SAFETY: there is one thread.
                unsafe { std::env::set_var(name, value) };
            }
        }
        // SAFETY: the C library has set it before main and nobody writes to it.
        let start = unsafe { program_invocation_name }.cast();
        Self { start, arguments, length: arguments + environment }
    }

    /// Shows `title` in `ps` from now on, cut where the area ends; the short name (`comm`) takes its
    /// first 15 bytes.
    pub fn set(&mut self, title: &str) {
        if let Ok(name) = CString::new(title) {
            let _ = nix::sys::prctl::set_name(&name);
        }
        if self.start.is_null() || self.length == 0 {
            return;
        }
        let kept = title.len().min(self.length - 1);
        // Everything behind the title that was an argument must go, or `ps` shows it.
        let end = self.arguments.max(kept + 1).min(self.length);
        // SAFETY: `start..start + length` is the writable area found in `claim`; the environment lives
        // on the heap by now, and the arguments are not read again.
        unsafe {
            std::ptr::copy_nonoverlapping(title.as_ptr(), self.start, kept);
            std::ptr::write_bytes(self.start.add(kept), 0, end - kept);
        }
    }
}
