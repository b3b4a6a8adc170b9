//! Configuration: layers, invalid values, `--check-config`, `--print-config`, `--help`, and `--version`.

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

use super::support::launch::Outcome;
use super::support::operations::reload;
use super::support::{Launch, SOON, TestLock};

/// One line that begins with the program's name and contains every word; exit code 2.
#[track_caller]
fn assert_usage_error(outcome: &Outcome, names: &[&str]) {
    outcome.assert_one_line(2, names);
    assert!(outcome.stderr[0].starts_with("tcp-echo: "), "{outcome:?}");
    assert_eq!(outcome.stdout, Vec::<String>::new(), "{outcome:?}");
}

#[test]
fn a_bad_value_is_named_with_its_flag() {
    let lock = TestLock::shared();
    let cases: [(&str, &str); 22] = [
        ("--port", "70000"),
        ("--port", "abc"),
        ("--port", "-1"),
        ("--port", ""),
        ("--workers", "-1"),
        ("--workers", "1025"),
        ("--workers", "two"),
        ("--log-level", "NOPE"),
        ("--log-format", "xml"),
        ("--connection-backlog", "0"),
        ("--connection-backlog", "65536"),
        ("--idle-timeout", "10 parsecs"),
        ("--idle-timeout", "-5"),
        ("--idle-timeout", "366d"),
        ("--graceful-timeout", "soon"),
        ("--keepalive-delay", "1.5s"),
        ("--buffer-size", "4095"),
        ("--buffer-size", "17MiB"),
        ("--buffer-size", "big"),
        ("--listen", "nowhere:at:all"),
        ("--listen", "127.0.0.1:99999"),
        ("--enable-nodelay", "maybe"),
    ];
    for (flag, value) in cases {
        let joined = format!("{flag}={value}");
        assert_usage_error(&lock.launch(&[&joined]).run(), &[flag, value]);
    }
}

#[test]
fn unknown_options_and_arguments_are_named() {
    let lock = TestLock::shared();
    for wrong in [&["--nope"][..], &["stray"], &["--port", "0", "stray"]] {
        assert_usage_error(&lock.launch(wrong).run(), &[wrong[wrong.len() - 1]]);
    }
    assert_usage_error(&lock.launch(&["--port"]).run(), &["--port"]);
    let twice = ["--listen", "127.0.0.1:8090", "--listen", "127.0.0.1:8090"];
    assert_usage_error(&lock.launch(&twice).run(), &["127.0.0.1:8090"]);
}

#[test]
fn a_bad_value_in_the_environment_is_named() {
    let lock = TestLock::shared();
    let outcome = lock.launch(&["--check-config"]).env("TCP_ECHO_PORT", "70000").run();
    assert_usage_error(&outcome, &["70000", "TCP_ECHO_PORT"]);
    let outcome = lock.launch(&["--check-config"]).env("TCP_ECHO_LOG_LEVEL", "NOPE").run();
    assert_usage_error(&outcome, &["NOPE", "TCP_ECHO_LOG_LEVEL"]);
}

#[test]
fn an_unknown_variable_is_a_warning() {
    let lock = TestLock::shared();
    let warning =
        "unknown environment variable ignored: TCP_ECHO_PROT (did you mean TCP_ECHO_PORT?)";
    let outcome = lock.launch(&["--check-config"]).env("TCP_ECHO_PROT", "1").run();
    assert_eq!((outcome.code, outcome.stdout.len()), (Some(0), 1), "{outcome:?}");
    assert_eq!(outcome.stderr, [format!("tcp-echo: {warning}")], "{outcome:?}");
    // What Kubernetes sets is none.
    let launch = lock.launch(&["--check-config"]).env("TCP_ECHO_SERVICE_HOST", "10.0.0.1");
    let launch = launch.env("TCP_ECHO_SERVICE_PORT", "8090");
    let outcome = launch.env("TCP_ECHO_PORT_8090_TCP", "tcp://10.0.0.1:8090").run();
    assert_eq!((outcome.code, outcome.stderr.len()), (Some(0), 0), "{outcome:?}");

    let server = lock.launch(&["--workers", "1"]).env("TCP_ECHO_PROT", "1").start();
    let line = server.log.wait_for(SOON, warning);
    assert!(line.has("WARN"), "{line:?}");
    reload(&server);
    assert_eq!(server.log.count(warning), 1, "once, at the start");
    server.stop();
}

