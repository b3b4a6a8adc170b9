//! Generates the other files of a package from the definition of the command line: manual pages,
//! completions, and a configuration file in which everything is commented out.
//!
//! `cargo run --example generate [FOLDER]`; without a folder into `target/release/assets`.

mod completions;
mod configuration;
mod manual;

use std::path::{Path, PathBuf};
use std::{env, fs, io, process};

fn main() {
    let folder = match env::args_os().nth(1) {
        Some(folder) => PathBuf::from(folder),
        None => target().join("release/assets"),
    };
    if let Err(error) = generate(&folder) {
        eprintln!("generate: {}: {error}", folder.display());
        process::exit(1);
    }
}

/// Returns cargo's output folder, in which the packager looks for the files.
fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from)
}

fn generate(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    manual::generate(folder)?;
    completions::generate(folder)?;
    configuration::generate(folder)
}
