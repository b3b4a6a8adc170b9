//! Command line behind `cargo bench --`.

use clap::Parser;
use clap::builder::PossibleValuesParser;

use crate::cases;

/// Long options that can also be written as words.
const OPTIONS: [&str; 8] =
    ["full", "plots", "million", "rounds", "seconds", "only", "strict", "help"];

/// Selection of measurements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Every bar.
    Short,
    /// More cases, longer turns, and the plots.
    Full,
    /// Only the plots.
    Plots,
    /// This many connections at once.
    Million(u32),
}

/// A server of the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Guest {
    pub name: String,
    /// Command for sh(1).
    pub command: String,
}

/// Measure tcp-echo side by side with other servers; by default every bar, in two minutes
///
/// Write the options as words, without dashes: cargo passes them to every benchmark, and the micro
/// benchmarks reject unknown options. NAME=COMMAND adds a server.
#[derive(Parser, Clone, Debug, PartialEq)]
#[command(name = "cargo bench --", no_binary_name = true, max_term_width = 100)]
pub(crate) struct Options {
    /// Measure more sizes and connections for longer, and draw the plots
    #[arg(long, group = "mode")]
    full: bool,
    /// Only draw benches/plots/*.svg
    #[arg(long, group = "mode")]
    plots: bool,
    /// Open this many connections at once [default: 1000000]
    #[arg(long, value_name = "N", num_args = 0..=1, require_equals = true, group = "mode",
          default_missing_value = "1000000", conflicts_with_all = ["only", "guests"],
          value_parser = clap::value_parser!(u32).range(1..=4_000_000))]
    million: Option<u32>,
    /// Take this many turns for each server; at least 5 for reliable results
    #[arg(long, value_name = "N", default_value = "5",
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,
    /// Length of a turn in seconds
    #[arg(long, value_name = "S", value_parser = seconds)]
    seconds: Option<f64>,
    /// Run only these cases
    #[arg(long, value_name = "CASE", value_delimiter = ',',
          value_parser = PossibleValuesParser::new(cases::names()))]
    only: Vec<String>,
    /// Fail if a bar is not reached
    #[arg(long)]
    pub strict: bool,
    /// Add a server that listens at the port in {port} or $PORT
    #[arg(long = "server", value_name = "NAME=COMMAND", value_parser = guest)]
    pub guests: Vec<Guest>,
}

impl Options {
    /// Parses words, which become options: `full` is --full, `a=b` is --server a=b.
    ///
    /// # Errors
    /// The help text, or an error that names the word.
    pub(crate) fn parse_words(words: &[String]) -> Result<Self, clap::Error> {
        // Cargo itself adds `--bench`.
        let arguments = words.iter().filter(|word| *word != "--bench").map(|word| {
            let name = word.split_once('=').map_or(word.as_str(), |(name, _)| name);
            match word {
                _ if name.starts_with('-') => word.clone(),
                _ if OPTIONS.contains(&name) || name == word => format!("--{word}"),
                _ => format!("--server={word}"),
            }
        });
        let options = Self::try_parse_from(arguments)?;
        let mut names = vec!["tcp-echo", "floor", "tokio", "threads"];
        for Guest { name, .. } in &options.guests {
            if names.contains(&name.as_str()) {
                let text = format!("there is a server named {name} already\n");
                return Err(clap::Error::raw(clap::error::ErrorKind::ValueValidation, text));
            }
            names.push(name);
        }
        Ok(options)
    }

    pub(crate) fn mode(&self) -> Mode {
        match self.million {
            Some(count) => Mode::Million(count),
            None if self.full => Mode::Full,
            None if self.plots => Mode::Plots,
            None => Mode::Short,
        }
    }

    /// Returns `true` if a case is to run: it is listed by name, or no case is and the mode includes it.
    pub(crate) fn wants(&self, case: &str, in_mode: bool) -> bool {
        if self.only.is_empty() { in_mode } else { self.only.iter().any(|name| name == case) }
    }

    /// Returns the length of a turn in seconds; three times the default in the full mode.
    pub(crate) fn seconds(&self, default: f64) -> f64 {
        self.seconds.unwrap_or(if self.full { 3.0 * default } else { default })
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number| (0.05..=3e3).contains(number));
    number.ok_or_else(|| "not in 0.05..=3000".to_owned())
}

fn guest(text: &str) -> Result<Guest, String> {
    let (name, command) = text.split_once('=').unwrap_or((text, ""));
    let valid = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || name.starts_with('-') || !name.chars().all(valid) {
        return Err("a name consists of letters, digits, and -_.".to_owned());
    }
    if command.trim().is_empty() {
        return Err("the command is missing".to_owned());
    }
    Ok(Guest { name: name.to_owned(), command: command.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[allow(dead_code, reason = "a benchmark has no tests")]
    fn parse(words: &str) -> Result<Options, clap::Error> {
        Options::parse_words(&words.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn words_are_options() {
        let options = parse("--bench").expect("added by cargo");
        assert_eq!((options.mode(), options.rounds, options.strict), (Mode::Short, 5, false));
        assert!(options.wants("memory", true));
        assert_eq!(options.seconds(1.0), 1.0);
        let options = parse("full rounds=7 strict only=64x50,churn go=./go:{port}").expect("words");
        assert_eq!((options.mode(), options.rounds, options.strict), (Mode::Full, 7, true));
        assert!(options.wants("churn", false) && !options.wants("memory", true));
        assert_eq!(options.seconds(1.0), 3.0);
        assert_eq!(options.guests, [Guest { name: "go".into(), command: "./go:{port}".into() }]);
        assert_eq!(parse("million").expect("a word").mode(), Mode::Million(1_000_000));
        assert_eq!(parse("million=5000").expect("a word").mode(), Mode::Million(5_000));
        // A command may contain equals signs.
        let command = &parse("a=B=c").expect("a server").guests[0].command;
        assert_eq!(command, "B=c");
    }

    #[test]
    fn invalid_words_are_named() {
        for (words, names) in [
            ("ful", "'--ful'"),
            ("--fast", "'--fast'"),
            ("full plots", "'--plots'"),
            ("million a=x", "--million"),
            ("million=0", "'--million[=<N>]': 0 is not in"),
            ("million=x", "'--million[=<N>]'"),
            ("rounds=NaN", "'--rounds <N>'"),
            ("seconds=NaN", "not in 0.05..=3000"),
            ("only=64x51", "'64x51'"),
            ("tcp-echo=x", "already"),
            ("a=x a=y", "already"),
            ("a=", "command is missing"),
            ("=x", "a name consists"),
            ("--a=x", "'--a'"),
        ] {
            let error = parse(words).expect_err(words).to_string();
            assert!(error.contains(names), "{words}: {error}");
        }
    }
}
