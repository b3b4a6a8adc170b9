//! Text form of a listener: `[SERVICE://]ADDR[:PORT][?KEY=VALUE[&KEY=VALUE…]]`.
//!
//! Values are percent-encoded (RFC 3986, 2.1). A `+` is a plus sign.

use std::fmt::{self, Display};
use std::str::FromStr;

use super::address::{Address, flaw};
use super::{ListenSpec, Settings};
use crate::config::service::{self, ServiceName};
use crate::config::value::ValueError;

/// Characters of values that are written as they are, besides letters and digits. A comma would
/// separate two listeners.
const PLAIN: &[u8] = b"-._~{}:/@=+*!$()";

impl FromStr for ListenSpec {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        // A list may have spaces after its commas; spaces at the end of a value belong to it.
        let text = text.trim_start();
        let (place, query) = match text.split_once('?') {
            Some((place, query)) => (place, Some(query)),
            None => (text, None),
        };
        let (service, address) = match place.split_once("://") {
            Some((service, address)) => (Some(service.parse()?), address),
            None => (None, place),
        };
        let address = address.parse::<Address>().map_err(|error| match address == text {
            true => error,
            false => {
                let address = address.trim();
                let flaw = flaw(address);
                ValueError(format!("'{text}' has the address '{address}', which is {flaw}"))
            }
        })?;
        let settings = query.map(|query| parse_query(service, query)).transpose()?;
        Ok(Self { address, service, settings: settings.unwrap_or_default() })
    }
}

/// Parses `KEY=VALUE[&KEY=VALUE…]`.
fn parse_query(service: Option<ServiceName>, query: &str) -> Result<Settings, ValueError> {
    let mut settings = Settings::default();
    for pair in query.split('&') {
        let (name, encoded) =
            pair.split_once('=').ok_or_else(|| ValueError(format!("'{pair}' is not KEY=VALUE")))?;
        let key = service::key(service, name)?;
        if key.is_in(&settings) {
            return Err(ValueError(format!("key '{name}' is given twice")));
        }
        let invalid = |error| ValueError(format!("{name}: {error}"));
        let value = decode(encoded).map_err(invalid)?;
        settings = settings.or(key.parse(&value).map_err(invalid)?);
    }
    Ok(settings)
}

/// Replaces `%2C` and the like by their bytes.
fn decode(text: &str) -> Result<String, ValueError> {
    let digit = |digit: Option<u8>| char::from(digit?).to_digit(16);
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => match (digit(rest.next()), digit(rest.next())) {
                (Some(high), Some(low)) => (high * 16 + low) as u8,
                _ => {
                    let reason = "has a % without two hexadecimal digits (a literal one is %25)";
                    return Err(ValueError(format!("'{text}' {reason}")));
                }
            },
            _ => byte,
        });
    }
    String::from_utf8(bytes).map_err(|_| ValueError(format!("'{text}' is not UTF-8")))
}

/// A value, percent-encoded.
struct Encoded<'a>(&'a str);

impl Display for Encoded<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.bytes().try_for_each(|byte| match byte {
            _ if byte.is_ascii_alphanumeric() || PLAIN.contains(&byte) => {
                write!(f, "{}", char::from(byte))
            }
            _ => write!(f, "%{byte:02X}"),
        })
    }
}

