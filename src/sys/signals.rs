//! Signals: blocked, ignored, or turned into bytes that an event loop can wait for.
//!
//! The handler does one write; everything else runs in the loop. signal-hook never uninstalls a handler. A
//! forked process that registers the same signal must not reset its disposition before: signal-hook would
//! not install the handler again. [`SignalStream::new`] in the new process is sufficient.

use std::io;

use mio::net::UnixStream;
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, sigprocmask};
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::SignalOnly;

/// A saved signal mask.
#[derive(Debug)]
pub(crate) struct SignalMask(SigSet);

impl SignalMask {
    /// Blocks every signal and saves the mask in force.
    ///
    /// # Errors
    /// None in practice (sigprocmask(2) fails on bad arguments only).
    pub(crate) fn block_all() -> io::Result<Self> {
        let mut before = SigSet::empty();
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut before))?;
        Ok(Self(before))
    }

    /// Restores the saved mask.
    pub(crate) fn restore(self) {
        // A mask from the kernel is valid.
        let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&self.0), None);
    }
}

/// Unblocks all signals. Pending ones are delivered.
///
/// # Errors
/// None in practice.
pub(crate) fn unblock_all() -> io::Result<()> {
    Ok(sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?)
}

/// Ignores these signals.
///
/// # Errors
/// `EINVAL` for `SIGKILL` and `SIGSTOP`.
pub(crate) fn ignore(signals: &[Signal]) -> io::Result<()> {
    set_all(signals, SigHandler::SigIgn)
}

/// Restores the default disposition of these signals.
///
/// # Errors
/// `EINVAL` for `SIGKILL` and `SIGSTOP`.
pub(crate) fn reset(signals: &[Signal]) -> io::Result<()> {
    set_all(signals, SigHandler::SigDfl)
}

fn set_all(signals: &[Signal], disposition: SigHandler) -> io::Result<()> {
    for &signal in signals {
        // SAFETY: SIG_IGN and SIG_DFL run no code of ours in signal context.
        unsafe { nix::sys::signal::signal(signal, disposition) }?;
    }
    Ok(())
}

/// Caught signals as a stream, which is readable once a signal has arrived.
#[derive(Debug)]
pub(crate) struct SignalStream(SignalDelivery<UnixStream, SignalOnly>);

impl SignalStream {
    /// Catches `signals` until it is dropped.
    ///
    /// # Errors
    /// Out of descriptors, or a signal that cannot be caught.
    pub(crate) fn new(signals: &[Signal]) -> io::Result<Self> {
        let (read, write) = UnixStream::pair()?;
        let numbers = signals.iter().map(|&signal| signal as i32);
        Ok(Self(SignalDelivery::with_pipe(read, write, SignalOnly, numbers)?))
    }

    /// Returns the socket to register with the event loop.
    pub(crate) fn source(&mut self) -> &mut UnixStream {
        self.0.get_read_mut()
    }

    /// Returns the signals received since the last call, each once, in no particular order.
    pub(crate) fn pending(&mut self) -> Vec<Signal> {
        self.0.pending().filter_map(|number| Signal::try_from(number).ok()).collect()
    }
}
