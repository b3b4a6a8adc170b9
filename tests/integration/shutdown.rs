//! Graceful shutdown: transfers complete, stalled clients and hung workers are bounded, and the exit
//! code is 0.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::statistics::{assert_counters_consistent, idle_stats};
use super::support::client::{End, uninterrupted};
use super::support::operations::{assert_no_replacements, send_signal};
use super::support::pattern::Pattern;
use super::support::{
    Client, SOON, Server, TestLock, assert_between, ms, proc, secs, total, wait_until,
};

const TRANSFER: usize = 8 << 20;

/// Sends 8 MiB, reads slowly, and lets `interrupt` happen after the first MiB; everything must come
/// back, and then the FIN.
fn transfer_with(server: &Server, half_close: bool, interrupt: impl FnOnce()) {
    let stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(secs(10))).unwrap();
    stream.set_write_timeout(Some(secs(10))).unwrap();
    let pattern = Pattern::new(8);
    let data = pattern.start(TRANSFER);
    let mut interrupt = Some(interrupt);
    let (mut writer, mut reader) = (&stream, &stream);
    thread::scope(|scope| {
        scope.spawn(move || {
            writer.write_all(&data).expect("the server takes what was begun");
            if half_close {
                writer.shutdown(Shutdown::Write).unwrap();
            }
        });
        let mut chunk = vec![0; 128 * 1024];
        let mut received = 0;
        loop {
            let length = uninterrupted(|| reader.read(&mut chunk)).expect("the echo goes on");
            if length == 0 {
                break;
            }
            pattern.check(received as u64, &chunk[..length]).unwrap();
            received += length;
            if received > 1 << 20 {
                interrupt.take().into_iter().for_each(|interrupt| interrupt());
            }
            // 8 MiB in 64 bites take at least a third of a second.
            thread::sleep(ms(5));
        }
        assert_eq!(received, TRANSFER, "all of it came back");
    });
}

#[test]
fn term_during_a_transfer_loses_nothing() {
    let lock = TestLock::shared();
    for half_close in [true, false] {
        let mut server = lock.start(&["--workers", "2"]);
        let begin = Instant::now();
        transfer_with(&server, half_close, || server.signal(Signal::SIGTERM));
        assert_eq!(server.wait_exit(SOON), Some(0));
        assert!(begin.elapsed() < secs(8), "within the deadline: {:?}", begin.elapsed());
        server.log.join();
        let said = |what: &str| {
            let lines = server.log.with("controller[").into_iter();
            lines.filter(|line| line.text.ends_with(what)).count()
        };
        assert_eq!((said(": draining"), said(": stopped")), (1, 1));
    }
}

#[test]
fn int_to_the_group_drains_like_term() {
    let lock = TestLock::shared();
    for signal in [Signal::SIGINT, Signal::SIGQUIT] {
        let mut server = lock.start(&["--workers", "2"]);
        let workers = server.workers();
        transfer_with(&server, true, || match signal {
            Signal::SIGINT => server.signal_group(signal),
            _ => server.signal(signal),
        });
        assert_eq!(server.wait_exit(SOON), Some(0), "exit code after {signal}");
        assert_no_replacements(&mut server, &workers);
    }
}

#[test]
fn term_to_the_group_loses_nothing() {
    let lock = TestLock::shared();
    let mut server = lock.start(&["--workers", "2"]);
    let workers = server.workers();
    transfer_with(&server, true, || server.signal_group(Signal::SIGTERM));
    assert_eq!(server.wait_exit(SOON), Some(0));
    assert_no_replacements(&mut server, &workers);
}

#[test]
fn idle_clients_get_a_fin_and_the_daemon_exits_when_they_close() {
    let lock = TestLock::shared();
    let mut server = lock.start(&["--workers", "1"]);
    let mut idle = server.connect();
    idle.echo(100);
    let begin = Instant::now();
    server.signal(Signal::SIGTERM);
    idle.expect_fin();
    assert!(begin.elapsed() < secs(2), "the FIN comes at once: {:?}", begin.elapsed());
    drop(idle);
    assert_eq!(server.wait_exit(SOON), Some(0));
    assert!(begin.elapsed() < secs(4), "nothing else is waited for: {:?}", begin.elapsed());
}

#[test]
fn a_drain_sends_neither_an_idle_message_nor_a_reset() {
    let lock = TestLock::shared();
    let idle_closes =
        [vec!["--idle-message", "bye"], vec!["--enable-send-reset"], vec!["--idle-timeout", "0"]];
    for idle_close in idle_closes {
        let args = [&["--workers", "1", "--drain-spread", "0"], &idle_close[..]].concat();
        for signal in [Signal::SIGTERM, Signal::SIGHUP] {
            let server = lock.start(&args);
            let (mut idle, mut silent) = (server.connect(), server.connect());
            idle.echo(100);
            server.signal(signal);
            for client in [&mut idle, &mut silent] {
                let seen = client.read_to_end(SOON);
                assert_eq!(seen, (vec![], End::Fin), "{idle_close:?} {signal}");
            }
            if signal == Signal::SIGHUP {
                drop((idle, silent));
                let snapshot = idle_stats(&server);
                assert_counters_consistent(&snapshot);
                assert_eq!(total(&snapshot, "bytes_injected"), 0, "{idle_close:?}");
                assert_eq!(total(&snapshot, "connections_closed/drain"), 2, "{idle_close:?}");
                server.stop();
            }
        }
    }
}

