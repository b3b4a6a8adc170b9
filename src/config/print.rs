//! Text of `--print-config`.

use std::fmt::Write;

use super::ConfigError;
use super::layers::{Layers, Sources};
use super::options::OPTIONS;

/// Returns the effective configuration as a TOML file that `--config` reads back. A comment on each
/// line names the layer of the value.
///
/// # Errors
/// Those of [`super::Config::load`], so that a configuration that is printed is valid.
pub fn effective(layers: &Layers) -> Result<String, ConfigError> {
    let sources = Sources::read(layers)?;
    let settings = sources.config()?.settings;
    let mut text = String::new();
    for option in OPTIONS {
        if let Some(value) = option.to_toml(&settings) {
            let entry = format!("{} = {value}", option.name);
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{entry:<34}  # {}", sources.origin(option));
        }
    }
    Ok(text)
}
