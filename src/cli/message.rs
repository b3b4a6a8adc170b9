//! What to say about a command line that cannot be read: one line that names the option.

use std::ffi::OsString;

use clap::error::ErrorKind;

/// The message about a variable; clap has only heard of the option.
pub(super) fn in_variable(error: &clap::Error, name: &str, long: &str) -> String {
    if error.kind() == ErrorKind::InvalidUtf8 {
        return format!("the value of {name} is not UTF-8");
    }
    let text = first_paragraph(error);
    let option = format!("'--{long}");
    match text.rfind(&format!(" for {option}")) {
        Some(start) => {
            let (before, after) = text.split_at(start + " for ".len());
            let (_, after) = after[1..].split_once('\'').unwrap_or_default();
            format!("{before}'{name}'{after}")
        }
        None => format!("{name}: {text}"),
    }
}

/// Clap's message without its usage and its pointer to the help text, in one line.
pub(super) fn first_paragraph(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let end = ["\n\nUsage:", "\n\nFor more information"].iter().filter_map(|mark| text.rfind(mark));
    let text = &text[..end.min().unwrap_or(text.len())];
    let mut line = String::new();
    for part in text.trim_start_matches("error:").lines().map(str::trim) {
        // No positional argument begins with a dash, so this tip never helps.
        if part.is_empty() || part.starts_with("tip: to pass") {
            continue;
        }
        let gap = if line.is_empty() {
            ""
        } else if part.starts_with("tip:") {
            "; "
        } else {
            " "
        };
        line.push_str(gap);
        line.push_str(part);
    }
    crate::config::one_line(&line)
}

/// The message for a value that is not UTF-8, which clap gives without the option's name.
pub(super) fn not_utf8(arguments: &[OsString]) -> String {
    let bad = arguments.iter().position(|argument| argument.to_str().is_none()).unwrap_or(0);
    let text = |index: usize| arguments.get(index).map(|a| a.to_string_lossy()).unwrap_or_default();
    let option = match text(bad).split_once('=') {
        Some((option, _)) => option.to_owned(),
        None => text(bad.saturating_sub(1)).into_owned(),
    };
    crate::config::one_line(&format!("the value of '{option}' is not UTF-8"))
}
