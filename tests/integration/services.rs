//! Services other than the echo, and settings of listeners, over real sockets.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use serde_json::Value;

use super::support::operations::{ConfigFile, free_port, refused_reload, reload};
use super::support::{
    Client, End, Launch, SOON, Server, TestLock, ms, secs, stats, total, wait_until,
};

/// Returns the text of a listener: `lines?quit=true` on 127.0.0.1 is `lines://127.0.0.1?quit=true`.
fn at(host: impl std::fmt::Display, service: &str) -> String {
    match service.split_once('?') {
        Some((name, query)) => format!("{name}://{host}?{query}"),
        None => format!("{service}://{host}"),
    }
}

/// Prepares a server with these services, all at one free port of different loopback addresses.
fn launch(lock: &TestLock, services: &[&str]) -> Launch {
    let listeners = (1..).zip(services).map(|(host, it)| at(format!("127.0.0.{host}"), it));
    listeners.fold(lock.launch(&[]), |launch, listener| launch.arg("--listen").arg(&listener))
}

/// Returns the listeners in the order of their services.
fn listeners<const COUNT: usize>(server: &Server) -> [SocketAddr; COUNT] {
    server.addresses().try_into().expect("a listener for each service")
}

/// Sends pieces with a FIN behind them, and returns what comes back until the server's FIN.
#[track_caller]
fn converse(address: SocketAddr, pieces: &[&[u8]]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(secs(10))).expect("a timeout");
    stream.set_nodelay(true).expect("no delay");
    for piece in pieces {
        stream.write_all(piece).expect("sent");
    }
    stream.shutdown(Shutdown::Write).expect("a FIN");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an orderly end");
    answer
}

fn text(address: SocketAddr, input: &str) -> String {
    String::from_utf8(converse(address, &[input.as_bytes()])).expect("text")
}

/// Waits until every connection has ended, and returns the statistics, which must add up.
#[track_caller]
fn settled(server: &Server) -> Value {
    wait_until(SOON, "no connection is open", || total(&stats(server), "connections_active") == 0);
    let snapshot = stats(server);
    let number = |name| total(&snapshot, name);
    assert_eq!(number("bytes_lost"), 0, "{}", snapshot["totals"]);
    let in_and_made = number("bytes_received") + number("bytes_injected");
    let out = number("bytes_consumed") + number("bytes_sent") + number("bytes_abandoned");
    assert_eq!(in_and_made, out, "{}", snapshot["totals"]);
    snapshot
}

#[test]
fn every_service_speaks_its_protocol_beside_the_others() {
    let lock = TestLock::shared();
    let services = [
        "echo",
        "discard",
        "daytime",
        "time",
        "lines?prefix={worker}/{peer_ip}/{local_port}%20{env:POD}{{}}%20&quit=true",
        "whoami",
        "foo",
    ];
    let launch = launch(&lock, &services).arg("--workers").arg("1");
    let server = launch.env("POD", "s3cret").start();
    let [echo, discard, daytime, time, lines, whoami, foo] = listeners(&server);

    assert_eq!(text(echo, "hello"), "hello");
    assert_eq!(text(discard, "hello"), "");
    let date = text(daytime, "ignored");
    let words: Vec<&str> = date.strip_suffix("-UTC\r\n").expect("a line").split(' ').collect();
    assert_eq!(words.len(), 5, "weekday, month, day, year, time: {date}");
    let seconds = converse(time, &[]).try_into().map(u32::from_be_bytes).expect("32 bits");
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("after 1970").as_secs();
    let late = (now + 2_208_988_800) as u32 - seconds;
    assert!(late < 60, "{late} s late");

    let prefix = format!("1/127.0.0.1/{} s3cret{{}} ", lines.port());
    let expected = format!("{prefix}a\n{prefix}\n{prefix}b\n");
    assert_eq!(text(lines, "a\r\n\nb\nquit\nc\n"), expected);
    assert_eq!(text(lines, "a\n\nb"), expected, "the last line is unterminated");

    let block = text(whoami, "");
    let expected = [
        format!("pid: {}\n", server.worker()),
        "worker: 1\n".to_owned(),
        format!("local_ip: 127.0.0.6\nlocal_port: {}\n", whoami.port()),
        "peer_ip: 127.0.0.1\n".to_owned(),
    ];
    for part in expected {
        assert!(block.contains(&part), "{part} in {block}");
    }

    let requests = "REQ 7\nREQ 1 a\r\nFOO 1\nREQ 1 a b\nREQ x\nREQ 2 b\n\nREQ 3 c";
    let answers = "ACK 7 e9a04e52b582eefbbe505d99f0f804f5\n\
                   ACK 1 96d2f54a4e05eb24cb11da9fd78d47ca\n\
                   NAK 0 ERRDECODE\nNAK 0 ERRDECODE\nNAK 0 ERRDECODE\n\
                   NAK 2 2ff45a0a866112db36a3f7322f03ee35\n\
                   NAK 0 ERRDECODE\n\
                   ACK 3 7481eb48fcfc51400e3b7e7b81423103\n";
    assert_eq!(text(foo, requests), answers);
    let bytes: Vec<&[u8]> = requests.as_bytes().chunks(1).collect();
    assert_eq!(converse(foo, &bytes), answers.as_bytes(), "byte by byte");

    let snapshot = settled(&server);
    assert_eq!(total(&snapshot, "bytes_received") - total(&snapshot, "bytes_consumed"), 5);
    assert_eq!(server.log.count("s3cret"), 0, "the environment stays out of the log");
    server.stop();
}

