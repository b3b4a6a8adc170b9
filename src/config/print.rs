//! `--print-config`: the effective configuration as a file.

use std::fmt::Write;

use super::{ConfigError, Layers};
use crate::cli::{Cli, Settings};

/// The effective configuration as a TOML file that `--config` reads back to the same
/// configuration. A comment on each line says which layer the value is from.
///
/// # Errors
/// Those of [`super::Config::load`]: what cannot be run is not printed either.
pub fn effective(cli: &Cli) -> Result<String, ConfigError> {
    let layers = Layers::read(cli)?;
    layers.config()?;
    let table = layers.effective().to_table();
    let mut text = String::new();
    for key in Settings::keys() {
        if let Some(value) = table.get(&key) {
            let entry = format!("{key} = {value}");
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{entry:<34}  # {}", layers.origin(&key));
        }
    }
    Ok(text)
}
