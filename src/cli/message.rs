//! Errors of the command line: one line that names the option.

use std::ffi::OsString;

/// Returns clap's message in one line, without its usage and its pointer to the help text.
pub(super) fn first_paragraph(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let end = ["\n\nUsage:", "\n\nFor more information"].iter().filter_map(|mark| text.rfind(mark));
    let text = &text[..end.min().unwrap_or(text.len())];
    let mut line = String::new();
    for part in text.trim_start_matches("error:").lines().map(str::trim) {
        // No positional argument begins with a dash, so the tip never helps.
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
    crate::text::one_line(&line)
}

/// Returns the message for a value that is not UTF-8. Clap's own does not name the option.
pub(super) fn not_utf8(arguments: &[OsString]) -> String {
    let bad = arguments.iter().position(|argument| argument.to_str().is_none()).unwrap_or(0);
    let text = |index: usize| arguments.get(index).map(|a| a.to_string_lossy()).unwrap_or_default();
    let option = match text(bad).split_once('=') {
        Some((option, _)) => option.to_owned(),
        None => text(bad.saturating_sub(1)).into_owned(),
    };
    crate::text::one_line(&format!("the value of '{option}' is not UTF-8"))
}
