//! Listeners of the file: `[[listener]]` tables with `address`, `service`, and the keys.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Address, ListenSpec, Settings};
use crate::config::options::{OptionDefinition, string, unexpected};
use crate::config::service::{self, ServiceName};

/// Name of the tables.
pub(in crate::config) const LISTENER: &str = "listener";

/// Part of the file, in bytes.
type Span = Range<usize>;

/// Parses the tables; each listener has the place where its table begins.
///
/// # Errors
/// A table is not a listener. The error is a place and one clause that begins with the key.
pub(in crate::config) fn parse(
    value: &Spanned<DeValue<'_>>,
) -> Result<Vec<(Span, ListenSpec)>, (Span, String)> {
    let no_table = |value: &Spanned<DeValue<'_>>| {
        let message = unexpected(value.get_ref(), "tables: [[listener]]");
        (value.span(), format!("{LISTENER}: {message}"))
    };
    let tables = value.get_ref().as_array().ok_or_else(|| no_table(value))?;
    let listeners = tables.iter().map(|item| match item.get_ref() {
        DeValue::Table(table) => Ok((item.span(), listener(table, item.span())?)),
        _ => Err(no_table(item)),
    });
    listeners.collect()
}

fn listener(table: &DeTable<'_>, whole: Span) -> Result<ListenSpec, (Span, String)> {
    let text = |key: &str| match table.get(key) {
        Some(value) => match string(value.get_ref(), "a string") {
            Ok(text) => Ok(Some((text, value.span()))),
            Err(message) => Err((value.span(), format!("{LISTENER}.{key}: {message}"))),
        },
        None => Ok(None),
    };
    let (address, span) =
        text("address")?.ok_or((whole, format!("{LISTENER}: key 'address' is missing")))?;
    let address: Address =
        address.parse().map_err(|error| (span, format!("{LISTENER}.address: {error}")))?;
    let service: Option<ServiceName> = match text("service")? {
        Some((name, span)) => {
            let service = name.parse();
            Some(service.map_err(|error| (span, format!("{LISTENER}.service: {error}")))?)
        }
        None => None,
    };

    // The table is sorted by key, but the error to report is the first of the file.
    let keys = table.iter().filter(|(key, _)| !["address", "service"].contains(&&**key.get_ref()));
    let mut keys: Vec<_> = keys.collect();
    keys.sort_by_key(|(key, _)| key.span().start);
    let mut settings = Settings::default();
    for (key, value) in keys {
        let name = key.get_ref();
        let definition = service::key(service, name).map_err(|error| {
            let message = match OptionDefinition::find(name) {
                Some(_) if service::key(None, name).is_err() => format!(
                    "'{name}' is not a key of a listener; move it above the first [[{LISTENER}]]"
                ),
                _ => error.to_string(),
            };
            (key.span(), format!("{LISTENER}: {message}"))
        })?;
        let setting = definition.parse_toml(value.get_ref());
        settings = settings
            .or(setting.map_err(|error| (value.span(), format!("{LISTENER}.{name}: {error}")))?);
    }
    Ok(ListenSpec { address, service, settings })
}
