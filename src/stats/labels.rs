//! The kinds of things that are counted apart, with the names that every rendering gives them.

use nix::errno::Errno;

/// An enum whose members are numbered from 0 and have a label.
macro_rules! labels {
    ($(#[$doc:meta])* $name:ident { $($(#[$member_doc:meta])* $member:ident = $label:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name { $($(#[$member_doc])* $member,)+ }

        impl $name {
            /// All of them, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$member,)+];

            /// Its name in figures and logs.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$member => $label,)+ }
            }

            /// The one with this number; the first one for a number that none has.
            pub fn numbered(number: u64) -> Self {
                usize::try_from(number).ok().and_then(|n| Self::ALL.get(n)).copied()
                    .unwrap_or(Self::ALL[0])
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.label())
            }
        }
    };
}

labels! {
    /// Why a connection ends.
    Reason {
        /// The client was done and has got everything.
        ClientDone = "client_fin",
        /// The client reset it, or its network did.
        ClientReset = "reset",
        /// The client sent nothing for too long.
        Idle = "idle",
        /// The client read nothing for too long.
        WriteTimeout = "write_timeout",
        /// The worker drains.
        Drain = "drain",
        /// The worker drains and the time is up.
        DrainDeadline = "drain_deadline",
        /// The service has said all it has to say.
        Answered = "answered",
        /// The system would not let us watch it.
        Error = "error",
        /// Its worker has died.
        WorkerDied = "worker_died",
    }
}

impl Reason {
    /// Whether the client has got all that it was owed, and a FIN behind it.
    pub fn is_orderly(self) -> bool {
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
    /// What accept(2) ran into.
    AcceptError {
        /// Anything else.
        Other = "other",
        /// The process may have no more descriptors.
        Emfile = "EMFILE",
        /// The system has no more descriptors.
        Enfile = "ENFILE",
        /// No memory for sockets.
        Enobufs = "ENOBUFS",
        /// No memory.
        Enomem = "ENOMEM",
        /// The client had gone before it was accepted.
        Aborted = "ECONNABORTED",
        /// A rule forbids it.
        Eperm = "EPERM",
    }
}

impl AcceptError {
    /// The kind that an error of accept(2) is counted as.
    pub fn of(errno: Errno) -> Self {
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
    /// Why a worker was replaced.
    Cause {
        /// It ended by itself.
        Exit = "exit",
        /// A signal killed it.
        Signal = "signal",
        /// Its loop stood still.
        Hung = "hung",
        /// It had not got ready.
        Boot = "boot",
    }
}

labels! {
    /// Where the daemon is in its life.
    Phase {
        /// The first workers get ready.
        Starting = "starting",
        /// As it should be.
        Serving = "serving",
        /// A new generation takes over.
        Reloading = "reloading",
        /// Stopping.
        Draining = "draining",
    }
}

labels! {
    /// Where a worker is in its life, as it says itself.
    Stage {
        /// Not ready yet.
        Booting = "booting",
        /// Accepts and serves.
        Serving = "serving",
        /// Has had all the connections it may have, or a successor serves.
        Retiring = "retiring",
        /// The daemon stops.
        Draining = "draining",
    }
}

labels! {
    /// What a slot has, as the controller sees it.
    SlotState {
        /// Nothing: it is not wanted, or its worker cannot start.
        Empty = "empty",
        /// A worker that is not ready yet.
        Booting = "booting",
        /// A worker that serves.
        Serving = "serving",
        /// A worker whose loop stands still.
        Hung = "hung",
        /// Nothing until the wait before its next worker is over.
        Backoff = "backoff",
    }
}

pub(super) use labels;
