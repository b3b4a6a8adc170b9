//! The configuration file: TOML, its keys are the names of the options.

use std::collections::BTreeMap;
use std::fs;
use std::iter;
use std::ops::Range;
use std::path::Path;

use serde::Deserialize;
use serde::de::value::MapDeserializer;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{ConfigError, one_line};
use crate::cli::Settings;

/// What a file says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct File {
    /// Its settings.
    pub settings: Settings,
    /// The line, from 1, of each key.
    pub lines: BTreeMap<String, usize>,
}

/// Reads and parses a file.
///
/// # Errors
/// One line, `PATH: reason` or `PATH:LINE: reason`.
pub fn read(path: &Path) -> Result<File, ConfigError> {
    let name = one_line(&path.display().to_string());
    let text = fs::read_to_string(path)
        .map_err(|source| ConfigError::Unreadable { path: name.clone(), source })?;
    parse(&text).map_err(|(line, message)| ConfigError::Invalid {
        place: format!("{name}:{line}"),
        message: one_line(&message),
    })
}

/// Parses the text of a file; an error is its line and what is wrong there.
pub(super) fn parse(text: &str) -> Result<File, (usize, String)> {
    let line_of = |span: Range<usize>| {
        1 + text.bytes().take(span.start).filter(|byte| *byte == b'\n').count()
    };
    let table = DeTable::parse(text).map_err(|error| {
        let line = line_of(error.span().unwrap_or_default());
        let source = text.lines().nth(line - 1).unwrap_or_default().trim();
        let source: String = source.chars().take(60).collect();
        (line, format!("{} in '{source}'", error.message()))
    })?;

    // The table is sorted by key; the first error of the file is the one to tell.
    let mut entries: Vec<_> = table.into_inner().into_iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    let known = Settings::keys();
    let mut file = File::default();
    for (key, value) in entries {
        let line = line_of(key.span());
        let value_line = line_of(value.span());
        let key = key.into_inner().into_owned();
        if !known.contains(&key) {
            return Err((line, unknown(&key, &known)));
        }
        let setting = parse_value(&key, value).map_err(|message| (value_line, message))?;
        file.settings = file.settings.or(setting);
        file.lines.insert(key, line);
    }
    Ok(file)
}

/// One setting, parsed by itself so that an error is known to be about its key.
fn parse_value(key: &str, value: Spanned<DeValue<'_>>) -> Result<Settings, String> {
    let entry = MapDeserializer::new(iter::once((key, value)));
    Settings::deserialize(entry).map_err(|error: toml::de::Error| {
        let message = error.message();
        format!("{key}: {}", message.replacen("invalid type: ", "found ", 1))
    })
}

fn unknown(key: &str, keys: &[String]) -> String {
    let nearest = keys.iter().map(|known| (distance(key, known), known)).min();
    match nearest {
        // Farther than a third of the letters away is no misspelling.
        Some((distance, known)) if distance <= 1 + known.len() / 3 => {
            format!("unknown key '{key}'; did you mean '{known}'?")
        }
        _ => format!("unknown key '{key}'"),
    }
}

/// The number of letters to insert, delete or replace to turn one word into the other.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, letter) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, other) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *other);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn error(text: &str) -> (usize, String) {
        parse(text).expect_err(text)
    }

    #[test]
    fn an_empty_file_sets_nothing() {
        assert_eq!(parse("# nothing\n"), Ok(File::default()));
    }

    #[test]
    fn keys_are_settings_and_their_lines_are_known() {
        let file = parse("# c\r\nport = 7\r\n\r\nlisten = \"*, 1.2.3.4:5\"\n").expect("valid");
        assert_eq!(file.settings.port.map(|port| port.get()), Some(7));
        assert_eq!(file.settings.listen.map(|list| list.len()), Some(2));
        assert_eq!(file.settings.workers, None);
        assert_eq!(file.lines, BTreeMap::from([("port".into(), 2), ("listen".into(), 4)]));
    }

    #[test]
    fn numbers_may_be_strings_and_seconds_may_have_decimals() {
        let file = parse("port = \"7\"\nidle-timeout = 1.5\nlinger-timeout = 3").expect("valid");
        assert_eq!(file.settings.port.map(|port| port.get()), Some(7));
        assert_eq!(file.settings.idle_timeout, "1500ms".parse().ok());
        assert_eq!(file.settings.linger_timeout, "3s".parse().ok());
    }

    #[test]
    fn an_unknown_key_is_named_with_the_nearest_one() {
        assert_eq!(error("\nprot = 1"), (2, "unknown key 'prot'; did you mean 'port'?".into()));
        assert_eq!(error("log_level = 1").1, "unknown key 'log_level'; did you mean 'log-level'?");
        assert_eq!(error("zzzzzzzzzz = 1").1, "unknown key 'zzzzzzzzzz'");
        for key in ["config", "check-config", "print-config", "fault", "help"] {
            assert!(error(&format!("{key} = 1")).1.contains("unknown key"), "{key}");
        }
    }

    #[test]
    fn a_wrong_value_is_named_with_its_key_and_line() {
        for (text, line, message) in [
            ("port = true", 1, "port: found boolean `true`, expected a whole number"),
            ("port = 70000", 1, "port: 70000 is not in 0..=65535"),
            ("port = -1", 1, "port: -1 is not in 0..=65535"),
            ("port = 80.0", 1, "port: '80.0' is not a whole number"),
            ("a-b = 1\nport = -1", 1, "unknown key 'a-b'"),
            ("workers = 1\nport = {}\n", 2, "port: found map, expected a whole number"),
            ("daemon = \"yes\"", 1, "daemon: found string \"yes\", expected a boolean"),
            ("pid-file = 3", 1, "pid-file: found integer `3`, expected a string"),
            ("pid-file = \"\"", 1, "pid-file: '' is not a path"),
            ("listen = []", 1, "listen: the array is empty; leave the key out to listen on *"),
        ] {
            assert_eq!(error(text), (line, message.to_owned()), "{text}");
        }
    }

    #[test]
    fn the_first_error_of_the_file_is_told() {
        assert_eq!(error("workers = true\nport = true").0, 1);
    }

    #[test]
    fn a_syntax_error_shows_its_line() {
        let (line, message) = error("port = 1\nport = 2\n");
        assert_eq!((line, message.as_str()), (2, "duplicate key in 'port = 2'"));
        assert_eq!(error("port = 1\n\nworkers = = 2").0, 3);
        assert!(error("port").1.ends_with("in 'port'"));
    }

    #[test]
    fn distances_count_single_letters() {
        assert_eq!(distance("port", "port"), 0);
        assert_eq!(distance("prt", "port"), 1);
        assert_eq!(distance("", "port"), 4);
        assert_eq!(distance("kitten", "sitting"), 3);
    }

    #[test]
    fn errors_are_one_line_that_begins_with_the_path() {
        let mut file = tempfile::NamedTempFile::new().expect("temporary file");
        writeln!(file, "\nlog-level = \"x\\ny\"").expect("write");
        let text = read(file.path()).expect_err("invalid").to_string();
        let begin = format!("{}:2: log-level: 'x\\ny' is not DEBUG", file.path().display());
        assert!(text.starts_with(&begin), "{text}");

        let text = read(Path::new("/no\nsuch")).expect_err("missing").to_string();
        assert_eq!(text, "/no\\nsuch: No such file or directory");
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "(?s)([a-z-]{0,12} = )?.{0,40}", key: proptest::sample::Index) {
            let _ = parse(&text);
            let _ = parse(&format!("{} = {text}", key.get(&Settings::keys())));
        }
    }
}
