//! Tests of the command line and the environment.

use super::*;

#[test]
fn the_help_text_fits_and_names_everything() {
    let help = text("--help");
    assert!(help.lines().count() <= 80, "{} lines", help.lines().count());
    for line in help.lines() {
        assert!(line.chars().count() <= 100, "{line}");
    }
    for option in OPTIONS {
        assert!(help.contains(&format!("--{}", option.name)), "{}", option.name);
    }
    for group in ["Listening:", "Connections:", "Workers:", "Shutdown:", "Logging:"] {
        assert!(help.contains(group), "{group}");
    }
    assert!(help.contains("[default: 8090]"), "{help}");
    assert!(!help.contains("--fault"), "{help}");
    assert_eq!(text("-h"), help);
    assert_eq!(text("--version"), format!("tcp-echo {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn an_error_is_one_line_that_names_the_option() {
    for (line, message) in [
        (
            "--port 70000",
            "invalid value '70000' for '--port <N>': must be between 0 and 65535 (see --help)",
        ),
        (
            "--workers -1",
            "invalid value '-1' for '--workers <N>': must be between 0 and 1024 (see --help)",
        ),
        (
            "--prot 3",
            "unexpected argument '--prot' found; tip: a similar argument exists: '--port' \
             (see --help)",
        ),
        ("foo", "unrecognized subcommand 'foo' (see --help)"),
        ("--port 1 foo", "unexpected argument 'foo' found (see --help)"),
        (
            "--port --workers 3",
            "a value is required for '--port <N>' but none was supplied (see --help)",
        ),
        ("--port", "a value is required for '--port <N>' but none was supplied (see --help)"),
    ] {
        assert_eq!(error(line), message);
    }
    for (line, option) in [
        ("--idle-timeout -5s", "--idle-timeout"),
        ("--idle-timeout -.5", "--idle-timeout"),
        ("--daemon=maybe", "--daemon"),
        ("--daemon -1", "--daemon"),
        ("--check-config=1", "--check-config"),
        ("--listen *:x", "--listen"),
        ("--listen *,", "--listen"),
        ("--buffer-size 1", "--buffer-size"),
        ("--log-level loud", "--log-level"),
        ("--config=", "--config"),
        ("--pid-file=", "--pid-file"),
        ("--fault melt:1", "--fault"),
    ] {
        let message = error(line);
        assert!(message.contains(option), "{message}");
        assert!(!message.contains('\n'), "{message}");
    }
}

#[test]
fn control_characters_and_other_bytes_stay_in_one_line() {
    use std::os::unix::ffi::OsStringExt;

    let parse = |arguments| Cli::parse_from(arguments, |_| None).expect_err("invalid");
    let EarlyExit::Usage(line) = parse(vec!["--port=1\n\nUsage: \x1b[1m".into()]) else {
        panic!("not an error");
    };
    assert!(!line.contains(char::is_control), "{line:?}");

    let byte = || OsString::from_vec(vec![0xff]);
    let mut joined = OsString::from("--port=");
    joined.push(byte());
    for arguments in [vec!["--daemon".into(), "--port".into(), byte()], vec![joined]] {
        let expected = "the value of '--port' is not UTF-8 (see --help)".to_owned();
        assert_eq!(parse(arguments), EarlyExit::Usage(expected));
    }
}

#[test]
fn a_switch_needs_no_value_and_the_last_one_counts() {
    let daemon = |line| parse_with(line, &[]).expect(line).layers.command_line.daemon;
    assert_eq!(daemon(""), None);
    assert_eq!(daemon("--daemon"), Some(true));
    assert_eq!(daemon("--daemon=false"), Some(false));
    assert_eq!(daemon("--daemon --port 1 --daemon=no"), Some(false));
    assert_eq!(load("--idle-timeout 1 --idle-timeout 2").connection.idle_timeout, {
        Some(Duration::from_secs(2))
    });
}

#[test]
fn the_most_used_options_have_a_short_form() {
    let short = parse_with("-p 7 -w2 -l *:1 -l=*:2 -c a.toml", &[]).expect("valid").layers;
    let long = "--port 7 --workers 2 --listen *:1,*:2 --config a.toml";
    assert_eq!(short, parse_with(long, &[]).expect("valid").layers);
    assert_eq!(
        error("-w -1"),
        "invalid value '-1' for '--workers <N>': must be between 0 and 1024 (see --help)"
    );
    assert!(text("--help").contains("  -p, --port <N>"));
}

#[test]
fn every_switch_has_a_negation() {
    let settings = |line: &str| parse_with(line, &[]).expect(line).layers.command_line;
    let switches: Vec<_> =
        OPTIONS.iter().filter(|option| option.form == value::Form::Switch).collect();
    assert!(switches.len() > 5);
    for option in switches {
        let name = option.name;
        let (on, off) = (settings(&format!("--{name}")), settings(&format!("--{name}=false")));
        let names = [Some(name), name.strip_prefix("enable-")];
        for negation in names.into_iter().flatten().map(|name| format!("--no-{name}")) {
            assert_eq!(settings(&negation), off, "{negation}");
            assert_eq!(settings(&format!("{negation} {negation}")), off, "{negation}");
            assert_eq!(settings(&format!("--{name} {negation}")), off, "{negation}");
            assert_eq!(settings(&format!("{negation} --{name}")), on, "{negation}");
            assert_eq!(settings(&format!("--{name}=true {negation}")), off, "{negation}");
            assert!(error(&format!("{negation}=true")).contains(&format!("--no-{name}")));
        }
    }
    let help = text("--help");
    assert!(!help.lines().any(|line| line.trim_start().starts_with("--no-")), "{help}");
    assert!(help.contains("--no-NAME"), "{help}");
    assert!(error("--no-port").contains("'--no-port'"));
}

#[test]
fn lists_grow() {
    let cli = parse_with("--listen *:1 --listen *:2,*:3 --fault crash-at-boot:1", &[]);
    let cli = cli.expect("valid");
    assert_eq!(cli.layers.command_line.listen.as_ref().map(Vec::len), Some(3));
    assert_eq!(cli.layers.faults, [Fault::CrashAtBoot(1)]);
}

#[test]
fn a_variable_is_an_option() {
    let set = [
        ("TCP_ECHO_IDLE_TIMEOUT", "2m"),
        ("TCP_ECHO_LISTEN", "127.0.0.1, [::1]:7"),
        ("TCP_ECHO_DAEMON", "1"),
        ("TCP_ECHO_CONFIG", "a.toml"),
        ("TCP_ECHO_CHECK_CONFIG", "true"),
        ("TCP_ECHO_FAULT", "hang-at-boot:0"),
    ];
    let cli = parse_with("--port 1", &set).expect("valid");
    assert_eq!(cli.layers.environment.idle_timeout, "120".parse().ok());
    assert_eq!(cli.layers.environment.listen.as_ref().map(Vec::len), Some(2));
    assert_eq!(cli.layers.environment.daemon, Some(true));
    assert_eq!(cli.layers.environment.port, None);
    assert_eq!(cli.layers.file, Some("a.toml".into()));
    assert!(!cli.check_config && cli.layers.faults.is_empty());

    let cli = parse_with("--config b.toml", &set).expect("valid");
    assert_eq!(cli.layers.file, Some("b.toml".into()));
}

#[test]
fn every_variable_that_is_wrong_is_named_and_an_empty_one_is_unset() {
    for option in OPTIONS {
        let name = option.variable();
        assert!(parse_with("", &[(&name, "")]).is_ok(), "{name}");
        // Any text is a message or a path.
        if option.form != value::Form::Text {
            let message = error_with("", &[(&name, "?")]);
            let expected = format!("invalid value '?' for '{name}': '?' ");
            assert!(message.starts_with(&expected), "{message}");
        }
    }
}

#[test]
fn what_kubernetes_sets_for_a_service_of_this_name_is_not_the_port() {
    let config = load_with("", &[("TCP_ECHO_PORT", "tcp://10.0.0.1:80")]);
    assert_eq!(config.listen.listeners[0].endpoint.address.port(), 8090);
}
