//! Bulk transfers, whose bytes pass through a pipe.

use nix::errno::Errno;

use super::script::Call::*;
use super::script::refuse_pipes;
use super::world::{World, config};
use crate::config::{ConnectionConfig, Splice};
use crate::daemon::services::Echo;
use crate::daemon::stats::{Field, Reason, Statistics};

/// Bytes of a receive that counts for a bulk transfer.
const LARGE: usize = 64 * 1024;

const AGAIN: Result<usize, Errno> = Err(Errno::EAGAIN);

fn statistics() -> Statistics {
    Statistics::new().expect("memory")
}

fn bulk_config() -> ConnectionConfig {
    ConnectionConfig { buffer_size: 2 * LARGE, splice: Splice::Auto, ..config() }
}

/// A connection whose next receive is spliced.
fn bulk(statistics: &Statistics) -> World<'_, Echo> {
    let mut world = World::new(statistics, &bulk_config(), Echo);
    for _ in 0..8 {
        world.send(LARGE);
    }
    let spliced = |world: &World<'_, Echo>| {
        world.take_calls().iter().any(|call| matches!(call, SpliceFrom(_)))
    };
    assert!(!spliced(&world));
    world
}

#[test]
fn a_bulk_transfer_takes_two_calls_and_no_copy() {
    let statistics = statistics();
    let mut world = bulk(&statistics);
    world.send(LARGE);
    let expected = [SpliceFrom(Ok(LARGE)), SpliceTo(Ok(LARGE)), SpliceFrom(AGAIN)];
    assert_eq!(world.take_calls(), expected);
    world.assert_echoed();
}

#[test]
fn a_short_splice_goes_on_without_an_event() {
    let statistics = statistics();
    let mut world = bulk(&statistics);
    world.socket().splice_limits.extend([1000, 1, 2000]);
    world.send(LARGE);
    world.assert_echoed();
    let calls = world.take_calls();
    let expected = [SpliceTo(Ok(1000)), SpliceTo(Ok(1)), SpliceTo(Ok(2000))];
    assert_eq!(calls[1..4], expected);
    world.send(LARGE);
    let calls = world.take_calls();
    assert_eq!(calls, [Receive(Ok(LARGE)), Send(Ok(LARGE))], "a slow client is served by copying");
    world.assert_echoed();
}

#[test]
fn a_pipe_waits_for_room() {
    let statistics = statistics();
    for room in [0, 1, 5000] {
        let mut world = World::without_room(&statistics, &bulk_config(), Echo);
        world.socket().add_room(8 * LARGE + room);
        for _ in 0..8 {
            world.send(LARGE);
        }
        world.send(LARGE);
        assert_eq!(world.count(Field::Buffered), (LARGE - room) as u64);
        world.take_calls();
        world.run();
        assert_eq!(world.take_calls(), []);
        world.send(10);
        assert!(!world.take_calls().iter().any(|call| matches!(call, Receive(_) | SpliceFrom(_))));
        for _ in 0..3 {
            world.socket().add_room(LARGE / 2);
            world.run();
        }
        world.assert_echoed();
        world.assert_open();
    }
}

#[test]
fn a_client_that_leaves_with_a_full_pipe_frees_it() {
    let statistics = statistics();
    for _ in 0..100 {
        let mut world = World::without_room(&statistics, &bulk_config(), Echo);
        world.socket().add_room(8 * LARGE);
        let before = world.count(Field::Abandoned);
        for _ in 0..9 {
            world.send(LARGE);
        }
        assert_eq!(world.count(Field::Buffered), LARGE as u64);
        world.socket().client_resets();
        world.run();
        world.assert_closed(Reason::ClientReset);
        assert_eq!(world.count(Field::Abandoned) - before, LARGE as u64);
    }
}

#[test]
fn the_end_of_a_bulk_transfer_is_seen() {
    let statistics = statistics();
    let mut world = bulk(&statistics);
    world.socket().client_finishes();
    world.run();
    world.assert_closed(Reason::ClientDone);
    // As splice(2) finds it: before any event has reported it.
    let mut world = bulk(&statistics);
    world.send_quietly(LARGE);
    world.iterate();
    world.socket().client_finishes();
    world.socket().hide_event();
    world.send_quietly(0);
    world.run();
    assert!(world.take_calls().contains(&SpliceFrom(Ok(0))));
    world.assert_closed(Reason::ClientDone);
    world.assert_echoed();
}

#[test]
fn an_urgent_byte_in_a_bulk_transfer_is_echoed_in_its_place() {
    let statistics = statistics();
    for hidden in [false, true] {
        let mut world = bulk(&statistics);
        world.send_quietly(LARGE);
        world.send_urgent();
        if hidden {
            world.socket().hide_event();
        }
        world.send_quietly(LARGE);
        world.run();
        world.assert_echoed();
        world.take_calls();
        world.send(LARGE);
        let calls = world.take_calls();
        assert_eq!(calls[0], SpliceFrom(Ok(LARGE)), "the byte is past");
        world.send_urgent();
        world.socket().client_finishes();
        world.run();
        world.assert_echoed();
        world.assert_closed(Reason::ClientDone);
    }
}

#[test]
fn a_socket_that_cannot_be_spliced_is_copied() {
    let statistics = statistics();
    for errno in [Errno::EINVAL, Errno::ENOSYS, Errno::EPERM, Errno::EACCES, Errno::ENOMEM] {
        let mut world = bulk(&statistics);
        world.socket().fail_at = Some((0, errno));
        world.send(LARGE);
        assert_eq!(
            world.take_calls(),
            [SpliceFrom(Err(errno)), Receive(Ok(LARGE)), Send(Ok(LARGE))]
        );
        world.send(LARGE);
        assert_eq!(world.take_calls(), [Receive(Ok(LARGE)), Send(Ok(LARGE))]);
        world.assert_echoed();
        world.assert_open();
    }
}

#[test]
fn an_error_that_splice_meets_is_the_end() {
    let statistics = statistics();
    for call in [0, 1] {
        let mut world = bulk(&statistics);
        let before = world.count(Field::Abandoned);
        world.socket().fail_at = Some((call, Errno::ECONNRESET));
        world.send(LARGE);
        world.assert_closed(Reason::ClientReset);
        assert_eq!(world.count(Field::Abandoned) - before, call as u64 * LARGE as u64);
    }
}

#[test]
fn without_a_pipe_a_bulk_transfer_is_copied() {
    let statistics = statistics();
    refuse_pipes(true);
    let mut world = bulk(&statistics);
    world.send(LARGE);
    assert_eq!(world.take_calls(), [Receive(Ok(LARGE)), Send(Ok(LARGE))]);
    refuse_pipes(false);
    world.send(LARGE);
    assert!(!world.take_calls().contains(&SpliceFrom(Ok(LARGE))), "not asked for again at once");
    world.connections.housekeeping();
    world.send(LARGE);
    assert!(world.take_calls().contains(&SpliceFrom(Ok(LARGE))));
    world.assert_echoed();
}
