//! Host names that the admin process accepts, as protection against DNS rebinding.

use std::net::SocketAddr;
use std::os::unix::net::UnixStream;

use super::support::http::{Http, Reply, admin_of, admin_pid, admin_pids, ask};
use super::support::operations::{ConfigFile, reload};
use super::support::{SOON, TestLock, secs, wait_for, wait_until};

const PATHS: [&str; 5] = ["/", "/stats", "/metrics", "/healthz", "/readyz"];

fn get_as(address: SocketAddr, host: &str, path: &str) -> Reply {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    let mut replies = ask(address, request);
    assert_eq!(replies.len(), 1, "{host}: {replies:?}");
    replies.remove(0)
}

#[track_caller]
fn assert_answers_to(address: SocketAddr, hosts: &[&str]) {
    for host in hosts {
        for path in PATHS {
            assert_eq!(get_as(address, host, path).status, 200, "{host} {path}");
        }
    }
}

#[track_caller]
fn assert_refuses(address: SocketAddr, hosts: &[&str]) {
    for host in hosts {
        for path in PATHS {
            let reply = get_as(address, host, path);
            assert_eq!(reply.status, 421, "{host} {path}: {reply:?}");
            let lines: Vec<&str> = reply.body.lines().collect();
            assert!(lines.len() == 1 && lines[0].contains("--admin-host"), "{reply:?}");
        }
    }
}

#[test]
fn a_request_for_another_host_is_rejected() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "1", "--admin", "0"]);
    let address = admin_of(&server);
    let port = address.port();
    let (own, v6) = (address.to_string(), format!("[::1]:{port}"));
    let local = format!("localhost:{port}");
    assert_answers_to(address, &[&own, &v6, &local, "127.0.0.1", "10.0.0.1:80", "LOCALHOST.", ""]);
    let evil = format!("evil.example:{port}");
    assert_refuses(address, &[&evil, "evil.example", "localhost.evil.example", "127.0.0.1.evil"]);
    // The target counts more than the line.
    let evil = "GET http://evil.example/stats HTTP/1.1\r\nHost: localhost\r\nConnection: close";
    let good = "GET http://localhost/stats HTTP/1.1\r\nHost: evil.example\r\nConnection: close";
    for (request, status) in [(evil, 421), (good, 200), ("GET /stats HTTP/1.0", 200)] {
        let replies = ask(address, format!("{request}\r\n\r\n"));
        assert_eq!((replies.len(), replies[0].status), (1, status), "{request}: {replies:?}");
    }
    // A refusal ends nothing.
    let mut http = Http::connect(address);
    http.send("GET /stats HTTP/1.1\r\nHost: evil.example\r\n\r\n");
    assert_eq!(http.reply(false).expect("an answer").status, 421);
    assert_eq!(http.get("/healthz").status, 200);
    server.stop();
}

#[test]
fn names_are_allowed_on_the_command_line_and_in_the_environment() {
    let lock = TestLock::shared();
    let names = ["--admin-host", "echo.example", "--admin-host=b,C.example."];
    let launch = lock.launch(&["--workers", "1", "--admin", "0"]);
    let server = names.into_iter().fold(launch, |launch, arg| launch.arg(arg)).start();
    assert_answers_to(admin_of(&server), &["echo.example", "Echo.Example:8091", "b", "c.example"]);
    assert_refuses(admin_of(&server), &["example", "echo", "a.echo.example", "evil.example"]);
    server.stop();
    let launch = lock.launch(&["--workers", "1", "--admin", "0"]);
    let server = launch.env("TCP_ECHO_ADMIN_HOST", "a, echo.example").start();
    assert_answers_to(admin_of(&server), &["a", "echo.example"]);
    assert_refuses(admin_of(&server), &["b"]);
    server.stop();
    let wrong = lock.launch(&["--admin-host", "echo.example:80"]).run();
    wrong.assert_one_line(2, &["--admin-host", "'echo.example:80' is not a host name"]);
}

#[test]
fn a_reload_changes_the_allowed_names() {
    let lock = TestLock::shared();
    let file = ConfigFile::new("workers = 1\nadmin = 0\nadmin-host = \"a\"\n");
    let server = lock.start(&["--config", file.name()]);
    let address = admin_of(&server);
    assert_answers_to(address, &["a"]);
    let former = admin_pid(&server);
    file.write("workers = 1\nadmin = 0\nadmin-host = [\"b\", \"c\"]\n");
    reload(&server);
    wait_until(
        SOON,
        "a new admin process answers alone",
        || matches!(admin_pids(&server)[..], [pid] if pid != former),
    );
    assert_answers_to(address, &["b", "c", "localhost"]);
    assert_refuses(address, &["a"]);
    server.stop();
}

#[test]
fn a_unix_socket_accepts_every_name() {
    let lock = TestLock::shared();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("admin");
    let unix_address = format!("unix:{}", path.display());
    let server = lock.start(&["--workers", "1", "--admin", &unix_address]);
    let stream = wait_for(SOON, "it answers", || UnixStream::connect(&path).ok());
    stream.set_read_timeout(Some(secs(10))).unwrap();
    let mut http = Http::over(stream);
    http.send("GET /stats HTTP/1.1\r\nHost: whatever\r\n\r\n");
    assert_eq!(http.reply(false).expect("an answer").status, 200);
    server.stop();
}