#[test]
fn chargen_sends_as_fast_as_the_client_reads() {
    let lock = TestLock::shared();
    let server = launch(&lock, &["chargen", "echo"]).arg("--workers").arg("1").start();
    let [chargen, echo] = listeners::<2>(&server);
    let line = |number: usize| {
        let characters = (0..72).map(move |column| b' ' + ((number + column) % 95) as u8);
        characters.chain(*b"\r\n")
    };
    let rotation: Vec<u8> = (0..95).flat_map(line).collect();
    let connect = || {
        let stream = TcpStream::connect(chargen).expect("a connection");
        stream.set_read_timeout(Some(secs(10))).expect("a timeout");
        stream
    };
    // These read nothing, and cost the echo nothing.
    let deaf: Vec<TcpStream> = (0..8).map(|_| connect()).collect();
    let mut reader = connect();
    let mut client = Client::connect(echo);
    let mut piece = vec![0; rotation.len()];
    for round in 0..300 {
        reader.read_exact(&mut piece).expect("characters");
        assert!(piece == rotation, "rotation {round}");
        if round % 10 == 0 {
            // Input is discarded.
            reader.write_all(&[b'x'; 1000]).expect("sent");
            client.echo(100);
        }
    }
    reader.shutdown(Shutdown::Write).expect("a FIN");
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest).expect("an orderly end");
    drop(deaf);
    client.finish();
    let snapshot = settled(&server);
    let ends =
        ["client_fin", "reset"].map(|it| total(&snapshot, &format!("connections_closed/{it}")));
    assert_eq!(ends, [10, 0], "an abort is a normal end");
    server.stop();
}

#[test]
fn chargen_ends_with_a_fin_when_the_daemon_stops() {
    let lock = TestLock::shared();
    let mut server = launch(&lock, &["chargen"]).arg("--workers").arg("1").start();
    let [chargen] = listeners(&server);
    let mut client = Client::connect(chargen);
    let mut piece = [0; 10_000];
    Read::read_exact(&mut client.stream(), &mut piece).expect("characters");
    server.signal(nix::sys::signal::Signal::SIGTERM);
    let (rest, end) = client.read_to_end(secs(10));
    assert_eq!(end, End::Fin);
    assert_eq!((piece.len() + rest.len()) % 7030, 0, "whole rotations");
    drop(client);
    assert_eq!(server.wait_exit(secs(5)), Some(0));
}

#[test]
fn a_server_that_ends_first_sends_no_reset_for_input_that_it_does_not_read() {
    let lock = TestLock::shared();
    let server = launch(&lock, &["daytime", "time", "whoami"]).start();
    for address in listeners::<3>(&server) {
        for _ in 0..20 {
            let mut client = Client::connect(address);
            client.send(100_000);
            let (answer, end) = client.read_to_end(secs(5));
            assert_eq!((answer.is_empty(), end), (false, End::Fin), "{address}");
            drop(client);
        }
    }
    let snapshot = settled(&server);
    assert_eq!(total(&snapshot, "connections_closed/answered"), 60);
    server.stop();
}