#[test]
fn conflicting_settings_are_rejected() {
    let lock = TestLock::shared();
    let same = lock.launch(&["--check-config", "--pid-file", "/x/a", "--state-file", "/x/a"]).run();
    assert_usage_error(&same, &["--pid-file", "state-file"]);
    let (_directory, path) = file_with("access-log-file = \"/x/a\"\nstate-file = \"/x/a\"\n");
    let same = lock.launch(&["--check-config", "--config"]).arg(path.to_str().unwrap()).run();
    assert_usage_error(&same, &[":2: state-file", "access-log-file"]);

    // The port is free: no other process causes a failure.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for (listen, admin) in
        [("*", ""), ("127.0.0.1", ""), ("127.0.0.1", "0.0.0.0:"), ("*", "0.0.0.0:")]
    {
        let args = ["--workers", "1", "--listen", &format!("{listen}:{port}")];
        let admin = format!("{admin}{port}");
        let outcome = lock.launch(&args).arg("--admin").arg(&admin).run();
        outcome.assert_one_line(
            1,
            &["--admin", "address already used by --listen", &port.to_string()],
        );
    }
}

#[test]
fn unprintable_output_is_a_failure() {
    let lock = TestLock::shared();
    for option in ["--print-config", "--check-config", "--version", "--help"] {
        let full = lock.launch(&[option]).under_shell("exec \"$0\" \"$@\" >/dev/full").run();
        full.assert_one_line(1, &["standard output"]);
        let gone = lock.launch(&[option]).under_shell("\"$0\" \"$@\" | true").run();
        assert_eq!((gone.code, gone.stderr.len()), (Some(0), 0), "{option}");
    }
    let server = lock.start(&["--workers", "1"]);
    let target = format!("127.0.0.1:{}", server.port());
    for command in [
        &["check", "--quick", &target][..],
        &["check", "--verbose", &target],
        &["bench", "--duration", "0.1", &target],
        &["bench", "--duration", "0.1", "--json", &target],
    ] {
        let full = lock.launch(command).under_shell("exec \"$0\" \"$@\" >/dev/full").run();
        full.assert_one_line(1, &["cannot write to standard output: No space left"]);
        let gone = lock.launch(command).under_shell("\"$0\" \"$@\" | true").run();
        assert_eq!((gone.code, gone.stderr.len()), (Some(0), 0), "{command:?}");
    }
    server.stop();
}

/// Configuration file in a temporary directory.
fn file_with(text: &str) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tcp-echo.toml");
    fs::write(&path, text).unwrap();
    (directory, path)
}

#[test]
fn errors_in_the_file_are_named_with_their_line() {
    let lock = TestLock::shared();
    let cases = [
        ("port = 8090\n\nprot = 8091\n", 3, "prot"),
        ("# first\nport = \"high\"\n", 2, "port"),
        ("port = 70000\n", 1, "port"),
        ("workers = 2\nworkers = 3\n", 2, "workers"),
        ("workers = 2\nlog-level = \"NOPE\"\n", 2, "log-level"),
        ("\nidle-timeout = true\n", 2, "idle-timeout"),
        ("enable-nodelay = \"perhaps\"\n", 1, "enable-nodelay"),
        ("port = 8090\nlisten = [\"127.0.0.1\", 7]\n", 2, "listen"),
        ("port 8090\n", 1, "port"),
        ("workers = 2\n[tls]\nport = 1\n", 2, "tls"),
        ("fault = \"crash-at-boot:1\"\n", 1, "fault"),
    ];
    for (text, line, key) in cases {
        let (_directory, path) = file_with(text);
        let name = path.to_str().unwrap();
        let location = format!("{name}:{line}");
        let outcome = lock.launch(&["--config", name, "--check-config"]).run();
        assert_usage_error(&outcome, &[&location, key]);
        let outcome = lock.launch(&["--config", name]).run();
        assert_usage_error(&outcome, &[&location, key]);
    }
    let missing = lock.launch(&["--config", "/nonexistent/tcp-echo.toml"]).run();
    assert_usage_error(&missing, &["/nonexistent/tcp-echo.toml"]);
}

#[test]
fn check_config_does_not_listen() {
    let lock = TestLock::shared();
    let outcome = lock.launch(&["--check-config", "--port", "8090"]).run();
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    // Also while the port is in use: that is not a question of configuration.
    let server = lock.start(&["--workers", "1"]);
    let port = server.port().to_string();
    assert_eq!(lock.launch(&["--check-config", "--port", &port]).run().code, Some(0));
    server.stop();
}

/// The effective configuration of these arguments, as text and as a table.
fn printed(launch: Launch) -> (String, toml::Table) {
    let outcome = launch.arg("--print-config").run();
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert_eq!(outcome.stderr, Vec::<String>::new());
    let text = outcome.stdout.join("\n") + "\n";
    let table = text.parse().unwrap_or_else(|error| panic!("{error}: {text}"));
    (text, table)
}

