//! Any text as a listener, a list of listeners, a table of the file, and a template.
//!
//! Nothing panics, and what is written is read back: a reload hands the listeners over as text.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tcp_echo::config::template::Template;
use tcp_echo::config::{Config, ListenSpec, OptionDefinition};

fuzz_target!(|text: &str| {
    if let Ok(listener) = text.parse::<ListenSpec>() {
        let written = listener.to_string();
        let separates = |byte: u8| !byte.is_ascii_graphic() || byte == b',';
        assert!(!written.bytes().any(separates), "{written:?}");
        assert_eq!(written.parse(), Ok(listener));
    }
    if let Ok(template) = text.parse::<Template>() {
        assert_eq!(template.to_string(), text);
    }
    let option = OptionDefinition::find("listen").expect("an option");
    if let Ok(settings) = option.parse(text) {
        if let Ok(config) = Config::restore(&settings.to_file(), &[]) {
            assert_eq!(option.to_toml(&config.settings), option.to_toml(&settings));
        }
    }
    let _ = Config::restore(&format!("[[listener]]\n{text}"), &[]);
});
