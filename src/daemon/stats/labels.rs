//! Enums with a number in shared memory and a label in logs, JSON, and metrics.

use nix::errno::Errno;

/// Defines an enum whose members are numbered from 0 and have a label.
macro_rules! labels {
    ($(#[$doc:meta])* $visibility:vis $name:ident { $($(#[$member_doc:meta])* $member:ident = $label:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        $visibility enum $name { $($(#[$member_doc])* $member,)+ }

        impl $name {
            /// All members, in the order of their numbers.
            pub(crate) const ALL: &'static [Self] = &[$(Self::$member,)+];

            /// Returns the name of this member in logs, JSON, and metrics.
            pub(crate) const fn label(self) -> &'static str {
                match self { $(Self::$member => $label,)+ }
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.label())
            }
        }
    };
}

/// Returns the member with this number, or the first one for an unknown number.
pub(super) fn from_number<T: Copy>(all: &[T], number: u64) -> T {
    usize::try_from(number).ok().and_then(|number| all.get(number)).copied().unwrap_or(all[0])
}

labels! {
    /// Reasons for which connections are closed.
    pub Reason {
        /// The client closed its side and has got everything.
        ClientDone = "client_fin",
        /// The client or the network reset it.
        ClientReset = "reset",
        /// The idle timeout expired.
        Idle = "idle",
        /// The write timeout expired.
        WriteTimeout = "write_timeout",
        /// The worker drained.
        Drain = "drain",
        /// The drain deadline was reached.
        DrainDeadline = "drain_deadline",
        /// The service ended it.
        Answered = "answered",
        /// It could not be registered with epoll.
        Error = "error",
        /// Its worker died.
        WorkerDied = "worker_died",
    }
}

impl Reason {
    /// Returns `true` if the client has got all its data and a FIN.
    pub(crate) fn is_orderly(self) -> bool {
        match self {
            Self::ClientDone | Self::Idle | Self::Drain | Self::Answered => true,
            Self::ClientReset
            | Self::WriteTimeout
            | Self::DrainDeadline
            | Self::Error
            | Self::WorkerDied => false,
        }
    }
}

labels! {
    /// Errors of accept(2), by errno.
    pub(crate) AcceptError {
        /// Any other errno.
        Other = "other",
        /// The process is out of descriptors.
        Emfile = "EMFILE",
        /// The system is out of descriptors.
        Enfile = "ENFILE",
        /// Out of socket buffers.
        Enobufs = "ENOBUFS",
        /// Out of memory.
        Enomem = "ENOMEM",
        /// The client closed the connection before it was accepted.
        Aborted = "ECONNABORTED",
        /// A firewall rule forbids it.
        Eperm = "EPERM",
    }
}

impl AcceptError {
    /// Returns the kind that `errno` is counted as.
    pub(crate) fn of(errno: Errno) -> Self {
        match errno {
            Errno::EMFILE => Self::Emfile,
            Errno::ENFILE => Self::Enfile,
            Errno::ENOBUFS => Self::Enobufs,
            Errno::ENOMEM => Self::Enomem,
            Errno::ECONNABORTED => Self::Aborted,
            Errno::EPERM => Self::Eperm,
            _ => Self::Other,
        }
    }
}

labels! {
    /// Causes for which workers are replaced.
    pub(crate) Cause {
        /// The worker exited.
        Exit = "exit",
        /// A signal killed the worker.
        Signal = "signal",
        /// The worker hung.
        Hung = "hung",
        /// The worker did not become ready.
        Boot = "boot",
    }
}

labels! {
    /// The phases of the daemon.
    pub Phase {
        /// The first workers are starting.
        Starting = "starting",
        /// Normal operation.
        Serving = "serving",
        /// New workers are replacing the old ones.
        Reloading = "reloading",
        /// The daemon is stopping.
        Draining = "draining",
    }
}

labels! {
    /// The stages of a worker, as it reports them.
    pub(crate) Stage {
        /// The worker is not ready yet.
        Booting = "booting",
        /// The worker accepts and serves.
        Serving = "serving",
        /// The worker reached its connection limit, or its successor serves.
        Retiring = "retiring",
        /// The daemon is stopping.
        Draining = "draining",
    }
}

labels! {
    /// The states of a slot, as the controller sees it.
    pub SlotState {
        /// No worker: the slot is not wanted, or its worker cannot start.
        Empty = "empty",
        /// A worker that is not ready yet.
        Booting = "booting",
        /// A worker that serves.
        Serving = "serving",
        /// A worker whose heartbeat is overdue.
        Hung = "hung",
        /// No worker until the restart backoff ends.
        Backoff = "backoff",
    }
}

pub(super) use labels;
