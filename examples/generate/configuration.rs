//! The configuration file of a package: every setting with its default, commented out.

use std::fmt::Write;
use std::path::Path;
use std::{fs, io};

use tcp_echo::config::{OPTIONS, Settings};

const HEAD: &str = "\
# Settings of tcp-echo; see tcp-echo(1). What is commented out is the default, or a placeholder in
# capitals where nothing is. After a change: systemctl reload tcp-echo
";

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
    text
}

fn line(text: &mut String, line: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{line}");
}
