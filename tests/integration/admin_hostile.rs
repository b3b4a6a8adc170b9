//! Hostile clients of the admin process: each is answered or closed, and others are not affected.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use super::support::http::{Http, admin_of, admin_pid, admin_pids, ask, get};
use super::support::load::ping;
use super::support::operations::descriptors_of;
use super::support::pattern::Random;
use super::support::{
    Server, TestLock, assert_between, ms, proc, secs, wait_until, with_background,
};

/// The admin process is still the same one, small, and answers; the daemon echoes.
#[track_caller]
fn assert_unaffected(server: &Server, pid: i32) {
    assert_eq!(admin_pids(server), [pid]);
    let memory = proc::anonymous_memory(pid);
    println!("{} KiB", memory / 1024);
    assert!(memory < 24 << 20, "{memory} bytes");
    assert_eq!(get(admin_of(server), "/readyz").status, 200);
    server.assert_echoes();
}

#[test]
fn garbage_is_rejected() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "1", "--admin", "0"]);
    let (address, pid) = (admin_of(&server), admin_pid(&server));
    let mut random = Random::new(1);
    let mut answers = 0;
    for round in 0..200 {
        let bytes: Vec<u8> = (0..1 + random.below(400)).map(|_| random.below(256) as u8).collect();
        let mut http = Http::connect(address);
        _ = http.stream.write_all(&bytes);
        _ = http.stream.shutdown(Shutdown::Write);
        if let Some(reply) = http.reply(false) {
            assert!(matches!(reply.status, 400 | 505), "{round}: {reply:?}");
            http.expect_end();
            answers += 1;
        }
    }
    println!("{answers} answers to garbage");
    assert!(answers >= 150, "most of it is answered: {answers}");
    for bytes in
        [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], b"\0\0\0\0", b"\r\n\r\n\x01"]
    {
        let replies = ask(address, bytes);
        assert_eq!(replies.iter().map(|reply| reply.status).collect::<Vec<_>>(), [400]);
    }
    assert_unaffected(&server, pid);
    server.stop();
}

#[test]
fn an_endless_request_head_is_rejected() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "1", "--admin", "0"]);
    let (address, pid) = (admin_of(&server), admin_pid(&server));
    let long = "x".repeat(1 << 20);
    for request in [
        format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {long}\r\n\r\n"),
        format!("GET /{long} HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "X: y\r\n".repeat(200_000)),
        long,
    ] {
        let mut http = Http::connect(address);
        // The server may stop reading early; the answer arrives in any case.
        _ = http.stream.write_all(request.as_bytes());
        assert_eq!(http.reply(false).expect("an answer").status, 431);
        http.expect_end();
    }
    assert_unaffected(&server, pid);
    server.stop();
}

#[test]
fn responses_contain_nothing_of_the_request() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "1", "--admin", "0"]);
    let address = admin_of(&server);
    for (path, host) in [
        ("/%0d%0aSet-Cookie:%20evil=1", "localhost"),
        ("/?x=%0d%0aevil:1", "localhost"),
        ("/evil", "localhost"),
        ("/<script>evil</script>", "localhost"),
        ("/", "evil"),
    ] {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nX-Evil: evil\r\nConnection: close\r\n\r\n"
        );
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert!(text.starts_with("HTTP/1.1 ") && !text.contains("vil"), "{path}: {text}");
    }
    for request in [
        "GET /\rx HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: localhost\rX: b\r\n\r\n",
    ] {
        assert_eq!(ask(address, request)[0].status, 400, "{request:?}");
    }
    server.stop();
}

#[test]
fn two_hundred_slow_senders_do_not_delay_others() {
    let lock = TestLock::exclusive();
    let server = lock.start(&["--workers", "2", "--admin", "0"]);
    let (address, pid) = (admin_of(&server), admin_pid(&server));
    let begin = Instant::now();
    let mut slow: Vec<TcpStream> = (0..200).map(|_| TcpStream::connect(address).unwrap()).collect();
    let mut lasted: Vec<Duration> = Vec::new();
    let drip = |slow: &mut Vec<TcpStream>, lasted: &mut Vec<Duration>| {
        slow.retain_mut(|stream| {
            stream.set_nonblocking(true).unwrap();
            let open = stream.write(b"G").is_ok() && !matches!(stream.read(&mut [0]), Ok(0));
            if !open {
                lasted.push(begin.elapsed());
            }
            open
        });
    };
    let (pings, ()) = with_background(
        |_| {
            while !slow.is_empty() && begin.elapsed() < secs(20) {
                drip(&mut slow, &mut lasted);
                thread::sleep(ms(100));
            }
        },
        || {
            let pings = ping(&server, secs(3), ms(5));
            for _ in 0..20 {
                let asked = Instant::now();
                assert_eq!(get(address, "/metrics").status, 200);
                assert!(asked.elapsed() < secs(1), "{:?}", asked.elapsed());
            }
            pings
        },
    );
    println!("{pings:?}");
    assert!(pings.excess() < ms(100), "worst round trip beside 200 that drip: {pings:?}");
    assert_eq!(lasted.len(), 200, "all were sent away");
    lasted.iter().for_each(|&it| assert_between("a slow one lasts", it, secs(4), secs(9)));
    assert_unaffected(&server, pid);
    server.stop();
}

