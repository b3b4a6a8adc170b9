//! Command line of the daemon and of its subcommands, parsed by clap.
//!
//! The arguments of the daemon are made from [`crate::config::OPTIONS`]; those of the other commands
//! are in [`crate::tools`].

mod advice;
mod doctor;
mod message;
mod settings;
#[cfg(test)]
mod tests;

use std::ffi::{OsStr, OsString};
use std::mem;

use clap::error::ErrorKind;
use clap::{Command, CommandFactory, FromArgMatches, Parser, Subcommand};

pub use self::doctor::DoctorArguments;
use self::message::not_utf8;
use crate::config::{Layers, OptionDefinition};
use crate::tools::bench::{self, BenchOptions};
use crate::tools::check::{self, CheckOptions};
use crate::tools::target::Target;

const CONFIGURATION: &str = "Configuration";

const AFTER_HELP: &str = "\
DUR is in seconds, or 250ms, 1.5s, 2m, 1h. SIZE is in bytes, or 64KiB, 1MiB.
A switch is off with --NAME=false or --no-NAME: --enable-nodelay=false, --no-nodelay, --no-daemon.
--listen takes [SERVICE://]ADDR[:PORT][?KEY=VALUE&...]; ADDR is 127.0.0.1, [::1] or *.
Each option, down to --config, is also a variable: TCP_ECHO_IDLE_TIMEOUT=30.
The command line wins over the environment, the environment over the file (TOML, option names).

Signals: TERM, INT and QUIT drain and stop, a second one stops at once. HUP reloads.
         TTIN and TTOU add and remove a worker. USR1 logs connections, USR2 all statistics as JSON.

Example: tcp-echo --port 7 --workers 4 --idle-timeout 2m";

/// Parsed command line, with the environment.
#[derive(Parser, Clone, Debug, PartialEq)]
#[command(name = "tcp-echo", version, about, after_help = AFTER_HELP, args_override_self = true,
          args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
pub struct Cli {
    /// Settings of the daemon that runs, or that `doctor` checks
    #[command(flatten)]
    pub layers: Layers,

    /// Check the configuration and exit
    #[arg(long, help_heading = CONFIGURATION)]
    pub check_config: bool,

    /// Print the effective configuration as TOML and exit
    #[arg(long, help_heading = CONFIGURATION)]
    pub print_config: bool,

    /// Command to run in place of the daemon
    #[command(subcommand)]
    pub command: Option<SideCommand>,
}

/// Commands besides the daemon.
#[derive(Subcommand, Clone, Debug, PartialEq)]
pub enum SideCommand {
    /// Check that a server echoes exactly
    #[command(after_help = check::AFTER_HELP, args_override_self = true,
              override_usage = "tcp-echo check [OPTIONS] [HOST[:PORT]]")]
    Check(CheckOptions),
    /// Load a server, verify every byte, and measure
    #[command(after_help = bench::AFTER_HELP, args_override_self = true,
              override_usage = "tcp-echo bench [OPTIONS] [HOST[:PORT]]")]
    Bench(BenchOptions),
    /// Check this machine's limits and settings
    #[command(after_help = doctor::HELP, args_override_self = true,
              override_usage = doctor::USAGE)]
    Doctor(Box<DoctorArguments>),
}

/// Reason why there is no command line to act on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EarlyExit {
    /// Text of `--help` or `--version`, for standard output: exit code 0.
    Text(String),
    /// Error in one line that names the option or the variable, for standard error: exit code 2.
    Usage(String),
}

impl Cli {
    /// Parses the command line and the environment of this process.
    ///
    /// # Errors
    /// Texts of help and version, unknown options, and invalid values.
    pub fn from_process() -> Result<Self, EarlyExit> {
        Self::parse_from(std::env::args_os().skip(1).collect(), |name| std::env::var_os(name))
    }

