//! Tests of the layers and the configuration that they make.

mod command_line;
mod definitions;
mod listeners;
mod values;

use std::ffi::OsString;
use std::io::Write;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::cli::{Cli, EarlyExit};

fn parse_with(line: &str, environment: &[(&str, &str)]) -> Result<Cli, EarlyExit> {
    let arguments = line.split_whitespace().map(OsString::from).collect();
    let find = |name: &str| environment.iter().find(|(key, _)| *key == name);
    Cli::parse_from(arguments, |name| find(name).map(|(_, value)| value.into()))
}

fn load(line: &str) -> Config {
    load_with(line, &[])
}

fn load_with(line: &str, environment: &[(&str, &str)]) -> Config {
    Config::load(&parse_with(line, environment).expect(line).layers).expect(line)
}

/// Returns the error of the command line or of the configuration.
fn error_with(line: &str, environment: &[(&str, &str)]) -> String {
    match parse_with(line, environment) {
        Ok(cli) => Config::load(&cli.layers).expect_err(line).to_string(),
        Err(EarlyExit::Usage(text)) => text,
        Err(EarlyExit::Text(text)) => panic!("{line}: {text}"),
    }
}

fn error(line: &str) -> String {
    error_with(line, &[])
}

fn text(line: &str) -> String {
    match parse_with(line, &[]) {
        Err(EarlyExit::Text(text)) => text,
        other => panic!("{line}: {other:?}"),
    }
}

fn file(text: &str) -> (tempfile::NamedTempFile, String) {
    let mut file = tempfile::NamedTempFile::new().expect("temporary file");
    file.write_all(text.as_bytes()).expect("write");
    let path = file.path().display().to_string();
    (file, path)
}

#[test]
fn the_defaults_are_those_of_the_manual() {
    let config = load("--workers 3");
    let seconds = Duration::from_secs;
    let connection = ConnectionConfig {
        buffer_size: 256 * 1024,
        splice: Splice::Auto,
        idle_timeout: Some(seconds(10)),
        write_timeout: Some(seconds(60)),
        linger_timeout: seconds(10),
        idle_close: IdleClose::Fin,
        idle_message: None,
    };
    assert_eq!(
        config,
        Config {
            listen: ListenConfig {
                listeners: vec![ListenerConfig {
                    endpoint: Endpoint {
                        address: "[::]:8090".parse().expect("an address"),
                        scope: Scope::DualStack,
                    },
                    service: ServiceConfig::new(ServiceName::Echo, &Settings::defaults()),
                    connection: connection.clone(),
                    nodelay: true,
                    keepalive: None,
                }],
                backlog: 128,
                share_port: false,
            },
            fleet: FleetConfig {
                workers: NonZeroU32::new(3).expect("not zero"),
                worker_timeout: Some(seconds(30)),
                graceful_timeout: seconds(8),
                shutdown_delay: seconds(0),
                drain_timeout: seconds(3600),
                drain_spread: seconds(5),
                pin_cpus: false,
                balance: Balance::Hash,
                busy_poll: None,
            },
            connection,
            limits: LimitsConfig { max_connections: None, max_concurrent_connections: None },
            admin: AdminConfig { address: None, hosts: Vec::new(), min_healthy: NonZeroU32::MIN },
            log: LogConfig {
                level: LogLevel::Info,
                format: LogFormat::Text,
                timestamps: false,
                access: AccessLog::Off,
                access_file: None,
                empty: false,
            },
            process: ProcessConfig { daemon: false, pid_file: None, state_file: None },
            faults: vec![],
            settings: config.settings.clone(),
        }
    );
    assert!((1..=1024).contains(&load("").fleet.workers.get()));
}

#[test]
fn every_option_arrives() {
    let config = load(
        "--port 1 --listen 127.0.0.1 --service discard --connection-backlog 2 --allow-shared-port --enable-nodelay=false \
         --keepalive-delay 3 --workers 4 --worker-timeout 0 --graceful-timeout 5 --shutdown-delay 6 \
         --drain-timeout 7 --drain-spread 8 --cpu-affinity --balance least-connections --busy-poll 50 \
         --buffer-size 8K --idle-timeout 0 --write-timeout 0 --linger-timeout 9 \
         --enable-send-reset --idle-message bye --max-connections 10 \
         --max-concurrent-connections 11 --log-level debug --log-format json \
         --enable-log-timestamps --daemon --pid-file p --access-log errors --access-log-file a \
         --log-empty --state-file s --admin 8091 --admin-host a,B.c --admin-host d --min-healthy 2 \
         --splice off --fault hang-at-boot:2",
    );
    let ListenConfig { listeners, backlog, share_port } = config.listen;
    let [listener] = &listeners[..] else { panic!("{listeners:?}") };
    assert_eq!(listener.endpoint.to_string(), "127.0.0.1:1");
    assert_eq!((backlog, share_port, listener.nodelay), (2, true, false));
    let service = ServiceConfig::new(ServiceName::Discard, &config.settings);
    assert_eq!((&listener.service, &listener.connection), (&service, &config.connection));
    assert_eq!(
        listener.keepalive,
        Some(Keepalive { delay: Duration::from_secs(3), give_up: None })
    );

    let fleet = config.fleet;
    assert_eq!((fleet.workers.get(), fleet.worker_timeout, fleet.pin_cpus), (4, None, true));
    let times = [fleet.graceful_timeout, fleet.shutdown_delay, fleet.drain_timeout];
    assert_eq!(times, [5, 6, 7].map(Duration::from_secs));
    assert_eq!(fleet.busy_poll, Some(Duration::from_micros(50)));

    let connection = config.connection;
    assert_eq!((connection.idle_timeout, connection.write_timeout), (None, None));
    assert_eq!((connection.buffer_size, connection.idle_close), (8192, IdleClose::Reset));
    assert_eq!(connection.linger_timeout, Duration::from_secs(9));
    assert_eq!(connection.idle_message.as_deref(), Some("bye"));
    let limits = config.limits;
    assert_eq!(limits.max_connections.map(NonZeroU64::get), Some(10));
    assert_eq!(limits.max_concurrent_connections.map(NonZeroU32::get), Some(11));

    let LogConfig { level, format, timestamps, access, access_file, empty } = config.log;
    assert_eq!((access, access_file, empty), (AccessLog::Errors, Some("a".into()), true));
    assert_eq!((level, format, timestamps), (LogLevel::Debug, LogFormat::Json, true));
    assert_eq!(
        config.process,
        ProcessConfig { daemon: true, pid_file: Some("p".into()), state_file: Some("s".into()) }
    );
    assert_eq!(config.admin.address.map(|it| it.to_string()).as_deref(), Some("127.0.0.1:8091"));
    let hosts: Vec<String> = config.admin.hosts.iter().map(ToString::to_string).collect();
    assert_eq!(hosts, ["a", "b.c", "d"]);
    assert_eq!((config.admin.min_healthy.get(), connection.splice), (2, Splice::Off));
    assert_eq!(config.faults, [Fault::HangAtBoot(2)]);
}

