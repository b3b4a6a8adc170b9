//! Routes of the admin process: responses, formats, health, and bound addresses.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::Command;

use nix::sys::signal::Signal;

use super::support::http::{Http, admin_of, admin_pid, admin_pids, ask, get};
use super::support::operations::send_signal;
use super::support::{SOON, TestLock, lack, ms, proc, secs, wait_for, wait_until};

#[test]
fn every_route_answers() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "2", "--admin", "0"]);
    let address = admin_of(&server);
    assert!(address.ip().is_loopback(), "a port alone is for this machine only");
    server.assert_echoes();
    let mut http = Http::connect(address);
    for path in ["/healthz", "/health", "/heartbeat"] {
        assert_eq!((http.get(path).status, &*http.get(path).body), (200, "alive\n"), "{path}");
    }
    for path in ["/readyz", "/status", "/readyz?verbose"] {
        assert_eq!((http.get(path).status, &*http.get(path).body), (200, "ready\n"), "{path}");
    }
    wait_until(SOON, "the echo is counted", || {
        let stats = http.get("/stats").json();
        stats["totals"]["bytes_received"] == 1000 && stats["totals"]["connections_active"] == 0
    });
    let stats = http.get("/stats");
    assert_eq!(stats.header("Content-Type"), "application/json");
    assert_eq!(stats.json()["pid"], server.controller());
    assert_eq!(stats.json()["slots"].as_array().unwrap().len(), 2);
    let metrics = http.get("/metrics");
    assert_eq!(metrics.header("Content-Type"), "text/plain; version=0.0.4; charset=utf-8");
    assert!(metrics.body.contains("\n# TYPE tcp_echo_received_bytes_total counter\n"));
    let page = http.get("/");
    assert_eq!(page.header("Content-Type"), "text/html; charset=utf-8");
    assert!(page.header("Content-Security-Policy").starts_with("default-src 'none';"));
    for reply in [stats, metrics, page] {
        assert_eq!(reply.status, 200);
        assert_eq!(reply.header("Cache-Control"), "no-store");
        assert_eq!(reply.header("X-Content-Type-Options"), "nosniff");
    }
    server.stop();
}

#[test]
fn the_metrics_format_follows_the_accept_header() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "1", "--admin", "0"]);
    let mut http = Http::connect(admin_of(&server));
    let mut form = |accept: &str| {
        http.send(format!("GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\n\r\n"));
        let reply = http.reply(false).unwrap();
        assert_eq!(reply.header("Vary"), "Accept");
        let open = reply.header("Content-Type").starts_with("application/openmetrics-text; v");
        assert_eq!(reply.body.ends_with("\n# EOF\n"), open);
        open
    };
    let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,\
                      application/openmetrics-text;version=0.0.1;q=0.4,\
                      text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
    assert!(form(prometheus) && form("application/openmetrics-text"));
    assert!(!form("*/*") && !form("text/html") && !form("application/openmetrics-text;q=0"));
    assert!(!form("application/openmetrics-text;q=0.1, text/plain;q=0.9"));
    server.stop();
}

