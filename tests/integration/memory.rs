//! What connections cost, and what a burst leaves behind.

use std::net::TcpStream;

use super::support::client::Client;
use super::support::load::in_parallel;
use super::support::{SOON, Turn, ms, proc, secs, wait_until};

#[test]
fn an_idle_connection_costs_a_worker_at_most_64_bytes() {
    const COUNT: usize = 12_000;
    let turn = Turn::alone();
    let server = turn.start(&["--workers", "1", "--idle-timeout", "10m"]);
    (0..100).for_each(|_| server.assert_echoes());
    let before = proc::anonymous_memory(server.worker());
    let idle: Vec<TcpStream> =
        (0..COUNT).map(|_| TcpStream::connect(server.address()).expect("connection")).collect();
    // Whoever comes last is served last.
    server.assert_echoes();
    let grown = proc::anonymous_memory(server.worker()).saturating_sub(before);
    println!("{COUNT} idle connections: {grown} bytes, {} each", grown / COUNT as u64);
    assert!(grown <= 64 * COUNT as u64, "{} bytes each", grown / COUNT as u64);
    drop(idle);
    server.stop();
}

#[test]
fn what_a_burst_of_deaf_clients_needed_is_given_back() {
    burst(60);
}

#[test]
fn what_a_few_deaf_clients_needed_is_given_back() {
    burst(10);
}

fn burst(count: usize) {
    let turn = Turn::alone();
    // Without splice: bytes in pipes are the kernel's.
    let args = ["--workers", "1", "--idle-timeout", "10m", "--splice", "off"];
    let server = turn.start(&args);
    server.assert_echoes();
    let worker = server.worker();
    let before = proc::anonymous_memory(worker);
    let mut clients: Vec<Client> = (0..count).map(|_| server.connect()).collect();
    for client in &mut clients {
        while client.send_until_stuck(ms(20), 1024 * 1024) > 0 {}
    }
    let full = proc::anonymous_memory(worker);
    println!("{before} bytes before, {full} while {count} clients are deaf");
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
fn bulk_that_turns_small_and_bulk_again_comes_back_whole() {
    let turn = Turn::shared();
    for splice in ["auto", "off"] {
        let server = turn.start(&["--workers", "1", "--splice", splice]);
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
