//! The configuration file: TOML, with the names of the options as keys.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::Path;

use toml::de::DeTable;

use super::ConfigError;
use super::listen::table::{self, LISTENER};
use super::options::{OPTIONS, OptionDefinition, Settings, nearest};
use crate::text::one_line;

/// Contents of a file.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct File {
    pub settings: Settings,
    /// Line of each key, from 1.
    pub lines: BTreeMap<String, usize>,
    /// Line of each `[[listener]]`.
    pub tables: Vec<usize>,
}

/// Reads and parses a file.
///
/// # Errors
/// The file cannot be read or is not valid. The text is `PATH: reason` or `PATH:LINE: reason`.
pub(super) fn read(path: &Path) -> Result<File, ConfigError> {
    let name = one_line(&path.display().to_string());
    let text = fs::read_to_string(path)
        .map_err(|source| ConfigError::Unreadable { path: name.clone(), source })?;
    parse(&text).map_err(|(line, message)| ConfigError::Invalid {
        place: format!("{name}:{line}"),
        message: one_line(&message),
    })
}

/// Parses the text of a file. An error is the number of its line and the reason.
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

    // The table is sorted by key, but the error to report is the first of the file.
    let mut entries: Vec<_> = table.into_inner().into_iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    let mut file = File::default();
    for (key, value) in entries {
        let line = line_of(key.span());
        let key = key.into_inner().into_owned();
        if key == LISTENER {
            let at = |(span, message)| (line_of(span), message);
            let (spans, specs): (Vec<_>, _) = table::parse(&value).map_err(at)?.into_iter().unzip();
            file.tables = spans.into_iter().map(line_of).collect();
            file.add(LISTENER, line, Settings { listen: Some(specs), ..Settings::default() })?;
            continue;
        }
        let option = OptionDefinition::find(&key).ok_or_else(|| (line, unknown(&key)))?;
        let setting = option
            .parse_toml(value.get_ref())
            .map_err(|message| (line_of(value.span()), format!("{key}: {message}")))?;
        file.add(&key, line, setting)?;
    }
    Ok(file)
}

impl File {
    /// Adds the settings of a key.
    ///
    /// # Errors
    /// The file has another key for them.
    fn add(&mut self, key: &str, line: usize, settings: Settings) -> Result<(), (usize, String)> {
        for (one, other) in [("listen", LISTENER), (LISTENER, "listen")] {
            if key == one && self.lines.contains_key(other) {
                let first = self.lines[other];
                let message = format!("{key}: line {first} has '{other}'; use one of them");
                return Err((line, message));
            }
        }
        self.settings = std::mem::take(&mut self.settings).or(settings);
        self.lines.insert(key.to_owned(), line);
        Ok(())
    }
}

fn unknown(key: &str) -> String {
    match nearest(key, OPTIONS.iter().map(|option| option.name).chain([LISTENER])) {
        Some(name) => format!("unknown key '{key}'; did you mean '{name}'?"),
        None => format!("unknown key '{key}'"),
    }
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
        let file = parse("port = 0x1F90\nworkers = 1_0\nlisten = []").expect("valid");
        assert_eq!(file.settings.port.map(|port| port.get()), Some(8080));
        assert_eq!(file.settings.workers.map(|workers| workers.get()), Some(10));
        assert_eq!(file.settings.listen, Some(Vec::new()));
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
            ("port = true", 1, "port: 'true' is not a whole number"),
            ("port = 70000", 1, "port: must be between 0 and 65535"),
            ("port = -1", 1, "port: must be between 0 and 65535"),
            ("port = 80.0", 1, "port: '80.0' is not a whole number"),
            ("a-b = 1\nport = -1", 1, "unknown key 'a-b'"),
            ("workers = 1\nport = {}\n", 2, "port: found table, expected a string or a number"),
            ("daemon = \"yes\"", 1, "daemon: found string \"yes\", expected true or false"),
            ("pid-file = 3", 1, "pid-file: found integer 3, expected a string"),
            ("pid-file = \"\"", 1, "pid-file: '' is not a path"),
            ("listen = [\"*\", 3]", 1, "listen: found integer 3, expected a string"),
            ("listen = [[]]", 1, "listen: found array, expected a string"),
            ("listen = 3", 1, "listen: found integer 3, expected a string or an array of strings"),
            (
                "listen = [\"x\"]",
                1,
                "listen: 'x' is a host name, and host names are not resolved; use an address such as \
                127.0.0.1, or * for all",
            ),
        ] {
            assert_eq!(error(text), (line, message.to_owned()), "{text}");
        }
    }

    #[test]
    fn the_first_error_of_the_file_is_reported() {
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
            let _ = parse(&format!("{} = {text}", key.get(OPTIONS).name));
        }
    }
}
