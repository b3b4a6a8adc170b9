//! The configuration file of a package: every setting with its default, commented out.

use std::fmt::Write;
use std::path::Path;
use std::{fs, io};

use tcp_echo::config::{OPTIONS, Settings};

const HEAD: &str = "\
# Settings of tcp-echo; see tcp-echo(1). What is commented out is the default, or a placeholder in
# capitals where nothing is. After a change: systemctl reload tcp-echo
";

/// Example at the end: tables must follow all other settings. The spaces tell it from the defaults.
const LISTENERS: &str = r#"
# --- Listeners

# In place of "listen": a table for each listener, with its service and the settings that differ from
# those above. They stay at the end of the file.
#
#   [[listener]]
#   address = "*:8090"
#
#   [[listener]]
#   address = "*:8002"
#   service = "lines"
#   prefix = "{hostname}: "
#   idle-timeout = "1m"
"#;

/// Heading of the options that the service manager decides on: background and PID file.
const NOT_FOR_SERVICES: &str = "Process";

pub(crate) fn generate(folder: &Path) -> io::Result<()> {
    fs::write(folder.join("tcp-echo.toml"), text())
}

fn text() -> String {
    let defaults = Settings::defaults();
    let mut text = HEAD.to_owned();
    let mut heading = "";
    for option in OPTIONS.iter().filter(|option| option.heading != NOT_FOR_SERVICES) {
        if option.heading != heading {
            heading = option.heading;
            line(&mut text, &format!("\n# --- {heading}"));
        }
        let value = option.to_toml(&defaults);
        let value = value.unwrap_or_else(|| option.value_name.into());
        line(&mut text, &format!("\n# {}\n#{} = {value}", option.help, option.name));
    }
    text.push_str(LISTENERS);
    text
}

fn line(text: &mut String, line: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{line}");
}
