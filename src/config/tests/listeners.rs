//! Tests of listeners: both forms, their errors, and that what is written is read back.

use super::*;

#[test]
fn both_forms_mean_the_same() {
    let (_file, path) = file(
        "workers = 1\n\
         idle-timeout = 7\n\
         [[listener]]\n\
         address = \"*:8002\"\n\
         prefix = \"{hostname}, 100% \"\n\
         quit = true\n\
         service = \"lines\"\n\
         idle-timeout = 1.5\n\
         buffer-size = 0x2000\n\
         [[listener]]\n\
         address = \"[::1]\"\n",
    );
    let table = load(&format!("--config {path}"));
    let url = "lines://*:8002?prefix={hostname}%2C%20100%25%20&quit=yes&idle-timeout=1500ms\
               &buffer-size=8K";
    let line = format!("--workers 1 --idle-timeout 7 --listen {url} --listen [::1]");
    let listen = load(&line).listen;
    assert_eq!(table.listen, listen);
    assert_eq!(listen.listeners.len(), 2);
    let in_file = format!("workers = 1\nidle-timeout = 7\nlisten = [\"{url}\", \"[::1]\"]");
    let (_file, path) = file(&in_file);
    assert_eq!(load(&format!("--config {path}")), table);
    let list = format!("{url}, [::1]");
    let variables = [("TCP_ECHO_LISTEN", list.as_str()), ("TCP_ECHO_IDLE_TIMEOUT", "7")];
    assert_eq!(load_with("--workers 1", &variables), table);
}

#[test]
fn a_file_has_one_of_both_forms() {
    for (text, message) in [
        ("listen = \"*\"\n[[listener]]\naddress = \"*\"", {
            ":2: listener: line 1 has 'listen'; use one of them"
        }),
        ("listener = [{ address = \"*\" }]\nlisten = []", {
            ":2: listen: line 1 has 'listener'; use one of them"
        }),
    ] {
        let (_file, path) = file(text);
        assert_eq!(error(&format!("--config {path}")), format!("{path}{message}"));
    }
    let (_file, path) = file("[[listener]]\naddress = \"*:1\"");
    let config = load(&format!("--config {path} --listen *:2"));
    assert_eq!(config.listen.listeners.len(), 1);
    assert_eq!(config.listen.listeners[0].endpoint.address.port(), 2);
}

