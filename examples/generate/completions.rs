//! Completions for the common shells.

use std::path::Path;
use std::{fs, io};

use clap::builder::PossibleValuesParser;
use clap::{Arg, Command, ValueHint};
use clap_complete::{Shell, generate_to};
use tcp_echo::config::OptionDefinition;

pub(crate) fn generate(folder: &Path) -> io::Result<()> {
    let mut command = completed(&tcp_echo::cli::command());
    generate_to(Shell::Zsh, &mut command, "tcp-echo", folder)?;
    // The generated script looks a command up by another name than it defines it with.
    let bash = generate_to(Shell::Bash, &mut command, "tcp-echo", folder)?;
    mend(&bash, vec![("tcp__subcmd__echo".to_owned(), "tcp__echo".to_owned())])?;
    let fish = generate_to(Shell::Fish, &mut command, "tcp-echo", folder)?;
    mend(&fish, for_fish(&command))
}

/// Returns changes for fish. Generated as it is, a switch needs a value, and nothing is offered after an
/// option with a value, as the line is not complete yet. Before fish 4 a question mark needs quotes.
fn for_fish(command: &Command) -> Vec<(String, String)> {
    let switches = command.get_arguments().filter(|arg| value_name(arg) == Some("BOOL"));
    let switches = switches.filter_map(Arg::get_long);
    let optional = switches.map(|long| (format!(" {long}= "), format!(" '{long}=?' ")));
    let unread = "    or return\n    if set -q argv[1]\n".to_owned();
    let at_the_daemon = unread.replace("or return", "or return 0");
    optional.chain([(unread, at_the_daemon)]).collect()
}

/// Applies changes to a generated file, and fails if it lacks a text to change.
fn mend(file: &Path, changes: Vec<(String, String)>) -> io::Result<()> {
    let mut script = fs::read_to_string(file)?;
    for (from, to) in changes {
        if !script.contains(&from) {
            return Err(io::Error::other(format!(
                "nothing to mend in {}: {from:?}",
                file.display()
            )));
        }
        script = script.replace(&from, &to);
    }
    fs::write(file, script)
}

/// Returns the command with the arguments to complete: all that are not hidden, the settings of the
/// daemon, and their possible values.
fn completed(command: &Command) -> Command {
    let arguments = command.get_arguments();
    let arguments = arguments.filter(|arg| !arg.is_hide_set() || definition(arg).is_some());
    let about = command.get_about().cloned().unwrap_or_default();
    Command::new(command.get_name().to_owned().leak() as &'static str)
        .about(about)
        .version(env!("CARGO_PKG_VERSION"))
        .disable_version_flag(command.get_version().is_none())
        .disable_help_subcommand(true)
        .args(arguments.cloned().map(with_values))
        .subcommands(command.get_subcommands().map(completed))
}

fn value_name(arg: &Arg) -> Option<&str> {
    arg.get_value_names().and_then(<[_]>::first).map(|name| name.as_str())
}

fn with_values(arg: Arg) -> Arg {
    match value_name(&arg) {
        Some("FILE" | "PATH") => arg.value_hint(ValueHint::FilePath),
        Some("HOST[:PORT]") => arg.value_hint(ValueHint::Hostname),
        Some("BOOL") => arg.value_parser(PossibleValuesParser::new(["true", "false"])),
        _ => match definition(&arg) {
            Some(option) if !option.choices.is_empty() => {
                arg.value_parser(PossibleValuesParser::new(option.choices))
            }
            _ => arg,
        },
    }
}

/// Returns the definition of a setting of the daemon.
fn definition(arg: &Arg) -> Option<&'static OptionDefinition> {
    OptionDefinition::find(arg.get_id().as_str())
}