/// Writes the keys in the order of their definitions.
impl Display for ListenSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(service) = self.service {
            write!(f, "{service}://")?;
        }
        self.address.fmt(f)?;
        let mut separator = '?';
        for key in service::keys(self.service) {
            if let Some(value) = key.text_in(&self.settings) {
                write!(f, "{separator}{}={}", key.name, Encoded(&value))?;
                separator = '&';
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn error(text: &str) -> String {
        text.parse::<ListenSpec>().expect_err(text).0
    }

    #[test]
    fn listeners_are_written_in_one_way() {
        for (text, written) in [
            ("*", "*"),
            (" *:80 ", "*:80"),
            ("::1", "[::1]"),
            ("echo://*", "echo://*"),
            ("  LINES://[::ffff:1.2.3.4]:7", "lines://1.2.3.4:7"),
            ("fe80::1%2?splice=off", "[fe80::1%2]?splice=off"),
            ("*?idle-timeout=60", "*?idle-timeout=1m"),
            ("lines://*:1?quit=on&buffer-size=65536&prefix=x", {
                "lines://*:1?prefix=x&quit=true&buffer-size=64KiB"
            }),
            ("*?prefix={hostname}: +%2b%2C%26%25%3F", "*?prefix={hostname}:%20++%2C%26%25%3F"),
            ("*?prefix=", "*?prefix="),
            ("*?prefix=a=b?c", "*?prefix=a=b%3Fc"),
            ("*?idle-message=\u{e9}%c3%a9%0a&splice=auto", {
                "*?idle-message=%C3%A9%C3%A9%0A&splice=auto"
            }),
            ("*?idle-message=two ", "*?idle-message=two%20"),
            ("lines://*?prefix={env:SECRET}%7b%7b", "lines://*?prefix={env:SECRET}{{"),
        ] {
            let spec: ListenSpec = text.parse().expect(text);
            assert_eq!(spec.to_string(), written);
            assert_eq!(written.parse(), Ok(spec));
        }
    }

    #[test]
    fn an_error_names_the_part_that_is_wrong() {
        for (text, message) in [
            ("nowhere", format!("'nowhere' is {}", flaw("nowhere"))),
            ("?", format!("'?' has the address '', which is {}", flaw(""))),
            ("lines://", format!("'lines://' has the address '', which is {}", flaw(""))),
            ("foo://a:1?x=1", {
                format!("'foo://a:1?x=1' has the address 'a:1', which is {}", flaw("a"))
            }),
            ("foo://*x?x=1", {
                format!("'foo://*x?x=1' has the address '*x', which is {}", flaw("*x"))
            }),
            ("*?", "'' is not KEY=VALUE".into()),
            ("*?splice=off&", "'' is not KEY=VALUE".into()),
            ("*?splice", "'splice' is not KEY=VALUE".into()),
            ("*?splice=off&splice=off", "key 'splice' is given twice".into()),
            ("*?splice=on", "splice: 'on' is not auto or off".into()),
            ("lines://*?max-line=0", "max-line: must be between 1 and 16MiB".into()),
            ("lines://*?prefix=%7Bx", {
                "prefix: '{x' has a { without } (literal braces are {{ and }})".into()
            }),
            ("*?idle-message=%ff", "idle-message: '%ff' is not UTF-8".into()),
        ] {
            assert_eq!(error(text), message, "{text}");
        }
        for (text, message) in [
            ("tcp://*", "'tcp' is not a service; services are echo, "),
            ("://*", "'' is not a service; "),
            ("lines://*?prefx=x", "unknown key 'prefx'; 'lines' has prefix, quit, max-line, idle-"),
            ("echo://*?prefix=x", "unknown key 'prefix'; 'echo' has idle-timeout, "),
            ("*?workers=1", "unknown key 'workers'; a listener has prefix, "),
            ("*?Splice=off", "unknown key 'Splice'; "),
            ("lines://*?prefix={x}", "prefix: '{x}' has the unknown name {x}; names are "),
        ] {
            assert!(error(text).starts_with(message), "{}", error(text));
        }
        for value in ["%", "%2", "a%2x", "%+1", "%\u{e9}", "%%41"] {
            let expected =
                format!("idle-message: '{value}' has a % without two hexadecimal digits");
            let message = error(&format!("*?idle-message={value}"));
            assert!(message.starts_with(&expected), "{message}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics_and_what_is_written_is_read_back(
            text in r"(lines://)?\*(:7)?\?(prefix|quit|max-line|splice|idle-message|idle-timeout)=([0-9a-z]{1,3}|%[0-9a-f]{2}|[{}&=%]|\PC){0,6}|(\PC|://|[?&=%]){0,30}",
        ) {
            if let Ok(spec) = text.parse::<ListenSpec>() {
                let written = spec.to_string();
                prop_assert!(written.bytes().all(|byte| byte.is_ascii_graphic() && byte != b','));
                prop_assert_eq!(written.parse(), Ok(spec));
            }
        }

        #[test]
        fn any_text_is_encoded_and_decoded(text in "(?s).{0,20}") {
            let encoded = Encoded(&text).to_string();
            prop_assert!(!encoded.contains(['&', ',', '?', '#', ' ']), "{}", encoded);
            prop_assert_eq!(decode(&encoded), Ok(text));
        }
    }
}