#[test]
fn print_config_prints_an_equivalent_file() {
    let lock = TestLock::shared();
    let unusual = [
        "--port=1234",
        "--listen=127.0.0.1",
        "--listen=[::1]:99",
        "--workers=3",
        "--connection-backlog=77",
        "--idle-timeout=1.5s",
        "--linger-timeout=0",
        "--write-timeout=2m",
        "--max-connections=1000",
        "--max-concurrent-connections=10",
        "--keepalive-delay=30",
        "--buffer-size=64KiB",
        "--idle-message=good bye \"friend\"",
        "--enable-nodelay=false",
        "--enable-send-reset",
        "--graceful-timeout=250ms",
        "--shutdown-delay=1",
        "--worker-timeout=0",
        "--drain-timeout=1h",
        "--cpu-affinity",
        "--allow-shared-port",
        "--pid-file=/tmp/some where.pid",
        "--log-level=warn",
        "--log-format=json",
        "--enable-log-timestamps",
    ];
    for args in [&[][..], &unusual[..]] {
        let (text, table) = printed(lock.launch(args));
        let (_directory, path) = file_with(&text);
        let (_, again) = printed(lock.launch(&["--config", path.to_str().unwrap()]));
        assert_eq!(again, table, "configuration of {args:?}");
    }
}

#[test]
fn the_defaults_are_those_of_the_original() {
    let lock = TestLock::shared();
    let (text, table) = printed(lock.launch(&[]));
    assert_eq!(table["port"].as_integer(), Some(8090), "{text}");
    assert_eq!(table["connection-backlog"].as_integer(), Some(128), "{text}");
    assert_eq!(table["enable-nodelay"].as_bool(), Some(true), "{text}");
    assert_eq!(table["enable-send-reset"].as_bool(), Some(false), "{text}");
    assert_eq!(table["log-level"].as_str().map(str::to_uppercase).as_deref(), Some("INFO"));
    let spelled: toml::Table = "idle-timeout = 10\nlinger-timeout = 10\ngraceful-timeout = 8\n\
         write-timeout = 60\nworker-timeout = 30\ndrain-timeout = 3600\nbuffer-size = 262144\n"
        .parse()
        .unwrap();
    let (_directory, path) = file_with(&spelled.to_string());
    let same = printed(lock.launch(&["--config", path.to_str().unwrap()]));
    assert_eq!(same.1, table, "spelled out, the defaults are the defaults");
}

#[test]
fn the_command_line_beats_the_environment_beats_the_file_beats_the_default() {
    let lock = TestLock::shared();
    let (_directory, path) =
        file_with("port = 1001\nworkers = 11\nconnection-backlog = 21\nidle-timeout = \"31s\"\n");
    let launch = lock.launch(&["--port", "1003"]);
    let launch = launch.env("TCP_ECHO_PORT", "1002").env("TCP_ECHO_WORKERS", "12");
    let (text, table) = printed(launch.env("TCP_ECHO_CONFIG", path.to_str().unwrap()));
    assert_eq!(table["port"].as_integer(), Some(1003), "command line: {text}");
    assert_eq!(table["workers"].as_integer(), Some(12), "environment: {text}");
    assert_eq!(table["connection-backlog"].as_integer(), Some(21), "file: {text}");
    let by_flag = printed(lock.launch(&["--idle-timeout", "31"])).1;
    assert_eq!(table["idle-timeout"], by_flag["idle-timeout"], "file: {text}");
    assert_eq!(table["enable-nodelay"].as_bool(), Some(true), "default: {text}");
}

#[test]
fn environment_and_file_suffice_to_configure_a_server() {
    let lock = TestLock::shared();
    let (_directory, path) = file_with("workers = 3\nidle-timeout = 60\n");
    let launch = lock.launch(&["--config", path.to_str().unwrap()]);
    let server = launch.env("TCP_ECHO_LISTEN", "127.0.0.1:0,127.0.0.2:0").start();
    assert_eq!(server.workers().len(), 3);
    assert_eq!(server.addresses().len(), 2);
    server.assert_echoes();
    server.stop();
}

#[test]
fn help_fits_two_screens_and_lists_every_option() {
    let lock = TestLock::shared();
    let outcome = lock.launch(&["--help"]).run();
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(outcome.stdout.len() <= 80, "{} lines", outcome.stdout.len());
    let text = outcome.stdout.join("\n");
    let flags = "--port --listen --workers --connection-backlog --idle-timeout --linger-timeout \
        --write-timeout --max-connections --max-concurrent-connections --keepalive-delay \
        --buffer-size --idle-message --enable-nodelay --enable-send-reset --graceful-timeout \
        --shutdown-delay --worker-timeout --drain-timeout --cpu-affinity --allow-shared-port \
        --daemon --pid-file --log-level --log-format --enable-log-timestamps --config \
        --check-config --print-config --help --version";
    for flag in flags.split_whitespace() {
        assert!(text.contains(flag), "{flag} is not in the help");
    }
    assert!(!text.contains("--fault"), "the test hook is hidden");
    let widest = outcome.stdout.iter().map(|line| line.chars().count()).max().unwrap();
    assert!(widest <= 120, "the widest line has {widest} characters");
}

#[test]
fn version_prints_the_name_and_the_version() {
    let lock = TestLock::shared();
    let outcome = lock.launch(&["--version"]).run();
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert_eq!(outcome.stdout, [concat!("tcp-echo ", env!("CARGO_PKG_VERSION"))]);
}