#[test]
fn without_clients_the_daemon_exits_at_once() {
    let lock = TestLock::shared();
    let mut server = lock.start(&["--workers", "4"]);
    let begin = Instant::now();
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait_exit(SOON), Some(0));
    assert!(begin.elapsed() < secs(2), "{:?}", begin.elapsed());
    server.log.wait_for(SOON, "stopped");
}

/// A client that has sent a lot and reads nothing.
fn stalled_client(server: &Server) -> Client {
    let mut stalled = server.connect();
    stalled.send_until_stalled(ms(200), 64 << 20);
    stalled
}

#[test]
fn a_stalled_client_delays_the_exit_no_longer_than_the_graceful_timeout() {
    let lock = TestLock::shared();
    let args = ["--workers", "2", "--graceful-timeout", "2s"];
    let mut server = lock.start(&args);
    let mut stalled = stalled_client(&server);
    let begin = Instant::now();
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait_exit(secs(6)), Some(0));
    assert_between("time to the end", begin.elapsed(), ms(1500), ms(3500));
    let (_, end) = stalled.read_to_end(secs(2));
    assert_eq!(end, End::Reset, "the deadline resets what is left");
}

#[test]
fn a_second_term_exits_within_a_second() {
    let lock = TestLock::shared();
    let mut server = lock.start(&["--workers", "2", "--graceful-timeout", "60s"]);
    let _deaf = stalled_client(&server);
    server.signal(Signal::SIGTERM);
    server.log.wait_for(SOON, "draining");
    // The stalled client really holds it: that it does not end is what passes the time here.
    thread::sleep(ms(700));
    assert_eq!(server.exit_code(), None, "it still drains");
    let second = Instant::now();
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait_exit(secs(3)), Some(0));
    assert!(second.elapsed() < secs(1), "{:?}", second.elapsed());
}

#[test]
fn the_shutdown_delay_keeps_accepting() {
    let lock = TestLock::shared();
    let mut server = lock.start(&["--workers", "2", "--shutdown-delay", "1s"]);
    let begin = Instant::now();
    server.signal(Signal::SIGTERM);
    server.log.wait_for(SOON, "draining");
    while begin.elapsed() < ms(800) {
        server.assert_echoes();
        thread::sleep(ms(50));
    }
    assert_eq!(server.wait_exit(SOON), Some(0));
    assert_between("time to the end", begin.elapsed(), ms(950), ms(3000));
    assert!(Client::try_connect(server.address()).is_err(), "no socket listens");
}

#[test]
fn queued_connections_are_served_before_the_exit() {
    let lock = TestLock::shared();
    let mut server = lock.start(&["--workers", "2"]);
    let workers: Vec<Pid> = server.workers().into_values().map(Pid::from_raw).collect();
    for &worker in &workers {
        kill(worker, Signal::SIGSTOP).unwrap();
        wait_until(SOON, "the worker stands still", || proc::is_stopped(worker.as_raw()));
    }
    let mut queued: Vec<Client> = (0..40).map(|_| server.connect()).collect();
    queued.iter_mut().for_each(|client| client.send(1000));
    server.signal(Signal::SIGTERM);
    server.log.wait_for(SOON, "draining");
    workers.iter().for_each(|&worker| kill(worker, Signal::SIGCONT).unwrap());
    for client in &mut queued {
        client.expect(1000);
        client.expect_fin();
    }
    drop(queued);
    assert_eq!(server.wait_exit(SOON), Some(0));
}

#[test]
fn a_worker_that_dies_during_the_drain_is_not_replaced() {
    let lock = TestLock::shared();
    let mut server = lock.start(&["--workers", "2", "--graceful-timeout", "5s"]);
    let workers = server.workers();
    // Clients that do not close after the FIN keep both workers alive. The probability that one worker has
    // none of them is 2^-19.
    let mut clients: Vec<Client> = (0..20).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|client| _ = client.echo(100));
    server.signal(Signal::SIGTERM);
    server.log.wait_for(SOON, "draining");
    for &pid in workers.values() {
        send_signal(pid, Signal::SIGKILL);
        wait_until(SOON, "the controller logs its exit", || {
            let ends = server.log.with("signal SIGKILL");
            ends.iter().any(|line| line.number("worker_pid") == Some(i64::from(pid)))
        });
        // A successor would have this long to start.
        thread::sleep(ms(200));
    }
    assert_eq!(server.wait_exit(secs(2)), Some(0));
    assert_no_replacements(&mut server, &workers);
}

#[test]
fn a_hung_worker_delays_the_exit_no_longer_than_the_graceful_timeout() {
    let lock = TestLock::shared();
    let mut server = lock.start(&["--workers", "2", "--graceful-timeout", "1s"]);
    let worker = server.worker();
    kill(Pid::from_raw(worker), Signal::SIGSTOP).unwrap();
    wait_until(SOON, "the worker stands still", || proc::is_stopped(worker));
    let begin = Instant::now();
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait_exit(secs(6)), Some(0));
    assert_between("time to the end", begin.elapsed(), Duration::ZERO, ms(3000));
}

#[test]
fn term_during_startup_exits() {
    let lock = TestLock::shared();
    let args = ["--workers", "2", "--graceful-timeout", "1s", "--fault", "hang-at-boot:1"];
    let mut server = lock.launch(&args).start_unready();
    server.log.wait_for(SOON, "worker ready");
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait_exit(SOON), Some(0));
    server.log.join();
    assert_eq!(server.log.count("serving on"), 0);
}
