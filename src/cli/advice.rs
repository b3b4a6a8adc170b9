//! Advice for arguments that the command line does not have: what was probably meant.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::{is_command, message};
use crate::config::OptionDefinition;
use crate::config::value::Form;
use crate::text::one_line;

/// Commands with which other programs start to serve.
const START: [&str; 8] = ["serve", "server", "run", "start", "daemon", "listen", "up", "echo"];

/// Options of other load generators, and the nearest options of `bench`.
const FOREIGN: [(&[&str], &str); 3] = [
    (
        &["-n", "--requests", "--count", "--num-requests"],
        "a run ends after a time: did you mean '--duration'?",
    ),
    // wrk has it for threads, fortio for the duration.
    (&["-t"], "did you mean '--threads' or '--duration'?"),
    (
        &["--rate", "--qps", "-qps", "-R"],
        "did you mean '--message-rate', the rate of each connection?",
    ),
];

/// Returns the message for an error of clap, in one line.
pub(super) fn describe(error: &clap::Error, arguments: &[OsString]) -> String {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let words: Vec<&str> = arguments.iter().filter_map(|word| word.to_str()).collect();
    let unexpected = |word: &str, advice: Option<String>| {
        let advice = advice.map(|advice| format!("; {advice}")).unwrap_or_default();
        one_line(&format!("unexpected argument '{word}' found{advice}"))
    };
    let clap = || message::first_paragraph(error);
    match error.kind() {
        // Clap takes any word after an option of the daemon for a command.
        ErrorKind::ArgumentConflict => match text(ContextKind::InvalidSubcommand) {
            Some(word) if !is_command(word) => unexpected(word, stray(word, &words)),
            _ => clap(),
        },
        ErrorKind::InvalidSubcommand => {
            let word = text(ContextKind::InvalidSubcommand).unwrap_or_default();
            stray(word, &words).map_or_else(clap, |advice| unexpected(word, Some(advice)))
        }
        ErrorKind::UnknownArgument => {
            let word = text(ContextKind::InvalidArg).unwrap_or_default();
            match (foreign(&words), stray(word, &words)) {
                (Some((option, advice)), _) => unexpected(option, Some(advice.to_owned())),
                (None, Some(advice)) => unexpected(word, Some(advice)),
                (None, None) => clap(),
            }
        }
        ErrorKind::ValueValidation => {
            let of_target = text(ContextKind::InvalidArg).is_some_and(|arg| arg.contains("HOST"));
            let word = text(ContextKind::InvalidValue).filter(|_| of_target).unwrap_or_default();
            stray(word, &words).map_or_else(clap, |advice| format!("{}; {advice}", clap()))
        }
        _ => clap(),
    }
}

/// Returns the option of another load generator on a line of `bench`, and what `bench` has instead.
fn foreign<'a>(words: &[&'a str]) -> Option<(&'a str, &'static str)> {
    let (_, options) = words.split_first().filter(|(command, _)| **command == "bench")?;
    let named = |word: &'a str| {
        let name = word.split('=').next().unwrap_or(word);
        // A short option can have its value attached: -n100.
        let short = word.get(..2).filter(|short| !short.starts_with("--")).unwrap_or(name);
        let advice = |name| FOREIGN.iter().find(|(names, _)| names.contains(&name));
        let whole = advice(name).map(|(_, advice)| (name, *advice));
        whole.or_else(|| advice(short).map(|(_, advice)| (short, *advice)))
    };
    options.iter().find_map(|word| named(word))
}

/// Returns the advice for a word that is neither an option nor the value of one.
fn stray(word: &str, words: &[&str]) -> Option<String> {
    if word.is_empty() || word.starts_with('-') {
        return None;
    }
    let fits = |name: &str| OptionDefinition::find(name).is_some_and(|it| it.parse(word).is_ok());
    let pairs = words.windows(2).filter(|pair| pair[1] == word);
    let mut before = pairs.map(|pair| pair[0].trim_start_matches("--"));
    let is_switch = |name: &&str| {
        let option = OptionDefinition::find(name);
        option.is_some_and(|it| it.form == Form::Switch && it.parse(word).is_ok())
    };
    match words.first().copied() {
        Some("bench") if fits("port") && before.any(|name| ["-q", "quiet"].contains(&name)) => {
            Some(format!("did you mean '--message-rate {word}', the rate of each connection?"))
        }
        Some("check" | "bench") if fits("port") => {
            Some(format!("did you mean '127.0.0.1:{word}'?"))
        }
        Some("check" | "bench") => None,
        _ => match before.find(is_switch) {
            Some(switch) => Some(format!("did you mean '--{switch}={word}'?")),
            None if fits("port") => Some(format!("did you mean '--port {word}'?")),
            None if fits("listen") => Some(format!("did you mean '--listen {word}'?")),
            None if START.contains(&word) && words.first() != Some(&"doctor") => {
                Some("leave it out: without a command, tcp-echo is the daemon".to_owned())
            }
            None => None,
        },
    }
}
