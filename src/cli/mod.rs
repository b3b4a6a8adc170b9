//! What was typed: the command line, and the environment in its place. The only clap of the project.
//!
//! Nothing is decided here; [`crate::config`] says what the settings mean, [`crate::client`] and
//! [`crate::doctor`] what their commands do. A variable of the environment is read as if its option had been typed, so both
//! share names, types and messages.

mod client;
mod doctor;
mod message;
mod settings;
#[cfg(test)]
mod tests;

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command, CommandFactory, FromArgMatches, Parser, Subcommand};

pub use self::client::{BenchArguments, CheckArguments, ClientCommand};
pub use self::doctor::DoctorArguments;
use self::message::{first_paragraph, in_variable, not_utf8};
pub use self::settings::Settings;
use crate::config::choice::Fault;

const CONFIGURATION: &str = "Configuration";

const AFTER_HELP: &str = "\
DUR is in seconds, or 250ms, 1.5s, 2m, 1h. SIZE is in bytes, or 64KiB, 1MiB.
ADDR is 127.0.0.1, [::1] or *.
Every option with a value, and every switch, is also a variable: TCP_ECHO_IDLE_TIMEOUT=30.
The command line wins over the environment, that over --config FILE (TOML, the same names).

Signals: TERM, INT and QUIT drain and stop, a second one stops at once.
         HUP reloads, TTIN and TTOU add and remove a worker.
         USR1 logs how many connections each worker handles,
         USR2 prints all figures on standard output, as JSON.

Example: tcp-echo --port 7 --workers 4 --idle-timeout 2m";

/// The command line, with the layer below it.
#[derive(Parser, Clone, Debug, PartialEq)]
#[command(name = "tcp-echo", version, about, after_help = AFTER_HELP, args_override_self = true,
          args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
pub struct Cli {
    /// Settings from the command line
    #[command(flatten)]
    pub settings: Settings,

    /// Settings from the environment
    #[arg(skip)]
    pub environment: Settings,

    /// Read settings from this TOML file
    #[arg(long, value_name = "FILE", help_heading = CONFIGURATION)]
    pub config: Option<PathBuf>,

    /// Check the configuration and exit
    #[arg(long, help_heading = CONFIGURATION)]
    pub check_config: bool,

    /// Print the configuration as such a file and exit
    #[arg(long, help_heading = CONFIGURATION)]
    pub print_config: bool,

    /// Fail on purpose, for tests
    #[arg(long = "fault", value_name = "SPEC", hide = true)]
    pub faults: Vec<Fault>,

    /// What to do instead of being the daemon; of the above only what the doctor is to judge is set
    #[command(subcommand)]
    pub command: Option<SideCommand>,
}

/// The commands beside the daemon.
#[derive(Subcommand, Clone, Debug, PartialEq)]
pub enum SideCommand {
    /// One of the client, for which nothing else is set.
    #[command(flatten)]
    Client(ClientCommand),
    /// Tell whether this machine suits the daemon
    #[command(after_help = doctor::HELP, args_override_self = true,
              override_usage = doctor::USAGE)]
    Doctor(Box<DoctorArguments>),
}

/// Why there is nothing to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EarlyExit {
    /// The text of `--help` or `--version`, for stdout: exit code 0.
    Text(String),
    /// One line that names the option or the variable, for stderr: exit code 2.
    Usage(String),
}

impl Cli {
    /// Reads this process's command line and environment.
    ///
    /// # Errors
    /// Help and version texts, unknown options and values that are not valid.
    pub fn from_process() -> Result<Self, EarlyExit> {
        Self::parse_from(std::env::args_os().skip(1).collect(), |name| std::env::var_os(name))
    }

    /// Reads a command line (without the program's name), and the environment through `variable`.
    ///
    /// # Errors
    /// Help and version texts, unknown options and values that are not valid.
    pub fn parse_from(
        arguments: Vec<OsString>,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, EarlyExit> {
        let arguments = join_negative_values(arguments);
        let mut cli = Self::try_arguments(&arguments).map_err(|error| {
            let text = match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                    return EarlyExit::Text(error.render().to_string());
                }
                ErrorKind::InvalidUtf8 => not_utf8(&arguments),
                _ => stray_word(&error).unwrap_or_else(|| first_paragraph(&error)),
            };
            EarlyExit::Usage(format!("{text} (see {}--help)", command_of(&arguments)))
        })?;
        match &mut cli.command {
            None => {}
            Some(SideCommand::Client(command)) => {
                let port = variable("TCP_ECHO_PORT").and_then(|port| port.to_str()?.parse().ok());
                command.default_target(port.filter(|port| *port != 0));
                return Ok(cli);
            }
            // What stands behind `doctor` is the daemon's, and so are the layers below it.
            Some(SideCommand::Doctor(arguments)) => {
                (cli.settings, cli.config) = arguments.take_settings();
            }
        }

