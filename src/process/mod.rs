//! Everything Unix, and every `unsafe` of the project.
//!
//! Each file is one concept of the operating system behind a safe, narrow interface. Nothing in
//! here knows what a worker or a connection is.
#![allow(unsafe_code)]

pub mod activation;
pub mod channel;
pub mod cpu;
pub mod daemon;
pub mod descriptors;
pub mod exec;
pub mod fork;
pub mod front;
pub mod line_file;
pub mod memory;
pub mod notify_socket;
pub mod output;
pub mod pid_file;
pub mod pipe;
pub mod signals;
pub mod sockets;
pub mod stderr;
pub mod steering;
pub mod title;
pub mod usage;
pub mod wait;
