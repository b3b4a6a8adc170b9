//! Tests of the definitions of the options.

use std::collections::BTreeSet;

use super::*;

#[test]
fn names_and_variables_are_unique() {
    let names: BTreeSet<_> = OPTIONS.iter().map(|option| option.name).collect();
    assert_eq!(names.len(), OPTIONS.len());
    for option in OPTIONS {
        assert!(option.name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'));
        assert!(OptionDefinition::find(option.name).is_some_and(|it| std::ptr::eq(it, option)));
    }
    let option = OptionDefinition::find("idle-timeout").expect("an option");
    assert_eq!(option.variable(), "TCP_ECHO_IDLE_TIMEOUT");
}

#[test]
fn a_help_line_is_short_and_lists_the_choices() {
    for option in OPTIONS.iter().chain(SERVICE_KEYS) {
        let help = option.help;
        assert!(help.len() <= 60, "{help}");
        assert!(help.starts_with(|letter: char| letter.is_ascii_uppercase()), "{help}");
        assert!(!help.ends_with('.'), "{help}");
        assert!(option.choices.iter().all(|word| help.contains(word)), "{help}");
    }
}

#[test]
fn a_default_is_written_as_it_is_printed() {
    let defaults = Settings::defaults();
    for option in OPTIONS.iter().chain(SERVICE_KEYS) {
        assert_eq!(option.default.is_some(), option.is_in(&defaults), "{}", option.name);
        if let Some(default) = option.default {
            assert_eq!(
                option.parse(default).map(|it| option.to_toml(&it)),
                Ok(option.to_toml(&defaults))
            );
            let printed = option.to_toml(&defaults).expect("a value").to_string();
            assert_eq!(printed.trim_matches(['[', ']', '"']), default, "{}", option.name);
        }
    }
}

#[test]
fn every_option_is_in_the_manual_with_its_value_and_default() {
    let manual = include_str!("../../../docs/options.md");
    let services = include_str!("../../../docs/services.md");
    let command = crate::cli::command();
    for OptionDefinition { name, value_name, default, form, .. } in OPTIONS {
        let arg = command.get_arguments().find(|arg| arg.get_id() == name).expect(name);
        let short = arg.get_short().map(|short| format!(", `-{short}`")).unwrap_or_default();
        let value = match form {
            value::Form::Switch => format!("[={value_name}]"),
            _ => format!(" {value_name}"),
        };
        let default = default.map_or("none".to_owned(), |default| format!("`{default}`"));
        let row = format!("| `--{name}{value}`{short} | {default} |");
        assert!(manual.contains(&row), "{row}");
    }
    for service in ServiceName::ALL {
        assert!(services.contains(&format!("\n| `{service}` | ")), "{service}");
    }
    for OptionDefinition { name, value_name, default, .. } in SERVICE_KEYS {
        let default = match default {
            Some("") => "empty".to_owned(),
            _ => default.map_or("none".to_owned(), |default| format!("`{default}`")),
        };
        let row = format!(" | `{name}={value_name}` | {default} |");
        assert!(services.contains(&row), "{row}");
    }
}
