//! Tests of the subcommands. Those of the daemon's options are in [`crate::config`].

use super::*;
use crate::config::Settings;

fn parse(line: &str, port: Option<&str>) -> Result<Cli, EarlyExit> {
    let words = line.split_whitespace().map(OsString::from).collect();
    Cli::parse_from(words, |name| port.filter(|_| name == "TCP_ECHO_PORT").map(OsString::from))
}

fn bench(line: &str) -> BenchOptions {
    match parse(line, None).expect(line).command {
        Some(SideCommand::Bench(arguments)) => arguments,
        other => panic!("{other:?}"),
    }
}

fn target(line: &str, port: Option<&str>) -> String {
    let target = match parse(line, port).expect(line).command {
        Some(SideCommand::Check(arguments)) => arguments.target,
        Some(SideCommand::Bench(arguments)) => arguments.target,
        other => panic!("{other:?}"),
    };
    target.expect(line).to_string()
}

fn error(line: &str) -> String {
    match parse(line, None) {
        Err(EarlyExit::Usage(text)) => text,
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn without_a_command_it_is_the_daemon() {
    assert_eq!(parse("--port 1", None).expect("valid").command, None);
    assert_eq!(
        error("--port 1 check"),
        "the subcommand 'check' cannot be used with '--port <N>' (see --help)"
    );
    assert_eq!(error("--port 1 stray"), "unexpected argument 'stray' found (see --help)");
    assert_eq!(
        error("chek"),
        "unrecognized subcommand 'chek'; tip: a similar subcommand exists: 'check' (see --help)"
    );
}

#[test]
fn help_is_also_a_command() {
    for (line, option) in [
        ("help", "--help"),
        ("help help", "--help"),
        ("help --port", "--help"),
        ("help check", "check --help"),
        ("help bench more", "bench --help"),
        ("help doctor", "doctor --help"),
    ] {
        let help = parse(line, None);
        assert!(matches!(help, Err(EarlyExit::Text(_))), "{line}: {help:?}");
        assert_eq!(help, parse(option, None), "{line}");
    }
    let message = error("help chek");
    assert!(message.contains("'check'"), "{message}");
    assert_eq!(error("--port 1 help"), "unexpected argument 'help' found (see --help)");
}

#[test]
fn a_stray_word_is_answered_with_what_was_meant() {
    for (line, word, advice) in [
        ("9000", "9000", "did you mean '--port 9000'?"),
        ("--workers 2 9000", "9000", "did you mean '--port 9000'?"),
        ("doctor 9000", "9000", "did you mean '--port 9000'?"),
        ("127.0.0.1:9000", "127.0.0.1:9000", "did you mean '--listen 127.0.0.1:9000'?"),
        ("serve", "serve", "leave it out: without a command, tcp-echo is the daemon"),
        ("-p 7 start", "start", "leave it out: without a command, tcp-echo is the daemon"),
        ("--daemon false", "false", "did you mean '--daemon=false'?"),
        ("--port 1 --enable-nodelay 0", "0", "did you mean '--enable-nodelay=0'?"),
        ("doctor --daemon no", "no", "did you mean '--daemon=no'?"),
        ("--idle-message no --daemon no", "no", "did you mean '--daemon=no'?"),
    ] {
        let message = error(line);
        let expected = format!("unexpected argument '{word}' found; {advice} (see ");
        assert!(message.starts_with(&expected), "{message}");
    }
    for line in ["70000", "stray", "--check-config false", "--idle-message false no", "--daemon x"]
    {
        let message = error(line);
        assert!(!message.contains("mean") && !message.contains(';'), "{message}");
    }
}

#[test]
fn the_server_is_on_this_machine_unless_it_is_named() {
    assert_eq!(target("check", None), "127.0.0.1:8090");
    assert_eq!(target("bench", Some("7")), "127.0.0.1:7");
    for no_port in ["", "0", "70000", "tcp://10.0.0.1:80"] {
        assert_eq!(target("check", Some(no_port)), "127.0.0.1:8090", "{no_port}");
    }
    assert_eq!(target("check echo.example", Some("7")), "echo.example:8090");
    assert_eq!(target("check [::1]:99", Some("7")), "[::1]:99");
    assert_eq!(target("bench -c 3 echo.example:99", None), "echo.example:99");
}

#[test]
fn the_daemons_environment_is_not_the_clients() {
    let words = vec![OsString::from("check")];
    let cli = Cli::parse_from(words, |_| Some("?".into())).expect("nothing is read from there");
    assert_eq!(cli.layers.environment, Settings::default());
}

#[test]
fn doctor_takes_the_options_of_the_daemon() {
    let line = "--port 7 --workers 2 --listen ::1 --listen 127.0.0.1 --daemon --enable-nodelay=no";
    let daemon = parse(line, Some("9")).expect(line);
    let doctor = parse(&format!("doctor {line} --config c.toml --json"), Some("9")).expect(line);
    assert_eq!(doctor.layers.command_line, daemon.layers.command_line);
    assert_eq!(doctor.layers.environment, daemon.layers.environment);
    assert_eq!(doctor.layers.environment.port.map(|port| port.get()), Some(9));
    assert_eq!(doctor.layers.file, Some("c.toml".into()));
    assert!(matches!(doctor.command, Some(SideCommand::Doctor(arguments)) if arguments.json));
    let off = parse("doctor --daemon --no-daemon --no-nodelay", None).expect("valid").layers;
    assert_eq!(
        (off.command_line.daemon, off.command_line.enable_nodelay),
        (Some(false), Some(false))
    );
    let plain = parse("doctor --port 1 --port 2", None).expect("the last one counts");
    assert_eq!(plain.layers.command_line.port.map(|port| port.get()), Some(2));
    assert!(matches!(parse("doctor", Some("x")), Err(EarlyExit::Usage(text))
        if text.contains("'TCP_ECHO_PORT'")));
}

#[test]
fn a_line_of_tcpkali_is_understood() {
    let options = "--duration 90 --connections 500 --connect-rate 300 --channel-lifetime 1 \
                   --message foo --message-rate 2";
    let short = "-T 90 -c 500 --connect-rate 300 --channel-lifetime 1 -m foo -r 2";
    let arguments = bench(&format!("bench {options} localhost:8090"));
    assert_eq!(arguments, bench(&format!("bench localhost:8090 {short}")));
    assert_eq!(arguments.connections.get(), 500);
    assert_eq!(arguments.duration.get().as_secs(), 90);
    assert_eq!(arguments.message.as_deref(), Some("foo"));
    assert_eq!(arguments.message_rate.map(|rate| rate.interval()), Some(5e8));
}

#[test]
fn options_of_other_load_generators_are_understood_or_answered() {
    let expected = bench("bench -c 3 -T 2s");
    for line in ["-c 3 -d 2s", "-c 3 -z 2s", "--concurrency 3 --duration 2"] {
        assert_eq!(bench(&format!("bench {line}")), expected, "{line}");
    }
    let rate = "'--message-rate', the rate of each connection?";
    for (line, option, advice) in [
        ("-n 100", "-n", "a run ends after a time: did you mean '--duration'?"),
        ("--requests=100 h:1", "--requests", "did you mean '--duration'?"),
        ("-c 3 -t 4", "-t", "did you mean '--threads' or '--duration'?"),
        ("--rate 5", "--rate", rate),
        ("-qps 5", "-qps", rate),
        ("--qps=5", "--qps", rate),
        ("-R5", "-R", rate),
        ("-q 100", "100", "did you mean '--message-rate 100', the rate of each connection?"),
        ("h:1 -q 100", "100", "did you mean '--message-rate 100', the rate of each connection?"),
    ] {
        let message = error(&format!("bench {line}"));
        let names = [format!("'{option}'"), format!("{advice} (see tcp-echo bench --help)")];
        assert!(names.iter().all(|name| message.contains(name)), "{line}: {message}");
    }
    let message = error("bench --nope");
    assert!(!message.contains("mean"), "{message}");
    let message = error("check -n 3");
    assert!(!message.contains("mean"), "{message}");
}

#[test]
fn the_last_one_counts_and_addresses_add_up() {
    let arguments = bench("bench -c 1 -c 2 --source-ip 127.0.0.2,127.0.0.3 --source-ip ::1 --json");
    assert_eq!(arguments.connections.get(), 2);
    assert_eq!(arguments.source_ip.len(), 3);
    assert!(arguments.json && !arguments.quiet && !arguments.stream);
}

#[test]
fn an_error_is_one_line_that_names_the_option() {
    for (line, names) in [
        ("check --port 1", &["--port", "(see tcp-echo check --help)"][..]),
        ("check a/b", &["'a/b' is not HOST[:PORT]"]),
        ("check 9000", &["'9000' is not HOST[:PORT]", "; did you mean '127.0.0.1:9000'? (see "]),
        ("check localhost 9000", &["unexpected argument '9000'", "'127.0.0.1:9000'"]),
        ("check a:1 b:2", &["unexpected argument 'b:2'"]),
        ("check --timeout 0", &["--timeout", "must be between 1ms and 8760h"]),
        ("check --connections 0", &["--connections", "must be between 1 and 10000"]),
        ("check --bytes x", &["--bytes", "not a size"]),
        ("bench -T 0", &["--duration", "must be between 1ms and 8760h"]),
        ("bench -m a -f b", &["--message", "--message-file", "(see tcp-echo bench --help)"]),
        ("bench --message=", &["--message"]),
        ("bench -r 1 --pipeline 2", &["--message-rate", "--pipeline"]),
        ("bench --stream --message-size 1", &["--stream", "--message-size"]),
        ("bench --message-size 0", &["--message-size", "must be between 1 and 1GiB"]),
        ("bench --connect-rate soon", &["--connect-rate", "not a rate"]),
        ("bench --source-ip here", &["--source-ip", "here"]),
        ("bench --threads -1", &["--threads", "-1"]),
        ("doctor --workers -1", &["--workers", "-1", "(see tcp-echo doctor --help)"]),
        ("doctor --wokers 1", &["--wokers", "--workers"]),
        ("doctor --check-config", &["--check-config"]),
        ("doctor stray", &["stray"]),
        ("--port 1 doctor", &["'doctor'", "'--port <N>'"]),
    ] {
        let text = error(line);
        assert!(!text.contains('\n'), "{text}");
        for name in names {
            assert!(text.contains(name), "{name}: {text}");
        }
    }
}

#[test]
fn the_help_texts_fit_and_name_everything() {
    for (line, names) in [
        ("--help", &["tcp-echo <COMMAND>", "check ", "bench ", "doctor ", "--busy-poll"][..]),
        (
            "check --help",
            &["Usage: tcp-echo check", "[HOST[:PORT]]", "PORT is 8090", "--quick", "[default: 5s]"],
        ),
        (
            "bench --help",
            &["Usage: tcp-echo bench", "PORT is 8090", "-r, --message-rate", "[default: 10s]"],
        ),
        ("doctor --help", &["Usage: tcp-echo doctor", "--json", "--config <FILE>", "Exit code"]),
    ] {
        let Err(EarlyExit::Text(text)) = parse(line, None) else { panic!("{line}") };
        assert!(text.lines().count() <= 80, "{} lines", text.lines().count());
        for text in text.lines() {
            assert!(text.chars().count() <= 100, "{text}");
        }
        for name in names {
            assert!(text.contains(name), "{name}: {text}");
        }
    }
}
