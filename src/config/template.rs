//! Templates: text with names in braces, such as `{hostname} `, which a service replaces.
//!
//! A template has the name of an environment variable, never its value, so that secrets stay out of
//! the log, `--print-config`, and the state handover.

use std::fmt::{self, Display};
use std::str::FromStr;

use super::value::{Form, Scalar, ValueError};

/// Text with names to replace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Template(Vec<Part>);

/// Part of a [`Template`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Text that stays as it is; not empty.
    Text(String),
    /// Name of the host: `{hostname}`.
    Hostname,
    /// PID of the worker: `{pid}`.
    Pid,
    /// Slot of the worker: `{worker}`.
    Worker,
    /// IP address of the client: `{peer_ip}`.
    PeerIp,
    /// Port of the client: `{peer_port}`.
    PeerPort,
    /// Port that the client connected to: `{local_port}`.
    LocalPort,
    /// Version of the daemon: `{version}`.
    Version,
    /// Value of an environment variable: `{env:NAME}`.
    Env(String),
}

/// Names and what they stand for, besides `env:NAME`.
const NAMES: [(&str, Part); 7] = [
    ("hostname", Part::Hostname),
    ("pid", Part::Pid),
    ("worker", Part::Worker),
    ("peer_ip", Part::PeerIp),
    ("peer_port", Part::PeerPort),
    ("local_port", Part::LocalPort),
    ("version", Part::Version),
];

impl Template {
    /// Returns the parts; two texts are never adjacent.
    pub fn parts(&self) -> &[Part] {
        &self.0
    }
}

impl Part {
    /// Parses the name between two braces.
    fn named(name: &str) -> Option<Self> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
        match name.strip_prefix("env:") {
            Some(variable) if !variable.is_empty() && variable.bytes().all(plain) => {
                Some(Self::Env(variable.to_owned()))
            }
            Some(_) => None,
            None => NAMES.into_iter().find(|(known, _)| *known == name).map(|(_, part)| part),
        }
    }
}

impl FromStr for Template {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let (mut parts, mut literal) = (Vec::new(), String::new());
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            let (before, from_brace) = rest.split_at(at);
            literal.push_str(before);
            let (brace, after) = from_brace.split_at(1);
            if let Some(after) = after.strip_prefix(brace) {
                literal.push_str(brace);
                rest = after;
                continue;
            }
            if brace == "}" {
                return Err(unbalanced(text, "}", "{"));
            }
            let (name, after) = after
                .split_once('}')
                .filter(|(name, _)| !name.contains('{'))
                .ok_or_else(|| unbalanced(text, "{", "}"))?;
            let part = Part::named(name).ok_or_else(|| unknown(text, name))?;
            if !literal.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut literal)));
            }
            parts.push(part);
            rest = after;
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Text(literal));
        }
        Ok(Self(parts))
    }
}

fn unbalanced(text: &str, brace: &str, other: &str) -> ValueError {
    ValueError(format!("'{text}' has a {brace} without {other} (literal braces are {{{{ and }}}})"))
}

fn unknown(text: &str, name: &str) -> ValueError {
    let names = NAMES.map(|(name, _)| name).join(", ");
    ValueError(format!("'{text}' has the unknown name {{{name}}}; names are {names}, and env:NAME"))
}

impl Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in &self.0 {
            match part {
                Part::Text(text) => {
                    f.write_str(&text.replace('{', "{{").replace('}', "}}"))?;
                }
                Part::Env(variable) => write!(f, "{{env:{variable}}}")?,
                _ => {
                    let name = NAMES.iter().find(|(_, known)| known == part);
                    write!(f, "{{{}}}", name.map_or("", |(name, _)| name))?;
                }
            }
        }
        Ok(())
    }
}

impl Scalar for Template {
    const NAME: &'static str = "TEMPLATE";
    const FORM: Form = Form::Text;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<Vec<Part>, String> {
        text.parse::<Template>().map(|template| template.0).map_err(|error| error.0)
    }

    #[test]
    fn names_in_braces_are_parts() {
        let text = |text: &str| Part::Text(text.to_owned());
        for (template, parts) in [
            ("", vec![]),
            ("plain, with % and ,", vec![text("plain, with % and ,")]),
            ("{pid}", vec![Part::Pid]),
            ("{hostname}{worker}", vec![Part::Hostname, Part::Worker]),
            ("é{peer_ip}:{peer_port} ", {
                vec![text("é"), Part::PeerIp, text(":"), Part::PeerPort, text(" ")]
            }),
            ("{local_port}{version}", vec![Part::LocalPort, Part::Version]),
            ("{env:POD_NAME}", vec![Part::Env("POD_NAME".into())]),
            ("{{pid}}", vec![text("{pid}")]),
            ("{{{pid}}}", vec![text("{"), Part::Pid, text("}")]),
            ("}}{{", vec![text("}{")]),
        ] {
            assert_eq!(parse(template), Ok(parts), "{template}");
            let written = template.parse::<Template>().map(|template| template.to_string());
            assert_eq!(written.as_deref(), Ok(template));
        }
    }

    #[test]
    fn an_unknown_name_is_an_error_that_has_it() {
        let names = "hostname, pid, worker, peer_ip, peer_port, local_port, version, and env:NAME";
        for name in
            ["", "pids", "PID", " pid", "env", "env:", "env:A B", "env:A=B", "env:é", "pid:"]
        {
            let text = format!("<{{{name}}}>");
            let message = format!("'{text}' has the unknown name {{{name}}}; names are {names}");
            assert_eq!(parse(&text), Err(message));
        }
    }

    #[test]
    fn a_brace_without_its_counterpart_is_an_error() {
        for text in ["{", "{pid", "{pid} {", "{{{", "{pid{pid}", "{{pid}", "{pid}}}{"] {
            let message = parse(text).expect_err(text);
            let [open, close] = [" has a { without }", " has a } without {"];
            let expected = if text == "{{pid}" { close } else { open };
            assert!(message.starts_with(&format!("'{text}'{expected}")), "{message}");
        }
        for text in ["}", "pid}", "{pid}}", "}}}"] {
            let message = parse(text).expect_err(text);
            assert!(message.starts_with(&format!("'{text}' has a }} without {{ (")), "{message}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics_and_what_is_written_is_read_back(
            text in r"\PC{0,20}|([{}]{0,3}(pid|env:A|worker|x)?[{}]{0,3}){0,4}",
        ) {
            if let Ok(template) = text.parse::<Template>() {
                prop_assert_eq!(template.to_string(), text.clone());
                prop_assert_eq!(template.to_string().parse(), Ok(template));
            }
        }

        #[test]
        fn any_text_can_be_escaped(text in r"(\PC|[{}]){0,20}") {
            let template: Template = text.replace('{', "{{").replace('}', "}}").parse().expect("escaped");
            let parts = if text.is_empty() { vec![] } else { vec![Part::Text(text)] };
            prop_assert_eq!(template.parts(), parts);
        }
    }
}