#[test]
fn methods_paths_and_versions_are_answered_by_the_standard() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "1", "--admin", "0"]);
    let address = admin_of(&server);
    let one = |request: &str| {
        let replies = ask(address, request);
        assert_eq!(replies.len(), 1, "{request:?}: {replies:?}");
        replies.into_iter().next().unwrap()
    };
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW", "TRACE"] {
        let text =
            format!("{method} /stats HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let reply = one(&text);
        assert_eq!((reply.status, reply.header("Allow")), (405, "GET, HEAD"), "{method}");
    }
    let hostile = [
        "/nothing",
        "/..",
        "/../../../../etc/passwd",
        "/%2e%2e/etc/passwd",
        "//stats",
        "/stats/",
        "/STATS",
        "/stats%00",
        "/./stats",
        "/stats\\..\\x",
        "/.git/config",
        "/favicon.ico",
    ];
    for path in hostile {
        let reply =
            one(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"));
        assert_eq!((reply.status, &*reply.body), (404, "404 Not Found\n"), "{path}");
    }
    for (request, status) in [
        (
            "GET http://localhost:80/readyz?x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
            200,
        ),
        ("OPTIONS * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 405),
        ("GET * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 400),
        ("CONNECT a:1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 405),
        ("GET /stats HTTP/1.1\r\n\r\n", 400),
        ("GET /stats\r\n\r\n", 400),
        ("GET / HTTP/2.0\r\n\r\n", 505),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        ("GET /stats HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nGET", 413),
        ("POST /stats HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nx=1", 405),
        (
            "GET /stats HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
    ] {
        let reply = one(request);
        assert_eq!((reply.status, reply.header("Connection")), (status, "close"), "{request:?}");
    }
    server.stop();
}

#[test]
fn keep_alive_follows_the_request() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "1", "--admin", "0"]);
    let address = admin_of(&server);
    let mut http = Http::connect(address);
    let length = http.get("/").body.len();
    http.send("HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let head = http.reply(true).unwrap();
    assert_eq!((head.status, head.header("Content-Length")), (200, &*length.to_string()));
    assert_eq!(http.get("/healthz").status, 200, "no body has followed");
    // In pieces, and more than one in a piece.
    for piece in [
        "GET /heal",
        "thz HTTP/1.1\r",
        "\nHost: localhost\r\n\r\nGET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\nGET",
    ] {
        http.send(piece);
        std::thread::sleep(ms(20));
    }
    assert_eq!(http.reply(false).unwrap().body, "alive\n");
    assert_eq!(http.reply(false).unwrap().body, "ready\n");
    http.send(" /nothing HTTP/1.0\r\n\r\n");
    let last = http.reply(false).unwrap();
    assert_eq!((last.status, last.header("Connection")), (404, "close"), "HTTP/1.0 ends");
    http.expect_end();
    let mut old = Http::connect(address);
    for _ in 0..3 {
        old.send("GET /healthz HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n");
        assert_eq!(old.reply(false).unwrap().header("Connection"), "keep-alive");
    }
    let many = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(100);
    let replies = ask(address, &many);
    assert_eq!(replies.len(), 16, "16 replies");
    assert!(replies[..15].iter().all(|reply| reply.header("Connection").is_empty()));
    assert_eq!(replies[15].header("Connection"), "close");
    server.stop();
}

#[test]
fn readiness_follows_the_workers() {
    let lock = TestLock::shared();
    let args = ["--workers", "2", "--admin", "0", "--min-healthy", "2", "--shutdown-delay", "2s"];
    let mut server = lock.start(&args);
    let address = admin_of(&server);
    assert_eq!(get(address, "/readyz").status, 200);
    let stopped = server.worker();
    send_signal(stopped, Signal::SIGSTOP);
    wait_until(SOON, "one of two is too few", || get(address, "/readyz").status == 503);
    assert_eq!(get(address, "/readyz").body, "1 of 2 workers are healthy, 2 needed\n");
    assert_eq!(get(address, "/healthz").status, 200);
    send_signal(stopped, Signal::SIGCONT);
    wait_until(SOON, "two of two", || get(address, "/readyz").status == 200);
    server.signal(Signal::SIGTERM);
    wait_until(SOON, "it drains", || get(address, "/readyz").status == 503);
    assert_eq!(get(address, "/readyz").body, "draining\n");
    assert_eq!(get(address, "/healthz").status, 200);
    server.assert_echoes();
    assert_eq!(server.wait_exit(SOON), Some(0));
}

#[test]
fn during_startup_the_daemon_is_alive_and_not_ready() {
    let lock = TestLock::shared();
    let mut server = lock
        .launch(&["--workers", "2", "--admin", "0", "--fault", "hang-at-boot:0"])
        .start_unready();
    let address = admin_of(&server);
    assert_eq!(get(address, "/readyz").body, "starting\n");
    assert_eq!(get(address, "/healthz").status, 200);
    server.signal(Signal::SIGTERM);
    server.signal(Signal::SIGTERM);
    wait_for(secs(12), "the end", || server.exit_code());
}

#[test]
fn liveness_fails_for_a_stopped_controller() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "1", "--admin", "0"]);
    let address = admin_of(&server);
    server.signal(Signal::SIGSTOP);
    server.assert_echoes();
    wait_until(secs(14), "the silence is noticed", || get(address, "/healthz").status == 503);
    server.signal(Signal::SIGCONT);
    wait_until(SOON, "and its end", || get(address, "/healthz").status == 200);
    server.stop();
}

