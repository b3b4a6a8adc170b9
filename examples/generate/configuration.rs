//! The configuration file of a package: every setting with its default, commented out.

use std::fmt::Write;
use std::path::Path;
use std::{fs, io};

use clap::Arg;
use tcp_echo::cli::Settings;
use tcp_echo::config::defaults;

const HEAD: &str = "\
# Settings of tcp-echo; see tcp-echo(1). What is commented out is the default, or a placeholder in
# capitals where nothing is. After a change: systemctl reload tcp-echo
";

/// Whether to go into the background and write a pid is decided by the service.
const NOT_FOR_SERVICES: &str = "Process";

pub(crate) fn generate(folder: &Path) -> io::Result<()> {
    fs::write(folder.join("tcp-echo.toml"), text())
}

fn text() -> String {
    let defaults = defaults().to_table();
    let settings = Settings::keys();
    let command = tcp_echo::cli::command();
    let is_setting =
        |arg: &&Arg| arg.get_long().is_some_and(|long| settings.iter().any(|key| key == long));
    let mut text = HEAD.to_owned();
    let mut heading = None;
    let of_services = |arg: &&Arg| arg.get_help_heading() != Some(NOT_FOR_SERVICES);
    for arg in command.get_arguments().filter(is_setting).filter(of_services) {
        if arg.get_help_heading() != heading {
            heading = arg.get_help_heading();
            line(&mut text, &format!("\n# --- {}", heading.unwrap_or_default()));
        }
        let key = arg.get_long().unwrap_or_default();
        let value_name =
            arg.get_value_names().and_then(<[_]>::first).map_or("", |name| name.as_str());
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        line(&mut text, &format!("\n# {}", help.split(" [default: ").next().unwrap_or_default()));
        line(
            &mut text,
            &match defaults.get(key) {
                Some(value) => format!("#{key} = {value}"),
                None => format!("#{key} = \"{value_name}\""),
            },
        );
    }
    text
}

fn line(text: &mut String, line: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{line}");
}