#[test]
fn discard_takes_everything_and_sends_nothing() {
    let lock = TestLock::shared();
    let server = launch(&lock, &["discard"]).start();
    let [discard] = listeners(&server);
    let megabyte = vec![7; 1 << 20];
    let pieces = vec![&megabyte[..]; 64];
    assert_eq!(converse(discard, &pieces), b"");
    let snapshot = settled(&server);
    assert_eq!(total(&snapshot, "bytes_consumed"), 64 << 20);
    server.stop();
}

#[test]
fn lines_beyond_the_limit_end_only_their_connection() {
    let lock = TestLock::shared();
    let server = launch(&lock, &["lines?max-line=10&prefix=%3E", "foo"]).start();
    let [lines, foo] = listeners(&server);
    let mut other = TcpStream::connect(lines).expect("a connection");
    other.write_all(b"unterm").expect("sent");
    assert_eq!(text(lines, "0123456789\r\n"), ">0123456789\n");
    assert_eq!(text(lines, "a\n0123456789a\nb\n"), ">a\n");
    let answer = text(foo, &format!("REQ 7\nREQ 1 {}\nREQ 7\n", "a".repeat(70_000)));
    assert_eq!(answer, "ACK 7 e9a04e52b582eefbbe505d99f0f804f5\nNAK 0 ERRDECODE\n");
    other.write_all(b"inated\n").expect("sent");
    other.shutdown(Shutdown::Write).expect("a FIN");
    let mut answer = String::new();
    other.read_to_string(&mut answer).expect("an orderly end");
    assert_eq!(answer, "", "a line of 11 bytes");
    settled(&server);
    server.stop();
}

#[test]
fn answers_that_nobody_reads_are_bounded() {
    let lock = TestLock::shared();
    let args = ["--workers", "1", "--write-timeout", "2s"];
    let launch = args.iter().fold(launch(&lock, &["foo", "echo"]), |it, arg| it.arg(arg));
    let server = launch.start();
    let [foo, echo] = listeners(&server);
    let mut deaf = TcpStream::connect(foo).expect("a connection");
    deaf.set_write_timeout(Some(ms(500))).expect("a timeout");
    // Each byte has sixteen bytes of answer, until the windows are full.
    let newlines = vec![b'\n'; 1 << 20];
    while deaf.write_all(&newlines).is_ok() {}
    let buffered = total(&stats(&server), "bytes_buffered");
    assert!((1..=256 * 1024).contains(&buffered), "{buffered} bytes are kept");
    Client::connect(echo).echo(1000);
    wait_until(SOON, "the client is reset", || {
        total(&stats(&server), "connections_closed/write_timeout") == 1
    });
    settled(&server);
    server.stop();
}

#[test]
fn a_listener_has_its_own_timeouts_and_message() {
    let lock = TestLock::shared();
    let services = ["echo?idle-timeout=500ms&idle-message=bye%2C%20bye", "echo", "discard"];
    let launch = launch(&lock, &services).arg("--workers").arg("1");
    let server = launch.arg("--idle-timeout").arg("1m").start();
    let [hasty, patient, discard] = listeners(&server);
    let [mut one, mut two, mut three] = [hasty, patient, discard].map(Client::connect);
    one.echo(10);
    two.echo(10);
    three.send(10);
    let (message, end) = one.read_to_end(secs(5));
    assert_eq!((message.as_slice(), end), (&b"bye, bye"[..], End::Fin));
    two.echo(10);
    assert_eq!(three.end_within(ms(100)), End::Open);
    drop([one, three]);
    two.finish();
    settled(&server);
    server.stop();
}

