//! Everything Unix, and every `unsafe` of the project.
//!
//! Each file is one concept of the operating system behind a safe, narrow interface. None knows of
//! workers, client connections, options, or configured addresses.
#![allow(unsafe_code)]

pub(crate) mod activation;
pub(crate) mod channel;
pub(crate) mod clock;
pub(crate) mod cpu;
pub mod daemon;
pub(crate) mod descriptors;
pub mod exec;
pub(crate) mod fork;
pub(crate) mod line_file;
pub(crate) mod memory;
pub(crate) mod notify_socket;
pub mod output;
pub(crate) mod pid_file;
pub mod pipe;
pub(crate) mod signals;
pub(crate) mod sockets;
pub(crate) mod stderr;
pub(crate) mod steering;
pub mod title;
pub(crate) mod usage;
pub(crate) mod wait;
