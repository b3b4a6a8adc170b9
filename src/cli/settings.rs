//! Options of the daemon as arguments of clap.

use std::path::PathBuf;
use std::sync::LazyLock;

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, Error, FromArgMatches, value_parser};

use super::CONFIGURATION;
use crate::config::value::Form;
use crate::config::{Fault, Layers, OPTIONS, OptionDefinition, Settings};

/// Options of the daemon with a short form.
const SHORTS: [(&str, char); 3] = [("port", 'p'), ("listen", 'l'), ("workers", 'w')];

/// Converts the definition of an option.
fn argument(option: &'static OptionDefinition) -> Arg {
    // A check only: the values of a list are parsed together.
    let check = |text: &str| option.parse(text).map(|_| text.to_owned());
    let help = match option.default {
        Some(default) => format!("{} [default: {default}]", option.help),
        None => option.help.to_owned(),
    };
    let short = SHORTS.iter().find(|(name, _)| *name == option.name).map(|(_, letter)| *letter);
    let arg = Arg::new(option.name)
        .long(option.name)
        .short(short)
        .value_name(option.value_name)
        .help(help)
        .help_heading(option.heading)
        .value_parser(check);
    match option.form {
        Form::Switch => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
        Form::List => arg.action(ArgAction::Append),
        Form::Number | Form::Scalar | Form::Text => arg,
    }
}

/// A switch and the names that set it to `false`.
struct Negation {
    switch: &'static OptionDefinition,
    /// `no-enable-nodelay`.
    name: String,
    /// `no-nodelay`, if no option is named `nodelay`.
    alias: Option<String>,
}

/// Negations of all switches. Clap takes only names that live as long as the program.
static NEGATIONS: LazyLock<Vec<Negation>> = LazyLock::new(|| {
    let switches = OPTIONS.iter().filter(|option| option.form == Form::Switch);
    let negation = |switch: &'static OptionDefinition| {
        let rest = switch.name.strip_prefix("enable-");
        let alias = rest.filter(|name| OptionDefinition::find(name).is_none());
        let no = |name| format!("no-{name}");
        Negation { switch, name: no(switch.name), alias: alias.map(no) }
    };
    switches.map(negation).collect()
});

impl Negation {
    /// Returns the argument. Of a switch and its negation, the last one counts.
    fn argument(&'static self) -> Arg {
        // In the help, a line for each would hide the other options.
        Arg::new(self.name.as_str())
            .long(self.name.as_str())
            .aliases(self.alias.as_deref())
            .action(ArgAction::SetTrue)
            .overrides_with(self.switch.name)
            .hide(true)
    }
}

/// The layer of the command line, the path of the file, and the faults.
impl Args for Layers {
    fn augment_args(command: Command) -> Command {
        command
            .args(OPTIONS.iter().map(argument))
            .args(NEGATIONS.iter().map(Negation::argument))
            .arg(
                Arg::new("config")
                    .long("config")
                    .short('c')
                    .value_name("FILE")
                    .help("Read settings from this TOML file")
                    .help_heading(CONFIGURATION)
                    .value_parser(value_parser!(PathBuf)),
            )
            .arg(
                Arg::new("fault")
                    .long("fault")
                    .value_name("SPEC")
                    .action(ArgAction::Append)
                    .value_parser(value_parser!(Fault))
                    .hide(true),
            )
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Layers {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let mut layers = Self::default();
        layers.update_from_arg_matches(matches).map(|()| layers)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        let invalid = |error| Error::raw(ErrorKind::ValueValidation, error);
        let mut settings = Settings::default();
        for option in OPTIONS {
            if let Some(values) = matches.get_many::<String>(option.name) {
                let text = values.map(String::as_str).collect::<Vec<_>>().join(",");
                let setting = option.parse(&text);
                settings = settings.or(setting.map_err(invalid)?);
            }
        }
        for Negation { switch, name, .. } in NEGATIONS.iter() {
            if matches.get_flag(name) {
                settings = settings.or(switch.parse("false").map_err(invalid)?);
            }
        }
        self.command_line = settings;
        self.file = matches.get_one("config").cloned();
        self.faults = matches.get_many("fault").unwrap_or_default().cloned().collect();
        Ok(())
    }
}