#[test]
fn an_error_of_the_file_names_line_and_key() {
    for (text, message) in [
        ("listener = 1", ":1: listener: found integer 1, expected tables: [[listener]]"),
        ("[listener]\naddress = \"*\"", {
            ":1: listener: found table, expected tables: [[listener]]"
        }),
        ("\nlistener = [\"*\"]", ":2: listener: found string \"*\", expected tables: [[listener]]"),
        ("\nlistener = []", ":2: listener: the list is empty; leave it out to listen on *"),
        ("\n[[listener]]\nquit = true", ":2: listener: key 'address' is missing"),
        ("[[listener]]\naddress = 1", {
            ":2: listener.address: found integer 1, expected a string"
        }),
        ("[[listener]]\n\naddress = \"x\"", {
            ":3: listener.address: 'x' is a host name, and host names are not resolved; use an address \
             such as 127.0.0.1, or * for all"
        }),
        ("[[listener]]\naddress = \"*\"\nservice = \"lin\"", {
            ":3: listener.service: 'lin' is not a service; services are echo, discard, chargen, \
             daytime, time, lines, whoami, foo; did you mean 'lines'?"
        }),
        ("[[listener]]\nidle-timeout = \"x\"\naddress = \"*\"", {
            ":2: listener.idle-timeout: 'x' is not a duration such as 10, 1.5s, 250ms, 2m or 1h"
        }),
        ("[[listener]]\nquit = 1\nprefix = 1\naddress = \"*\"", {
            ":2: listener.quit: found integer 1, expected true or false"
        }),
        ("[[listener]]\naddress = \"*\"\nprefix = \"{\"", {
            ":3: listener.prefix: '{' has a { without } (literal braces are {{ and }})"
        }),
        ("[[listener]]\naddress = \"*\"\nworkers = 1", {
            ":3: listener: 'workers' is not a key of a listener; move it above the first \
             [[listener]]"
        }),
        ("[[listener]]\naddress = \"*:1\"\n\n[[listener]]\naddress = \"*:1\"", {
            ":4: listener: *:1 is listed twice"
        }),
        ("listners = 1", ":1: unknown key 'listners'; did you mean 'listener'?"),
        ("prefix = \"x\"", ":1: unknown key 'prefix'"),
        ("listen = [\n\"*:1\",\n\"*:2?splice=\"]", {
            ":1: listen: '*:2?splice=': splice: '' is not auto or off"
        }),
    ] {
        let (_file, path) = file(text);
        assert_eq!(error(&format!("--config {path}")), format!("{path}{message}"), "{text}");
    }
    for (text, message) in [
        ("[[listener]]\naddress = \"*\"\nservice = \"lines\"\nprefx = 1", {
            ":4: listener: unknown key 'prefx'; 'lines' has prefix, quit, max-line, idle-timeout, "
        }),
        // Only the last layer decides the service.
        ("[[listener]]\naddress = \"*:1\"\n[[listener]]\naddress = \"*:2\"\nquit = true", {
            ":3: listener: '*:2?quit=true': unknown key 'quit'; 'echo' has idle-timeout, "
        }),
    ] {
        let (_file, path) = file(text);
        let error = error(&format!("--config {path}"));
        assert!(error.starts_with(&format!("{path}{message}")), "{error}");
    }
}

#[test]
fn an_error_of_the_command_line_names_listener_and_key() {
    let keys = "prefix, quit, max-line, idle-timeout, idle-message, enable-send-reset, \
                write-timeout, linger-timeout, keepalive-delay, enable-nodelay, buffer-size, splice";
    let wrong = "lines://*:7?prefx=x";
    let reason = format!("unknown key 'prefx'; 'lines' has {keys}; did you mean 'prefix'?");
    assert_eq!(
        error(&format!("--listen {wrong}")),
        format!("invalid value '{wrong}' for '--listen <ADDR[:PORT]>': {reason} (see --help)")
    );
    assert_eq!(
        error(&format!("--listen *:1,{wrong}")),
        format!(
            "invalid value '*:1,{wrong}' for '--listen <ADDR[:PORT]>': '{wrong}': {reason} \
             (see --help)"
        )
    );
    assert_eq!(
        error_with("", &[("TCP_ECHO_LISTEN", wrong)]),
        format!("invalid value '{wrong}' for 'TCP_ECHO_LISTEN': {reason}")
    );
    let message = error("--service foo --listen *:1 --listen *:2?quit=1");
    let expected = "--listen: '*:2?quit=true': unknown key 'quit'; 'foo' has idle-timeout, ";
    assert!(message.starts_with(expected), "{message}");
    let message = error("--service fooo");
    let expected = "invalid value 'fooo' for '--service <NAME>': 'fooo' is not a service; ";
    assert!(message.starts_with(expected), "{message}");
}

#[test]
fn a_template_keeps_the_name_of_a_variable_and_not_its_value() {
    // The variable exists wherever the tests run.
    assert!(std::env::var("PATH").is_ok_and(|value| !value.is_empty()));
    let cli = parse_with("--listen lines://*?prefix={env:PATH}", &[]).expect("valid");
    let printed = print::effective(&cli.layers).expect("valid");
    assert!(printed.contains("listen = [\"lines://*?prefix={env:PATH}\"]"), "{printed}");
    let config = Config::load(&cli.layers).expect("valid");
    assert!(config.settings.to_file().contains("{env:PATH}"));
    let value = std::env::var("PATH").expect("checked above");
    assert!(!format!("{config:?}{printed}").contains(&value));
}

