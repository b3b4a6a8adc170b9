//! The manual pages. Titles, synopses and options come from the definition of the command line, the
//! other sections from `pages/`, which is written in the macros of man(7).

use std::path::Path;
use std::{fs, io};

use clap::{Arg, Command};
use clap_mangen::Man;

/// Mark in a hand-written page that the options replace.
const OPTIONS: &str = ".\\\" OPTIONS\n";

/// First lines of each section from the renderer; a page needs them once.
const APOSTROPHE: &str = ".ie \\n(.g .ds Aq \\(aq\n.el .ds Aq '\n";

pub(crate) fn generate(folder: &Path) -> io::Result<()> {
    let mut daemon = tcp_echo::cli::command();
    daemon.build();
    fs::write(folder.join("tcp-echo.1"), page(&daemon)?)?;
    for command in daemon.get_subcommands() {
        let name = format!("tcp-echo-{}.1", command.get_name());
        fs::write(folder.join(name), page(command)?)?;
    }
    Ok(())
}

fn page(command: &Command) -> io::Result<String> {
    let name = command.get_display_name().unwrap_or(command.get_name()).to_owned();
    let prose = prose(&name)?;
    let usage = command.clone().render_usage().to_string();
    let forms = usage.trim_start_matches("Usage: ").to_owned();
    let command = command.clone().override_usage(forms).about(about(command));
    let man = Man::new(command.mut_args(with_default));

    let version = env!("CARGO_PKG_VERSION");
    let title = name.to_uppercase();
    let mut text =
        format!(".TH {title} 1 \"\" \"tcp-echo {version}\" \"User Commands\"\n{APOSTROPHE}");
    text.push_str(&render(|buffer| man.render_name_section(buffer))?);
    text.push_str(&render(|buffer| man.render_synopsis_section(buffer))?);
    let options = subsections(&render(|buffer| man.render_options_section(buffer))?);
    text.push_str(&prose.replacen(OPTIONS, &options, 1));
    Ok(text)
}

/// Appends the default to the help text, as for the options of the daemon.
fn with_default(arg: Arg) -> Arg {
    let defaults = arg.get_default_values().iter().map(|value| value.to_string_lossy());
    let default = defaults.collect::<Vec<_>>().join(",");
    match arg.get_help().filter(|_| !default.is_empty() && arg.get_action().takes_values()) {
        Some(help) => {
            arg.clone().help(format!("{help} [default: {default}]")).hide_default_value(true)
        }
        None => arg,
    }
}

fn prose(name: &str) -> io::Result<&'static str> {
    Ok(match name {
        "tcp-echo" => include_str!("pages/tcp-echo.man"),
        "tcp-echo-check" => include_str!("pages/tcp-echo-check.man"),
        "tcp-echo-bench" => include_str!("pages/tcp-echo-bench.man"),
        "tcp-echo-doctor" => include_str!("pages/tcp-echo-doctor.man"),
        _ => {
            let missing =
                format!("{name} has no manual page: write examples/generate/pages/{name}.man");
            return Err(io::Error::other(missing));
        }
    })
}

/// Returns the text for NAME: its custom is no capital at the beginning and no second sentence.
fn about(command: &Command) -> String {
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let first = about.split(':').next().unwrap_or_default();
    let mut letters = first.chars();
    letters.next().map(|letter| letter.to_lowercase().to_string()).unwrap_or_default()
        + letters.as_str()
}

fn render(what: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> io::Result<String> {
    let mut buffer = Vec::new();
    what(&mut buffer)?;
    let text = String::from_utf8(buffer).map_err(io::Error::other)?;
    Ok(text.replace(APOSTROPHE, ""))
}

/// Returns one section with all options, divided by the headings of the help text.
fn subsections(options: &str) -> String {
    let mut text = String::from(".SH OPTIONS\n");
    for line in options.lines() {
        match line.strip_prefix(".SH ") {
            Some("OPTIONS") => {}
            Some(heading) => {
                let (first, rest) = heading.trim_matches('"').split_at(1);
                text.push_str(&format!(".SS {first}{}\n", rest.to_lowercase()));
            }
            // Italics mark a placeholder on a page, without brackets.
            None => text
                .push_str(&format!("{}\n", line.replace("\\fI<", "\\fI").replace(">\\fR", "\\fR"))),
        }
    }
    text
}
