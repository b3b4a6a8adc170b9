//! Environment variables that look like options and are none.

use std::ffi::OsString;

use super::Config;
use super::options::{OPTIONS, OptionDefinition, nearest};
use crate::text::one_line;

/// Begin of the names of all variables of the program.
const PREFIX: &str = "TCP_ECHO_";

/// Variables besides the options that the program reads: the path of the file, and the state of a
/// reload.
const READ: [&str; 3] = ["CONFIG", "HANDOVER", "HANDOVER_DRAINING"];

/// Variables of the scripts, Compose files, and tests of the repository, which can share an environment
/// with the daemon.
const SCRIPTS: [&str; 9] = [
    "BIN",
    "DEV_IMAGE",
    "IMAGE",
    "REPLICAS",
    "SCREENSHOTS",
    "SIMULATIONS",
    "SIMULATION_SEED",
    "SKIPS",
    "STOP_GRACE_PERIOD",
];

impl Config {
    /// Returns a warning in one line about variables that begin with `TCP_ECHO_` and that nothing
    /// reads, with the nearest known name of each.
    pub fn unknown_variables(
        &self,
        variables: impl Iterator<Item = (OsString, OsString)>,
    ) -> Option<String> {
        let settings = self.settings.to_file();
        let in_template = |name: &str| settings.contains(&format!("{{env:{name}}}"));
        let text = |text: OsString| text.to_string_lossy().into_owned();
        let mut unknown: Vec<String> = variables
            .map(|(name, value)| (text(name), text(value)))
            .filter(|(name, value)| !is_known(name, value) && !in_template(name))
            .map(|(name, _)| with_nearest(&name))
            .collect();
        unknown.sort_unstable();
        let plural = if unknown.len() == 1 { "" } else { "s" };
        let list = one_line(&unknown.join(", "));
        (!unknown.is_empty())
            .then(|| format!("unknown environment variable{plural} ignored: {list}"))
    }
}

fn is_known(name: &str, value: &str) -> bool {
    let Some(rest) = name.strip_prefix(PREFIX) else { return true };
    let is_option = OPTIONS.iter().any(|option| option.variable() == name);
    is_option || READ.contains(&rest) || SCRIPTS.contains(&rest) || is_of_kubernetes(rest, value)
}

/// Returns `true` for what Kubernetes sets in every pod if a service is named tcp-echo, or tcp-echo-admin:
/// `SERVICE_HOST`, `SERVICE_PORT_HTTP`, `PORT_8090_TCP_ADDR`, `ADMIN_PORT=tcp://10.0.0.1:80`.
fn is_of_kubernetes(rest: &str, value: &str) -> bool {
    let is_service = |name: &str| {
        ["SERVICE_HOST", "SERVICE_PORT"].contains(&name) || name.starts_with("SERVICE_PORT_")
    };
    let mut ends = rest.match_indices("SERVICE_").filter(|(at, _)| {
        // A word of its own.
        rest[..*at].is_empty() || rest[..*at].ends_with('_')
    });
    let is_port = rest.starts_with("PORT_") || rest.contains("_TCP") || rest.contains("_UDP");
    is_port || value.contains("://") || ends.any(|(at, _)| is_service(&rest[at..]))
}

fn with_nearest(name: &str) -> String {
    let known: Vec<String> = OPTIONS.iter().map(OptionDefinition::variable).collect();
    let known = known.iter().filter_map(|name| name.strip_prefix(PREFIX)).chain(["CONFIG"]);
    match nearest(name.strip_prefix(PREFIX).unwrap_or(name), known) {
        Some(nearest) => format!("{name} (did you mean {PREFIX}{nearest}?)"),
        None => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Layers, Settings};

    fn warning(listen: &str, variables: &[(&str, &str)]) -> Option<String> {
        let listen = OptionDefinition::find("listen").expect("an option").parse(listen);
        let command_line: Settings = listen.expect("valid");
        let layers = Layers { command_line, ..Layers::default() };
        let variables = variables.iter().map(|(name, value)| (name.into(), value.into()));
        Config::load(&layers).expect("valid").unknown_variables(variables)
    }

    #[test]
    fn an_unknown_variable_is_named_with_the_nearest_known_one() {
        for (names, expected) in [
            (&["TCP_ECHO_PROT"][..], ": TCP_ECHO_PROT (did you mean TCP_ECHO_PORT?)"),
            (&["TCP_ECHO_CONFIGS"], ": TCP_ECHO_CONFIGS (did you mean TCP_ECHO_CONFIG?)"),
            (&["TCP_ECHO_ZZZZZZZZ"], ": TCP_ECHO_ZZZZZZZZ"),
            (&["TCP_ECHO_"], ": TCP_ECHO_"),
            (&["TCP_ECHO_IDLE-TIMEOUT"], {
                ": TCP_ECHO_IDLE-TIMEOUT (did you mean TCP_ECHO_IDLE_TIMEOUT?)"
            }),
            (&["TCP_ECHO_ZZZZZZZZ", "PATH", "TCP_ECHO_WOKERS"], {
                "s ignored: TCP_ECHO_WOKERS (did you mean TCP_ECHO_WORKERS?), TCP_ECHO_ZZZZZZZZ"
            }),
            (&["TCP_ECHO_A\nB"], ": TCP_ECHO_A\\nB"),
        ] {
            let variables: Vec<_> = names.iter().map(|name| (*name, "1")).collect();
            let line = warning("*", &variables).expect("unknown");
            assert!(line.starts_with("unknown environment variable"), "{line}");
            assert!(line.ends_with(expected), "{line}");
        }
    }

    #[test]
    fn what_something_reads_or_sets_is_known() {
        for option in OPTIONS {
            assert_eq!(warning("*", &[(&option.variable(), "x")]), None);
        }
        let of_others = READ.iter().chain(&SCRIPTS).map(|name| format!("{PREFIX}{name}"));
        let of_kubernetes = [
            "SERVICE_HOST",
            "SERVICE_PORT",
            "SERVICE_PORT_HTTP",
            "PORT_8090_TCP",
            "PORT_8090_TCP_ADDR",
            "PORT_7_UDP_PROTO",
            "ADMIN_SERVICE_HOST",
            "ADMIN_SERVICE_PORT",
            "ADMIN_PORT_8091_TCP_PORT",
        ];
        let of_kubernetes = of_kubernetes.iter().map(|name| format!("{PREFIX}{name}"));
        for name in of_others.chain(of_kubernetes).chain(["PATH".into(), "TCP_ECHOES".into()]) {
            assert_eq!(warning("*", &[(&name, "1")]), None, "{name}");
        }
        let address = "tcp://10.0.0.1:8091";
        assert_eq!(warning("*", &[("TCP_ECHO_ADMIN_PORT", address)]), None);
        assert!(warning("*", &[("TCP_ECHO_ADMIN_PORT", "8091")]).is_some());
        assert!(warning("*", &[("TCP_ECHO_MYSERVICE_PORT", "8091")]).is_some());
    }

    #[test]
    fn a_variable_of_a_template_is_known() {
        let variable = [("TCP_ECHO_REGION", "eu")];
        assert!(warning("lines://*", &variable).is_some());
        assert_eq!(warning("lines://*?prefix={env:TCP_ECHO_REGION}", &variable), None);
    }
}