#[test]
fn a_former_configuration_has_the_listeners_that_it_had() {
    // As versions without services wrote it.
    let text = "port = 8090\nlisten = [\"*\", \"1.2.3.4:5\"]\nidle-timeout = \"3s\"\n";
    let former = Config::restore(text, &[]).expect("valid");
    let names: Vec<_> = former.listen.endpoints().map(|endpoint| endpoint.to_string()).collect();
    assert_eq!(names, ["[::]:8090", "1.2.3.4:5"]);
    for listener in &former.listen.listeners {
        assert_eq!(listener.service.name, ServiceName::Echo);
        assert_eq!(listener.connection, former.connection);
    }
    let error = Config::restore("\nlisten = \"x\"", &[]).expect_err("invalid").to_string();
    assert!(error.starts_with("former configuration:2: listen: 'x' is a host name"), "{error}");
}

/// Returns the URL of a listener with these values.
fn url(service: &str, port: u16, values: &[(&str, String)]) -> String {
    let encode = |text: &str| text.bytes().map(|byte| format!("%{byte:02x}")).collect::<String>();
    let pairs: Vec<_> =
        values.iter().map(|(key, value)| format!("{key}={}", encode(value))).collect();
    format!("{service}127.0.0.1:{port}?{}", pairs.join("&"))
}

proptest! {
    #[test]
    fn printed_listeners_are_read_back_and_printed_alike(
        prefix in r"(?s).{0,10}",
        message in r"(?s).{0,20}",
        idle in 0..100_000_u64,
        quit: bool,
        splice: bool,
        named: bool,
    ) {
        let lines = [
            ("idle-message", message),
            ("prefix", format!("{}{{pid}}", prefix.replace('{', "{{").replace('}', "}}"))),
            ("quit", quit.to_string()),
        ];
        let echo = [
            ("splice", (if splice { "auto" } else { "off" }).to_owned()),
            ("idle-timeout", format!("{idle}ms")),
        ];
        let arguments = [
            format!("--listen={}", url(if named { "lines://" } else { "" }, 1, &lines)),
            format!("--listen={}", url("echo://", 2, &echo)),
            "--service=lines".to_owned(),
        ];
        let cli = Cli::parse_from(arguments.map(OsString::from).into(), |_| None).expect("valid");
        let printed = print::effective(&cli.layers).expect("valid");
        let (_file, path) = file(&printed);
        let config = Config::load(&cli.layers).expect("valid");
        let from_file = parse_with(&format!("--config {path}"), &[]).expect("valid").layers;
        prop_assert_eq!(&Config::load(&from_file).expect("valid"), &config);
        let values = |text: &str| {
            let lines = text.lines().map(|line| line.split("  #").next().map(str::to_owned));
            lines.collect::<Vec<_>>()
        };
        prop_assert_eq!(values(&print::effective(&from_file).expect("valid")), values(&printed));
        let text = config.settings.to_file();
        prop_assert_eq!(Config::restore(&text, &[]).expect("valid"), config);
    }

    #[test]
    fn no_table_panics_and_no_error_has_two_lines(
        text in r#"(?s)(\[\[listener\]\]\n(address = "\*"\n)?([a-z-]{0,12} = .{0,10}\n)?){0,2}.{0,10}"#,
        key in proptest::sample::select(vec!["address", "service", "quit", "prefix", "splice"]),
        value in r#"("[a-z{}*:]{0,8}"|true|[0-9]{1,3}|\[\]|\{\})"#,
    ) {
        for text in [&text, &format!("[[listener]]\naddress = \"*\"\n{key} = {value}\n")] {
            let (_file, path) = file(text);
            let layers = Layers { file: Some(path.into()), ..Layers::default() };
            if let Err(error) = Config::load(&layers) {
                prop_assert!(!error.to_string().contains('\n'), "{}", error);
            }
        }
    }
}
