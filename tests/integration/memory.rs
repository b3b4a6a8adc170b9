//! Memory: the cost of a connection, and its release after a burst.

use std::net::TcpStream;

use super::support::client::Client;
use super::support::load::in_parallel;
use super::support::{SOON, TestLock, ms, proc, secs, wait_until};

#[test]
fn an_idle_connection_costs_a_worker_at_most_64_bytes() {
    const COUNT: usize = 12_000;
    let lock = TestLock::exclusive();
    let server = lock.start(&["--workers", "1", "--idle-timeout", "10m"]);
    (0..100).for_each(|_| server.assert_echoes());
    let before = proc::anonymous_memory(server.worker());
    let idle: Vec<TcpStream> =
        (0..COUNT).map(|_| TcpStream::connect(server.address()).expect("connection")).collect();
    // Connections are served in order.
    server.assert_echoes();
    let grown = proc::anonymous_memory(server.worker()).saturating_sub(before);
    println!("{COUNT} idle connections: {grown} bytes, {} each", grown / COUNT as u64);
    assert!(grown <= 64 * COUNT as u64, "{} bytes each", grown / COUNT as u64);
    drop(idle);
    server.stop();
}

#[test]
fn memory_of_a_burst_of_stalled_clients_is_released() {
    burst(60);
}

#[test]
fn memory_of_a_few_stalled_clients_is_released() {
    burst(10);
}

fn burst(count: usize) {
    let lock = TestLock::exclusive();
    // Without splice: bytes in pipes are the kernel's.
    let args = ["--workers", "1", "--idle-timeout", "10m", "--splice", "off"];
    let server = lock.start(&args);
    server.assert_echoes();
    let worker = server.worker();
    let before = proc::anonymous_memory(worker);
    let mut clients: Vec<Client> = (0..count).map(|_| server.connect()).collect();
    for client in &mut clients {
        while client.send_until_stalled(ms(20), 1024 * 1024) > 0 {}
    }
    let full = proc::anonymous_memory(worker);
    println!("{before} bytes before, {full} while {count} clients are stalled");
    let least = before + 48 * 1024 * count as u64;
    assert!(full > least, "their bytes wait in the worker: {before} to {full}");
    for client in &mut clients {
        client.expect(client.outstanding());
    }
    let most = before + before / 10 + 256 * 1024;
    wait_until(SOON, "the memory is given back", || proc::anonymous_memory(worker) <= most);
    println!("{} bytes afterwards", proc::anonymous_memory(worker));
    clients.into_iter().for_each(Client::finish);
    server.stop();
}

#[test]
fn alternating_bulk_and_small_messages_come_back_complete() {
    let lock = TestLock::shared();
    for splice in ["auto", "off"] {
        let server = lock.start(&["--workers", "1", "--splice", splice]);
        in_parallel(4, |_| {
            let mut client = server.connect();
            for _ in 0..3 {
                (0..40).for_each(|_| _ = client.echo(256 * 1024));
                (0..40).for_each(|_| _ = client.echo(64));
            }
            client.send_urgent_byte();
            client.echo(100_000);
            client.half_close();
            client.expect(client.outstanding());
            assert_eq!(client.end_within(secs(5)), super::support::client::End::Fin);
        });
        server.stop();
    }
}
