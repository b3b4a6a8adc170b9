//! What was typed behind `cargo bench --`. Words without dashes: cargo hands them to every benchmark.

use crate::cases;

/// The words, for people.
pub(crate) const HELP: &str = "\
Usage: cargo bench -- [WORD]...

Without a word: every bar, in some two minutes.
  full              more sizes, more connections, longer, and the plots
  plots             only benches/plots/*.svg
  million           1000000 connections at once; million=100000 for fewer
  NAME=COMMAND      your own server beside the others; {port} or $PORT is where it must listen
  only=CASE,CASE    some cases: 64x50, churn, memory, ... (a wrong one lists them)
  rounds=N          turns of each server, 5 at least unless you only try
  seconds=S         length of a turn
  strict            fail when a bar is not reached
  help              this text
";

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Every bar.
    Short,
    /// More of everything, and the plots.
    Full,
    /// The plots only.
    Plots,
    /// So many connections at once.
    Million(u32),
}

/// A server of the user's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Guest {
    /// Its name in the tables.
    pub name: String,
    /// For the shell.
    pub command: String,
}

/// All of it, valid.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Wishes {
    /// What is to be done.
    pub mode: Mode,
    /// Turns of each server in a case.
    pub rounds: usize,
    /// Length of a turn; `None`: as the mode has it.
    pub seconds: Option<f64>,
    /// Fail when a bar is not reached.
    pub strict: bool,
    /// Print the help and nothing else.
    pub help: bool,
    /// Servers beside our own.
    pub guests: Vec<Guest>,
    only: Vec<String>,
}

impl Wishes {
    /// Reads the words.
    ///
    /// # Errors
    /// One line that names the word.
    pub(crate) fn new(words: &[String]) -> Result<Self, String> {
        let mut wishes = Self {
            mode: Mode::Short,
            rounds: 5,
            seconds: None,
            strict: false,
            help: false,
            guests: Vec::new(),
            only: Vec::new(),
        };
        // What cargo itself adds.
        for word in words.iter().filter(|word| *word != "--bench") {
            wishes.take(word)?;
        }
        let names = cases::names();
        if let Some(wrong) = wishes.only.iter().find(|name| !names.contains(&name.as_str())) {
            return Err(format!("only={wrong}: no such case; there are {}", names.join(", ")));
        }
        let million = matches!(wishes.mode, Mode::Million(_));
        if million && !(wishes.guests.is_empty() && wishes.only.is_empty()) {
            return Err("million: for tcp-echo alone, without NAME=COMMAND and only=".to_owned());
        }
        Ok(wishes)
    }

    fn take(&mut self, word: &str) -> Result<(), String> {
        match word.split_once('=') {
            None => match word {
                "full" => self.set(Mode::Full, word)?,
                "plots" => self.set(Mode::Plots, word)?,
                "million" => self.set(Mode::Million(1_000_000), word)?,
                "strict" => self.strict = true,
                "help" | "--help" | "-h" => self.help = true,
                _ => return Err(format!("unknown word '{word}'; try: cargo bench -- help")),
            },
            Some(("million", count)) => {
                let count = number(word, count, 1.0, 4e6)? as u32;
                self.set(Mode::Million(count), word)?;
            }
            Some(("rounds", count)) => self.rounds = number(word, count, 1.0, 1e3)? as usize,
            Some(("seconds", count)) => self.seconds = Some(number(word, count, 0.05, 3e3)?),
            Some(("only", names)) => self.only.extend(names.split(',').map(str::to_owned)),
            Some((name, command)) => self.invite(name, command)?,
        }
        Ok(())
    }

    fn set(&mut self, mode: Mode, word: &str) -> Result<(), String> {
        if self.mode != Mode::Short {
            return Err(format!("'{word}': one of full, plots and million at a time"));
        }
        self.mode = mode;
        Ok(())
    }

    fn invite(&mut self, name: &str, command: &str) -> Result<(), String> {
        let valid = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || name.starts_with('-') || !name.chars().all(valid) {
            return Err(format!("'{name}={command}': a name has letters, digits and -_. only"));
        }
        if command.trim().is_empty() {
            return Err(format!("'{name}=': no command"));
        }
        let taken = self.guests.iter().any(|guest| guest.name == name);
        if taken || ["tcp-echo", "floor", "tokio", "threads"].contains(&name) {
            return Err(format!("'{name}={command}': there is a server of this name already"));
        }
        self.guests.push(Guest { name: name.to_owned(), command: command.to_owned() });
        Ok(())
    }

    /// Whether this case is to be run: one that was asked for by name, or else one of the mode's.
    pub(crate) fn wants(&self, case: &str, of_the_mode: bool) -> bool {
        match self.only.as_slice() {
            [] => of_the_mode,
            names => names.iter().any(|name| name == case),
        }
    }

    /// The length of a turn where nothing was said; `full` takes three times as long.
    pub(crate) fn seconds(&self, short: f64) -> f64 {
        self.seconds.unwrap_or(if self.mode == Mode::Full { 3.0 * short } else { short })
    }
}

fn number(word: &str, text: &str, least: f64, most: f64) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number| (least..=most).contains(number));
    number.ok_or_else(|| format!("'{word}': not a number from {least} to {most}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[allow(dead_code, reason = "a benchmark has no tests")]
    fn read(words: &str) -> Result<Wishes, String> {
        Wishes::new(&words.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn words_are_understood() {
        let wishes = read("--bench").expect("what cargo adds");
        assert_eq!((wishes.mode, wishes.rounds, wishes.strict), (Mode::Short, 5, false));
        assert!(wishes.wants("memory", true));
        assert_eq!(wishes.seconds(1.0), 1.0);
        let wishes = read("full rounds=7 strict only=64x50,churn go=./go:{port}").expect("words");
        assert_eq!((wishes.mode, wishes.rounds, wishes.strict), (Mode::Full, 7, true));
        assert!(wishes.wants("churn", false) && !wishes.wants("memory", true));
        assert_eq!(wishes.seconds(1.0), 3.0);
        assert_eq!(wishes.guests, [Guest { name: "go".into(), command: "./go:{port}".into() }]);
        assert_eq!(read("million").expect("a word").mode, Mode::Million(1_000_000));
        assert_eq!(read("million=5000").expect("a word").mode, Mode::Million(5_000));
        // A command may have equals signs of its own.
        let command = &read("a=B=c").expect("a server").guests[0].command;
        assert_eq!(command, "B=c");
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for (words, names) in [
            ("ful", "unknown word 'ful'"),
            ("--fast", "unknown word '--fast'"),
            ("full plots", "'plots'"),
            ("million a=x", "million"),
            ("million=0", "'million=0'"),
            ("million=x", "'million=x'"),
            ("rounds=NaN", "'rounds=NaN'"),
            ("only=64x51", "only=64x51"),
            ("tcp-echo=x", "already"),
            ("a=x a=y", "already"),
            ("a=", "no command"),
            ("=x", "a name has"),
            ("--a=x", "a name has"),
        ] {
            let error = read(words).expect_err(words);
            assert!(error.contains(names) && !error.contains('\n'), "{words}: {error}");
        }
    }
}
