//! Signals: blocked, ignored, or turned into bytes that an event loop can wait for.
//!
//! The handler does one write; everything else runs in the loop. signal-hook keeps its handler
//! installed for good once a signal was registered, so a forked process that registers the same
//! signal again must not reset its disposition in between: the registry would believe that the
//! handler is still there. [`SignalStream::new`] in the new process is all that is needed.

use std::io;

use mio::net::UnixStream;
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, sigprocmask};
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::SignalOnly;

/// A process's signal mask, to be put back.
#[derive(Debug)]
pub struct SignalMask(SigSet);

impl SignalMask {
    /// Blocks every signal and remembers the mask that was in force.
    ///
    /// # Errors
    /// None in practice (sigprocmask(2) fails on bad arguments only).
    pub fn block_all() -> io::Result<Self> {
        let mut before = SigSet::empty();
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut before))?;
        Ok(Self(before))
    }

    /// Puts the remembered mask back.
    pub fn restore(self) {
        // Setting a mask we got from the kernel cannot fail.
        let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&self.0), None);
    }
}

/// Lets every signal through again; those that waited are delivered now.
///
/// # Errors
/// None in practice.
pub fn unblock_all() -> io::Result<()> {
    Ok(sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?)
}

/// Ignores these signals from now on.
///
/// # Errors
/// `EINVAL` for `SIGKILL` and `SIGSTOP`.
pub fn ignore(signals: &[Signal]) -> io::Result<()> {
    set_all(signals, SigHandler::SigIgn)
}

/// Gives these signals their default effect back.
///
/// # Errors
/// `EINVAL` for `SIGKILL` and `SIGSTOP`.
pub fn reset(signals: &[Signal]) -> io::Result<()> {
    set_all(signals, SigHandler::SigDfl)
}

fn set_all(signals: &[Signal], disposition: SigHandler) -> io::Result<()> {
    for &signal in signals {
        // SAFETY: SIG_IGN and SIG_DFL run no code of ours in signal context.
        unsafe { nix::sys::signal::signal(signal, disposition) }?;
    }
    Ok(())
}

/// Signals as a stream: readable when one has arrived. Dropping it stops the catching.
#[derive(Debug)]
pub struct SignalStream(SignalDelivery<UnixStream, SignalOnly>);

impl SignalStream {
    /// Catches `signals` from now on.
    ///
    /// # Errors
    /// No descriptors left, or a signal that cannot be caught.
    pub fn new(signals: &[Signal]) -> io::Result<Self> {
        let (read, write) = UnixStream::pair()?;
        let numbers = signals.iter().map(|&signal| signal as i32);
        Ok(Self(SignalDelivery::with_pipe(read, write, SignalOnly, numbers)?))
    }

    /// What to register with the event loop.
    pub fn source(&mut self) -> &mut UnixStream {
        self.0.get_read_mut()
    }

    /// The signals that have arrived since the last call, each once, in no particular order.
    pub fn pending(&mut self) -> Vec<Signal> {
        self.0.pending().filter_map(|number| Signal::try_from(number).ok()).collect()
    }
}