    /// Parses a command line without the program's name. `variable` returns the value of an
    /// environment variable.
    ///
    /// # Errors
    /// Texts of help and version, unknown options, and invalid values.
    pub fn parse_from(
        arguments: Vec<OsString>,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, EarlyExit> {
        let arguments = join_negative_values(help_option(arguments));
        let mut cli = Self::try_arguments(&arguments).map_err(|error| {
            let text = match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                    return EarlyExit::Text(error.render().to_string());
                }
                ErrorKind::InvalidUtf8 => not_utf8(&arguments),
                _ => advice::describe(&error, &arguments),
            };
            EarlyExit::Usage(format!("{text} (see {}--help)", command_of(&arguments)))
        })?;
        match &mut cli.command {
            None => {}
            Some(
                SideCommand::Check(CheckOptions { target, .. })
                | SideCommand::Bench(BenchOptions { target, .. }),
            ) => {
                let port = variable("TCP_ECHO_PORT").and_then(|port| port.to_str()?.parse().ok());
                let port = port.filter(|port| *port != 0);
                target.get_or_insert_with(|| port.map(Target::local).unwrap_or_default());
                return Ok(cli);
            }
            Some(SideCommand::Doctor(arguments)) => cli.layers = mem::take(&mut arguments.layers),
        }
        cli.layers
            .read_environment(variable)
            .map_err(|error| EarlyExit::Usage(error.to_string()))?;
        Ok(cli)
    }

    fn try_arguments(arguments: &[OsString]) -> Result<Self, clap::Error> {
        let command = command().no_binary_name(true);
        Self::from_arg_matches(&command.try_get_matches_from(arguments)?)
    }
}

/// Returns the definition of the command line, from which manual pages and completions are made.
pub fn command() -> Command {
    Cli::command().mut_subcommand(doctor::NAME, |command| {
        // The daemon's help explains them.
        command.mut_args(|arg| match OptionDefinition::find(arg.get_id().as_str()) {
            Some(_) => arg.hide(true),
            None => arg,
        })
    })
}

fn is_command(word: &str) -> bool {
    Cli::command().find_subcommand(word).is_some()
}

/// Returns `tcp-echo check ` for a line of `check`, as a prefix of `--help`.
fn command_of(arguments: &[OsString]) -> String {
    let first = arguments.first().and_then(|first| first.to_str());
    first
        .filter(|first| is_command(first))
        .map(|name| format!("tcp-echo {name} "))
        .unwrap_or_default()
}

/// Turns `help` into `--help`, and `help check` into `check --help`. With clap's own command of this name,
/// `help` would need a place among the commands of the manual pages and the completions.
fn help_option(mut arguments: Vec<OsString>) -> Vec<OsString> {
    if arguments.first().is_some_and(|first| first == "help") {
        let is_word =
            |word: &OsString| word != "help" && !word.as_encoded_bytes().starts_with(b"-");
        let command = arguments.drain(..).nth(1).filter(is_word);
        arguments.extend(command);
        arguments.push("--help".into());
    }
    arguments
}

/// Turns `--workers -1` into `--workers=-1`, and `-w -1` into `-w=-1`. No option begins with a digit, so `-1` is a value, and the
/// error about it names the option.
fn join_negative_values(arguments: Vec<OsString>) -> Vec<OsString> {
    let is_negative = |argument: &OsStr| {
        let mut bytes = argument.as_encoded_bytes().iter();
        bytes.next() == Some(&b'-')
            && bytes.next().is_some_and(|b| b.is_ascii_digit() || *b == b'.')
    };
    let takes_value = |argument: &OsStr| match argument.as_encoded_bytes() {
        [b'-', b'-', name @ ..] => !name.is_empty() && !name.contains(&b'='),
        [b'-', letter] => letter.is_ascii_alphabetic(),
        _ => false,
    };
    let mut joined: Vec<OsString> = Vec::with_capacity(arguments.len());
    for argument in arguments {
        match joined.last_mut() {
            Some(option) if is_negative(&argument) && takes_value(option) => {
                option.push("=");
                option.push(argument);
            }
            _ => joined.push(argument),
        }
    }
    joined
}