#[test]
fn an_incomplete_request_times_out() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "1", "--admin", "0"]);
    let address = admin_of(&server);
    let begin = Instant::now();
    let mut half = Http::connect(address);
    half.send("GET /stats HTTP/1.1\r\nHo");
    let mut idle = Http::connect(address);
    assert_eq!(idle.get("/healthz").status, 200);
    half.expect_end();
    idle.expect_end();
    assert_between("time until the end", begin.elapsed(), secs(5), secs(8));
    server.stop();
}

#[test]
fn clients_that_do_not_read_use_little_memory() {
    let lock = TestLock::exclusive();
    let server = lock.start(&["--workers", "4", "--admin", "0"]);
    let (address, pid) = (admin_of(&server), admin_pid(&server));
    let many = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(16);
    let stalled: Vec<_> = (0..250)
        .map(|_| {
            let mut stream = TcpStream::connect(address).unwrap();
            _ = stream.write_all(many.as_bytes());
            stream
        })
        .collect();
    thread::sleep(ms(500));
    let memory = proc::anonymous_memory(pid);
    println!("{} KiB with {} that do not read", memory / 1024, stalled.len());
    assert!(memory < 100 << 20, "{memory} bytes");
    server.assert_echoes();
    assert_eq!(get(address, "/readyz").status, 200);
    wait_until(secs(12), "they are given up", || {
        server.assert_echoes();
        descriptors_of(pid) < 20
    });
    drop(stalled);
    assert_eq!(admin_pids(&server), [pid]);
    server.stop();
}

#[test]
fn many_silent_clients_do_not_block_new_ones() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "1", "--admin", "0"]);
    let (address, pid) = (admin_of(&server), admin_pid(&server));
    let clients: Vec<_> = (0..400).map(|_| TcpStream::connect(address).unwrap()).collect();
    let begin = Instant::now();
    assert_eq!(Http::connect(address).get("/readyz").status, 200);
    assert!(begin.elapsed() < secs(1), "{:?}", begin.elapsed());
    drop(clients);
    assert_unaffected(&server, pid);
    server.stop();
}

#[test]
fn many_slow_keep_alive_clients_do_not_block_new_ones() {
    let lock = TestLock::exclusive();
    let server = lock.start(&["--workers", "1", "--admin", "0"]);
    let (address, pid) = (admin_of(&server), admin_pid(&server));
    let request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let ((), ()) = with_background(
        |over| {
            let mut clients: Vec<TcpStream> = Vec::new();
            while !over.load(Ordering::Relaxed) {
                clients.retain_mut(|stream| stream.write_all(request).is_ok());
                while clients.len() < 300 {
                    clients.push(TcpStream::connect(address).unwrap());
                }
                thread::sleep(ms(500));
            }
        },
        || {
            for _ in 0..30 {
                thread::sleep(ms(100));
                let asked = Instant::now();
                while !is_answered(address) {}
                assert!(asked.elapsed() < secs(1), "{:?}", asked.elapsed());
            }
        },
    );
    assert_unaffected(&server, pid);
    server.stop();
}

/// Sends one request; returns `true` if it was answered. If the test gets no processor between connecting
/// and sending, its connection may be the idlest one and be evicted; only then may the answer be missing.
#[track_caller]
fn is_answered(address: SocketAddr) -> bool {
    let begin = Instant::now();
    let mut http = Http::connect(address);
    let sent = http.stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let hesitated = begin.elapsed();
    let reply = sent.ok().and_then(|()| http.reply(false));
    if let Some(reply) = &reply {
        assert_eq!(reply.status, 200);
    }
    assert!(reply.is_some() || hesitated > ms(10), "no answer, asked after {hesitated:?}");
    reply.is_some()
}