#[test]
fn a_unix_socket_serves_the_same_routes() {
    let lock = TestLock::shared();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("admin");
    let unix_address = format!("unix:{}", path.display());
    let args = ["--workers", "1", "--admin", &unix_address];
    let mut server = lock.start(&args);
    let connect = || {
        let stream = wait_for(SOON, "it answers", || UnixStream::connect(&path).ok());
        stream.set_read_timeout(Some(secs(10))).unwrap();
        Http::over(stream)
    };
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    let mut http = connect();
    assert_eq!(
        (http.get("/readyz").status, http.get("/stats").json()["ready"] == true),
        (200, true)
    );
    assert_eq!(http.get("/metrics").status, 200);
    let second = lock.launch(&["--port", "0", "--workers", "1", "--admin", &unix_address]).run();
    second.assert_one_line(1, &[&unix_address, "--admin", "address already in use"]);
    assert_eq!(connect().get("/readyz").status, 200, "the first one has not noticed");
    server.signal(Signal::SIGKILL);
    server.wait_exit(SOON);
    wait_until(SOON, "all are gone", || server.family().is_empty());
    assert!(path.exists(), "no process was left to remove it");
    let again = lock.start(&args);
    assert_eq!(connect().get("/readyz").status, 200, "a stale one is replaced");
    again.stop();
    assert!(!path.exists(), "removed at the end");
    drop(server);
}

#[test]
fn an_unavailable_address_is_reported_in_one_line() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "1", "--admin", "0"]);
    let taken = admin_of(&server).to_string();
    let refused = |admin: &str, reason: &str| {
        let outcome = lock.launch(&["--port", "0", "--workers", "1", "--admin", admin]).run();
        outcome.assert_one_line(1, &[&format!("cannot listen on {admin} (--admin): {reason}")]);
    };
    refused(&taken, "address already in use");
    refused(
        &server.address().to_string().replace("0.0.0.0", "127.0.0.1"),
        "address already in use",
    );
    refused("192.0.2.1:80", "no interface of this host has this address");
    refused("unix:/nowhere/at/all", "no such file or directory");
    assert_eq!(get(admin_of(&server), "/readyz").status, 200);
    server.stop();
}

#[test]
fn the_admin_process_holds_no_listener_of_workers() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "3", "--admin", "0"]);
    let (address, pid) = (admin_of(&server), admin_pid(&server));
    assert_eq!(proc::command_line(pid), "tcp-echo[admin]");
    let listens_at = |pid| -> Vec<SocketAddr> {
        proc::listeners_of(pid).into_iter().map(|one| one.local).collect()
    };
    assert_eq!(listens_at(pid), [address], "none of the echo's listeners");
    let workers = server.workers();
    assert_eq!(workers.len(), 3);
    for worker in workers.into_values() {
        assert_eq!(listens_at(worker), server.addresses(), "none of the admin's");
    }
    // The first admin process is forked before any worker.
    send_signal(pid, Signal::SIGKILL);
    let pid = wait_for(SOON, "a new admin process", || {
        admin_pids(&server).into_iter().find(|one| *one != pid)
    });
    wait_until(SOON, "it answers", || get(address, "/readyz").status == 200);
    assert_eq!(listens_at(pid), [address], "none of the echo's listeners, either");
    assert_eq!(fs::read_dir(format!("/proc/{pid}/task")).unwrap().count(), 1, "one thread");
    let curl = Command::new("curl").args(["-sf", &format!("http://{address}/readyz")]).output();
    match curl {
        Ok(output) => assert_eq!(String::from_utf8_lossy(&output.stdout), "ready\n", "by curl"),
        Err(_) => lack("curl"),
    }
    server.stop();
}