#[test]
fn the_higher_layer_wins() {
    let (_file, path) =
        file("port = 1\nworkers = 1\nidle-message = \"bye\"\nconnection-backlog = 1");
    let set =
        [("TCP_ECHO_CONFIG", path.as_str()), ("TCP_ECHO_WORKERS", "2"), ("TCP_ECHO_PORT", "2")];
    let config = load_with("--port 3 --idle-message=", &set);
    assert_eq!(config.listen.listeners[0].endpoint.address.port(), 3);
    assert_eq!(config.fleet.workers.get(), 2);
    assert_eq!(config.listen.backlog, 1);
    assert_eq!(config.connection.idle_message, None);
}

#[test]
fn addresses_that_overlap_are_blamed_on_their_layer() {
    let message = "*:8090 already covers 0.0.0.0:8090";
    let (_file, path) = file("\nlisten = [\"*\", \"0.0.0.0\"]");
    let in_file = format!("--config {path}");
    let variable = [("TCP_ECHO_LISTEN", "*,0.0.0.0")];
    assert_eq!(error("--listen *,0.0.0.0"), format!("--listen: {message}"));
    assert_eq!(error_with("", &variable), format!("TCP_ECHO_LISTEN: {message}"));
    assert_eq!(error(&in_file), format!("{path}:2: listen: {message}"));
    assert_eq!(error_with(&in_file, &variable), format!("TCP_ECHO_LISTEN: {message}"));
}

#[test]
fn an_empty_list_of_addresses_is_rejected() {
    let message = "the list is empty; leave it out to listen on *";
    let (_file, path) = file("\nlisten = []");
    assert_eq!(error("--listen="), format!("--listen: {message}"));
    assert_eq!(error(&format!("--config {path}")), format!("{path}:2: listen: {message}"));
}

#[test]
fn what_is_printed_says_where_it_is_from() {
    let (_file, path) = file("workers = 1");
    let line = format!("--port 7 --config {path}");
    let cli = parse_with(&line, &[("TCP_ECHO_LISTEN", "[::1],127.0.0.1")]).expect("valid");
    let text = print::effective(&cli.layers).expect("valid");
    for (entry, origin) in [
        ("port = 7 ", "# command line"),
        ("listen = [\"[::1]\", \"127.0.0.1\"] ", "# environment"),
        ("workers = 1 ", "# file"),
        ("idle-timeout = \"10s\" ", "# default"),
    ] {
        let line = text.lines().find(|line| line.starts_with(entry)).expect(entry);
        assert!(line.ends_with(origin), "{line}");
    }
    assert!(print::effective(&parse_with("--listen *,*", &[]).expect("parsed").layers).is_err());
}

proptest! {
    #[test]
    fn what_is_printed_is_read_back(
        port: u16,
        idle in 0..100_000_u64,
        size in 4096..1_000_000_usize,
        limit in 0..=i64::MAX,
        switch: bool,
        message in "(?s)[^\0]{0,20}",
        path in "[^\0]{1,20}",
    ) {
        let arguments = [
            format!("--port={port}"),
            format!("--listen=*,*:{},[::1%3]:{}", port ^ 1, port ^ 2),
            "--admin-host=a,echo.example".into(),
            format!("--idle-timeout={idle}ms"),
            format!("--buffer-size={size}"),
            format!("--max-connections={limit}"),
            format!("--enable-nodelay={switch}"),
            format!("--idle-message={message}"),
            format!("--pid-file={path}"),
        ];
        let cli = Cli::parse_from(arguments.map(OsString::from).into(), |_| None).expect("valid");
        let printed = print::effective(&cli.layers).expect("valid");
        let (_file, path) = file(&printed);
        let config = Config::load(&cli.layers).expect("valid");
        prop_assert_eq!(&load(&format!("--config {path}")), &config);
        let text = config.settings.to_file();
        prop_assert_eq!(Config::restore(&text, &[]).expect("valid"), config);
    }
}