#[test]
fn a_reload_changes_a_service_for_new_connections_only() {
    let lock = TestLock::shared();
    let (changed, kept) = (free_port(), free_port());
    let text_of = |service: &str, key: &str| {
        format!(
            "workers = 2\nidle-timeout = 60\ndrain-spread = 60\n\
             [[listener]]\naddress = \"127.0.0.1:{changed}\"\nservice = \"{service}\"\n{key}\n\
             [[listener]]\naddress = \"127.0.0.1:{kept}\"\n"
        )
    };
    let file = ConfigFile::new(&text_of("echo", ""));
    let server = lock.start(&["--config", file.name()]);
    let [changed, kept] = [changed, kept].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let mut clients = [changed, kept].map(Client::connect);
    clients.iter_mut().for_each(|client| _ = client.echo(1000));
    file.write(&text_of("lines", "prefix = \"new \""));
    reload(&server);
    wait_until(SOON, "new connections have the new service", || text(changed, "a") == "new a\n");
    assert_eq!(text(kept, "a"), "a");
    clients.iter_mut().for_each(|client| _ = client.echo(1000));

    file.write(&text_of("lines", "prefx = \"new \""));
    let refusal = refused_reload(&server);
    let place = format!("{}:7: listener: unknown key 'prefx'", file.name());
    assert!(refusal.has(&place), "{place} in {refusal:?}");
    file.write(&text_of("lines", "prefix = \"newer \""));
    reload(&server);
    wait_until(SOON, "a setting has changed", || text(changed, "a") == "newer a\n");
    for mut client in clients {
        client.echo(1000);
        client.finish();
    }
    settled(&server);
    server.stop();
}

#[test]
fn a_connection_that_is_handed_off_keeps_its_service() {
    let lock = TestLock::shared();
    let services = ["lines?prefix={worker}:", "echo", "whoami"];
    let args = ["--workers", "3", "--balance", "least-connections"];
    let launch = args.iter().fold(launch(&lock, &services), |it, arg| it.arg(arg));
    let server = launch.start();
    let [lines, echo, whoami] = listeners(&server);
    // Held open, so that loads differ and workers hand connections off.
    let mut held: Vec<Client> = Vec::new();
    let mut workers = std::collections::BTreeSet::new();
    for _ in 0..30 {
        let mut client = Client::connect(echo);
        client.echo(10);
        held.push(client);
        let answer = text(lines, "a");
        let worker = answer.strip_suffix(":a\n").expect("a prefixed line");
        workers.insert(worker.to_owned());
        assert!(text(whoami, "").starts_with("hostname: "));
    }
    assert_eq!(workers.len(), 3, "workers that answered: {workers:?}");
    held.into_iter().for_each(Client::finish);
    settled(&server);
    server.stop();
}

#[test]
fn services_serve_through_a_crash_and_nc() {
    let lock = TestLock::shared();
    let server =
        launch(&lock, &["lines?prefix=%3E%20", "chargen"]).arg("--workers").arg("1").start();
    let [lines, chargen] = listeners(&server);
    let client = Client::connect(chargen);
    Read::read_exact(&mut client.stream(), &mut [0; 1000]).expect("characters");
    let killed = server.worker();
    super::support::operations::send_signal(killed, nix::sys::signal::Signal::SIGKILL);
    wait_until(SOON, "another worker serves", || {
        server.workers().values().any(|&pid| pid != killed)
    });
    let script = format!("printf 'hello\\nworld' | nc -N {} {}", lines.ip(), lines.port());
    let output = std::process::Command::new("sh").args(["-c", &script]).output();
    let output = output.expect("nc is installed");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "> hello\n> world\n");
    drop(client);
    let snapshot = settled(&server);
    assert_eq!(total(&snapshot, "connections_closed/worker_died"), 1);
    server.stop();
}

#[test]
fn invalid_listeners_are_named() {
    let lock = TestLock::shared();
    for (listener, names) in [
        ("ecko://*", &["--listen", "'ecko' is not a service", "did you mean 'echo'"][..]),
        ("lines://*?prefx=a", &["--listen", "unknown key 'prefx'", "did you mean 'prefix'"]),
        ("lines://*?prefix={nobody}", &["--listen", "prefix", "{nobody}"]),
        ("echo://*?idle-timeout=1parsec", &["--listen", "idle-timeout", "1parsec"]),
        ("echo://*?quit=true", &["--listen", "unknown key 'quit'", "'echo' has"]),
    ] {
        lock.launch(&["--listen", listener]).run().assert_one_line(2, names);
    }
    let outcome = lock.launch(&["--service", "smtp"]).run();
    outcome.assert_one_line(2, &["--service", "'smtp' is not a service"]);
}