        let mut names = Settings::keys();
        names.push("config".to_owned());
        for long in names {
            let name = format!("TCP_ECHO_{}", long.to_uppercase().replace('-', "_"));
            let Some(value) = variable(&name).filter(|value| !is_unset(&name, value)) else {
                continue;
            };
            let mut argument = OsString::from(format!("--{long}="));
            argument.push(value);
            let lower = Self::try_arguments(&[argument])
                .map_err(|error| EarlyExit::Usage(in_variable(&error, &name, &long)))?;
            cli.environment = cli.environment.or(lower.settings);
            cli.config = cli.config.or(lower.config);
        }
        Ok(cli)
    }

    fn try_arguments(arguments: &[OsString]) -> Result<Self, clap::Error> {
        let command = command().no_binary_name(true);
        Self::from_arg_matches(&command.try_get_matches_from(arguments)?)
    }
}

/// The command with what the attributes above cannot say once for all options. Public for what is
/// generated from it: manual pages and completions.
pub fn command() -> Command {
    let defaults = crate::config::defaults().to_table();
    let settings = Settings::keys();
    let is_setting =
        |arg: &Arg| arg.get_long().is_some_and(|long| settings.iter().any(|key| key == long));
    Cli::command()
        .mut_args(|arg| {
            let arg = switch_without_value(arg);
            let default = arg.get_long().and_then(|long| defaults.get(long)).map(plain);
            match (arg.get_help().map(ToString::to_string), default) {
                (Some(help), Some(default)) => arg.help(format!("{help} [default: {default}]")),
                _ => arg,
            }
        })
        .mut_subcommand(doctor::NAME, |command| {
            // They are explained where the daemon's are.
            command.mut_args(|arg| match is_setting(&arg) {
                true => switch_without_value(arg).hide(true),
                false => arg,
            })
        })
}

/// Lets a switch be named without a value.
fn switch_without_value(arg: Arg) -> Arg {
    let value_name = arg.get_value_names().and_then(<[_]>::first).map(|name| name.as_str());
    match value_name {
        Some("BOOL") => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
        _ => arg,
    }
}

/// Behind an option of the daemon clap takes any word for a command. What to say when it is none.
fn stray_word(error: &clap::Error) -> Option<String> {
    match (error.kind(), error.get(ContextKind::InvalidSubcommand)) {
        (ErrorKind::ArgumentConflict, Some(ContextValue::String(word))) if !is_command(word) => {
            Some(crate::config::one_line(&format!("unexpected argument '{word}' found")))
        }
        _ => None,
    }
}

fn is_command(word: &str) -> bool {
    Cli::command().find_subcommand(word).is_some()
}

/// `tcp-echo check ` where the line begins so, to be put before `--help`.
fn command_of(arguments: &[OsString]) -> String {
    let first = arguments.first().and_then(|first| first.to_str());
    first
        .filter(|first| is_command(first))
        .map(|name| format!("tcp-echo {name} "))
        .unwrap_or_default()
}

/// Turns `--workers -1` into `--workers=-1`: no option begins with a digit, so this is a value, and
/// its parser refuses it in the name of the option.
fn join_negative_values(arguments: Vec<OsString>) -> Vec<OsString> {
    let is_negative = |argument: &OsStr| {
        let mut bytes = argument.as_encoded_bytes().iter();
        bytes.next() == Some(&b'-')
            && bytes.next().is_some_and(|b| b.is_ascii_digit() || *b == b'.')
    };
    let takes_value = |argument: &OsStr| {
        let bytes = argument.as_encoded_bytes();
        bytes.len() > 2 && bytes.starts_with(b"--") && !bytes.contains(&b'=')
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

/// A value of the file as it would be typed.
fn plain(value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) => text.clone(),
        toml::Value::Array(values) => values.iter().map(plain).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

/// Whether a variable does not count: an empty one, as compose files and scripts leave behind, and
/// the address that Kubernetes puts into TCP_ECHO_PORT when there is a service named tcp-echo.
fn is_unset(name: &str, value: &OsStr) -> bool {
    value.is_empty() || (name == "TCP_ECHO_PORT" && value.to_string_lossy().contains("://"))
}
