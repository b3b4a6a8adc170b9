//! The echo: every byte comes back in order, and then a FIN.

use std::thread;

use super::support::load::{Reads, Writes, exchange, in_parallel};
use super::support::proc;
use super::support::{TestLock, ms};

const MIB: usize = 1024 * 1024;

/// Nothing, one byte, the edges of a 16 bit length, and more than fits into all buffers.
const SIZES: [usize; 7] = [0, 1, 65_535, 65_536, 65_537, 5 * MIB, 64 * MIB];

#[test]
fn every_size_comes_back_when_written_at_once() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "2"]);
    for size in SIZES {
        exchange(server.address(), size, Writes::AtOnce, Reads::Eager);
    }
    server.stop();
}

#[test]
fn every_size_comes_back_when_written_in_ragged_pieces() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "2"]);
    for size in SIZES {
        exchange(server.address(), size, Writes::Ragged, Reads::Eager);
    }
    server.stop();
}

#[test]
fn every_size_comes_back_to_a_slow_reader() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "2"]);
    let writes = [Writes::AtOnce, Writes::Ragged];
    in_parallel(SIZES.len(), |index| {
        exchange(server.address(), SIZES[index], writes[index % 2], Reads::Slow);
    });
    server.stop();
}

#[test]
fn every_size_comes_back_through_a_tiny_receive_buffer() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "2"]);
    let writes = [Writes::Ragged, Writes::AtOnce];
    in_parallel(SIZES.len(), |index| {
        exchange(server.address(), SIZES[index], writes[index % 2], Reads::TinyBuffer);
    });
    server.stop();
}

#[test]
fn small_messages_come_back_one_by_one() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "1"]);
    let mut client = server.connect();
    for length in 1..=1000 {
        client.echo(length);
    }
    client.finish();
    server.stop();
}

#[test]
fn large_transfers_work_with_a_small_worker_buffer() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "1", "--buffer-size", "4KiB"]);
    exchange(server.address(), 5 * MIB, Writes::AtOnce, Reads::Eager);
    exchange(server.address(), 5 * MIB, Writes::Ragged, Reads::Slow);
    server.stop();
}

#[test]
fn a_half_closed_client_that_reads_late_receives_everything() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "1"]);
    let mut client = server.connect();
    client.send_until_stalled(ms(200), 64 * MIB);
    client.half_close();
    // The server must keep its data while the client neither reads nor writes.
    thread::sleep(ms(500));
    client.expect(client.outstanding());
    client.expect_fin();
    server.stop();
}

#[test]
fn an_urgent_byte_comes_back_in_order_without_a_stall() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "1"]);
    let mut client = server.connect();
    client.send_urgent_byte();
    client.expect(1);
    for _ in 0..20 {
        client.send(1000);
        client.send_urgent_byte();
        client.send(1000);
        client.expect(2001);
    }
    client.send(300_000);
    client.send_urgent_byte();
    client.half_close();
    client.expect(300_001);
    client.expect_fin();
    server.stop();
}

#[test]
fn a_reset_does_not_affect_others() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "1"]);
    let before = server.workers();
    let mut witness = server.connect();
    for round in 0..50 {
        let mut rude = server.connect();
        rude.send(1 + round * 1000);
        if round % 2 == 0 {
            rude.expect(1);
        }
        rude.reset();
        witness.echo(500);
    }
    witness.finish();
    assert_eq!(server.workers(), before, "no worker was replaced");
    server.stop();
}

#[test]
fn closing_without_reading_does_not_affect_others() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "1"]);
    let worker = server.worker();
    let mut witness = server.connect();
    for _ in 0..20 {
        let mut rude = server.connect();
        rude.send(200_000);
        drop(rude);
        witness.echo(500);
    }
    witness.finish();
    assert!(proc::is_alive(worker), "the worker lives on");
    server.stop();
}
