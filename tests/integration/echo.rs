//! Every byte comes back, in order, and then the FIN: never a reset, whatever the shape of the
//! traffic.

use std::thread;

use super::support::load::{Reads, Writes, exchange, in_parallel};
use super::support::proc;
use super::support::{Turn, ms};

const MIB: usize = 1024 * 1024;

/// Nothing, one byte, the edges of a 16 bit length, and more than fits into all buffers.
const SIZES: [usize; 7] = [0, 1, 65_535, 65_536, 65_537, 5 * MIB, 64 * MIB];

#[test]
fn every_size_comes_back_when_written_at_once() {
    let turn = Turn::shared();
    let server = turn.start(&["--workers", "2"]);
    for size in SIZES {
        exchange(server.address(), size, Writes::AtOnce, Reads::Eager);
    }
    server.stop();
}

#[test]
fn every_size_comes_back_when_written_in_ragged_pieces() {
    let turn = Turn::shared();
    let server = turn.start(&["--workers", "2"]);
    for size in SIZES {
        exchange(server.address(), size, Writes::Ragged, Reads::Eager);
    }
    server.stop();
}

#[test]
fn every_size_comes_back_to_a_slow_reader() {
    let turn = Turn::shared();
    let server = turn.start(&["--workers", "2"]);
    let writes = [Writes::AtOnce, Writes::Ragged];
    in_parallel(SIZES.len(), |index| {
        exchange(server.address(), SIZES[index], writes[index % 2], Reads::Slow);
    });
    server.stop();
}

#[test]
fn every_size_comes_back_through_a_tiny_receive_buffer() {
    let turn = Turn::shared();
    let server = turn.start(&["--workers", "2"]);
    let writes = [Writes::Ragged, Writes::AtOnce];
    in_parallel(SIZES.len(), |index| {
        exchange(server.address(), SIZES[index], writes[index % 2], Reads::TinyBuffer);
    });
    server.stop();
}

#[test]
fn many_small_messages_on_one_connection_come_back_one_by_one() {
    let turn = Turn::shared();
    let server = turn.start(&["--workers", "1"]);
    let mut client = server.connect();
    for length in 1..=1000 {
        client.echo(length);
    }
    client.finish();
    server.stop();
}

#[test]
fn a_small_worker_buffer_changes_nothing_for_large_transfers() {
    let turn = Turn::shared();
    let server = turn.start(&["--workers", "1", "--buffer-size", "4KiB"]);
    exchange(server.address(), 5 * MIB, Writes::AtOnce, Reads::Eager);
    exchange(server.address(), 5 * MIB, Writes::Ragged, Reads::Slow);
    server.stop();
}

#[test]
fn a_half_closed_client_that_reads_late_still_gets_everything() {
    let turn = Turn::shared();
    let server = turn.start(&["--workers", "1"]);
    let mut client = server.connect();
    client.send_until_stuck(ms(200), 64 * MIB);
    client.half_close();
    // The server must hold what it has, with nobody reading and nobody writing.
    thread::sleep(ms(500));
    client.expect(client.outstanding());
    client.expect_fin();
    server.stop();
}

#[test]
fn an_urgent_byte_in_mid_stream_comes_back_in_line_and_nothing_stalls() {
    let turn = Turn::shared();
    let server = turn.start(&["--workers", "1"]);
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
fn an_abrupt_reset_hurts_nobody_else() {
    let turn = Turn::shared();
    let server = turn.start(&["--workers", "1"]);
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
fn a_client_that_closes_without_reading_hurts_nobody_else() {
    let turn = Turn::shared();
    let server = turn.start(&["--workers", "1"]);
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
