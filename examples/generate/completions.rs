//! Completions for the shells that are common.

use std::path::Path;
use std::{fs, io};

use clap::builder::PossibleValuesParser;
use clap::{Arg, Command, ValueHint};
use clap_complete::{Shell, generate_to};
use tcp_echo::cli::{Cli, Settings};

pub(crate) fn generate(folder: &Path) -> io::Result<()> {
    let mut command = completed(&tcp_echo::cli::command());
    generate_to(Shell::Zsh, &mut command, "tcp-echo", folder)?;
    // It calls a command by one name where it looks for it, and by another where it is.
    let bash = generate_to(Shell::Bash, &mut command, "tcp-echo", folder)?;
    mend(&bash, vec![("tcp__subcmd__echo".to_owned(), "tcp__echo".to_owned())])?;
    let fish = generate_to(Shell::Fish, &mut command, "tcp-echo", folder)?;
    mend(&fish, for_fish(&command))
}

/// For fish a switch seems to need a value, and behind an option that does need one nothing is
/// offered, as the line cannot be read yet. Before fish 4 a question mark has to be quoted.
fn for_fish(command: &Command) -> Vec<(String, String)> {
    let switches = command.get_arguments().filter(|arg| value_name(arg) == Some("BOOL"));
    let switches = switches.filter_map(Arg::get_long);
    let optional = switches.map(|long| (format!(" {long}= "), format!(" '{long}=?' ")));
    let unread = "    or return\n    if set -q argv[1]\n".to_owned();
    let at_the_daemon = unread.replace("or return", "or return 0");
    optional.chain([(unread, at_the_daemon)]).collect()
}

/// Changes what is generated, and fails when that is not what it was.
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

/// The command as far as it is to be completed: without what is hidden, unless it is a setting, and
/// with what its values may be.
fn completed(command: &Command) -> Command {
    let settings = Settings::keys();
    let is_setting =
        |arg: &Arg| arg.get_long().is_some_and(|long| settings.iter().any(|key| key == long));
    let arguments = command.get_arguments().filter(|arg| !arg.is_hide_set() || is_setting(arg));
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
        Some("HOST:PORT") => arg.value_hint(ValueHint::Hostname),
        Some("BOOL") => arg.value_parser(PossibleValuesParser::new(["true", "false"])),
        _ => match words(&arg) {
            words if words.is_empty() => arg,
            words => arg.value_parser(PossibleValuesParser::new(words)),
        },
    }
}

/// What the help text lists as `DEBUG, INFO or WARN`, if the program accepts each of it.
fn words(arg: &Arg) -> Vec<&'static str> {
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let list = help.split(" [default: ").next().unwrap_or_default();
    let list = list.rsplit(": ").next().unwrap_or_default();
    // Clap takes names that live for ever only, and this program ends soon.
    let list: &'static str = list.replace(" or ", ", ").leak();
    let words: Vec<&str> = list.split(", ").collect();
    let accepted = |word: &&str| {
        let option = format!("--{}={word}", arg.get_long().unwrap_or_default());
        Cli::parse_from(vec![option.into()], |_| None).is_ok()
    };
    if words.len() > 1 && words.iter().all(accepted) { words } else { Vec::new() }
}
