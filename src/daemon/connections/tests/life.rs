//! The life of a connection, branch by branch.

use nix::errno::Errno;

use super::script::Call::{self, *};
use super::world::{IDLE, QUIET, World, config};
use crate::daemon::services::{Echo, Io, Service};
use crate::daemon::stats::{Field, Reason, Statistics};

const AGAIN: Result<usize, Errno> = Err(Errno::EAGAIN);

fn statistics() -> Statistics {
    Statistics::new().expect("memory")
}

#[test]
fn an_echo_takes_two_system_calls() {
    let statistics = statistics();
    let mut world = World::new(&statistics, &config(), Echo);
    world.run();
    world.take_calls();
    for _ in 0..3 {
        world.send(5);
        assert_eq!(world.take_calls(), [Receive(Ok(5)), Send(Ok(5))]);
    }
    world.assert_echoed();
    world.assert_open();
}

#[test]
fn a_full_buffer_is_followed_by_another_receive() {
    let statistics = statistics();
    let mut world = World::new(&statistics, &config(), Echo);
    world.send(16);
    assert_eq!(world.take_calls(), [Receive(Ok(16)), Send(Ok(16)), Receive(AGAIN)]);
    world.send_quietly(100);
    world.iterate();
    let two = [Receive(Ok(16)), Send(Ok(16)), Receive(Ok(16)), Send(Ok(16))];
    assert_eq!(world.take_calls(), two, "the budget of an iteration");
    assert!(world.connections.has_work());
    world.run();
    world.assert_echoed();
}

#[test]
fn a_partial_send_at_every_position_keeps_the_remaining_bytes() {
    let statistics = statistics();
    for cut in 0..=16 {
        for step in [1, 3, 16] {
            let mut world = World::without_room(&statistics, &config(), Echo);
            world.socket().add_room(cut);
            world.send(16);
            assert_eq!(world.socket().sent.len(), cut);
            assert_eq!(world.count(Field::Buffered), 16 - cut as u64);
            while world.count(Field::Buffered) > 0 {
                let calls = world.take_calls().len();
                world.run();
                assert!(calls > 0 && world.take_calls().is_empty(), "waits for an event");
                world.socket().add_room(step);
                world.run();
            }
            world.assert_echoed();
            world.assert_open();
        }
    }
}

#[test]
fn nothing_is_received_while_a_write_is_pending() {
    let statistics = statistics();
    let mut world = World::without_room(&statistics, &config(), Echo);
    world.send(10);
    world.take_calls();
    for _ in 0..3 {
        world.send(10);
        assert!(!world.take_calls().iter().any(|call| matches!(call, Receive(_))));
    }
    assert_eq!(world.socket().unread(), 30, "the kernel's window stops the client");
    world.socket().add_room(1000);
    world.run();
    world.assert_echoed();
}

#[test]
fn a_call_that_would_block_waits_for_its_event() {
    let statistics = statistics();
    let mut world = World::new(&statistics, &config(), Echo);
    world.send(5);
    world.take_calls();
    // Two events for one piece of data.
    world.socket().client_sends(&[]);
    world.run();
    assert_eq!(world.take_calls(), [Receive(AGAIN)]);
    world.run();
    assert_eq!(world.take_calls(), []);
    world.send(5);
    world.assert_echoed();
}

/// All that can happen to an echo: a partial send, a pending write, a large input, the client's FIN.
fn busy_life(world: &mut World<'_, Echo>) {
    world.send(5);
    world.send(40);
    for room in [20, 7, 1, 30] {
        world.socket().add_room(room);
        world.run();
    }
    world.socket().add_room(1000);
    world.send(3);
    world.socket().client_finishes();
    world.run();
}

#[test]
fn an_interruption_of_any_call_changes_nothing() {
    let statistics = statistics();
    for call in 0.. {
        let mut world = World::without_room(&statistics, &config(), Echo);
        world.socket().fail_at = Some((call, Errno::EINTR));
        busy_life(&mut world);
        world.assert_echoed();
        world.assert_closed(Reason::ClientDone);
        if call > world.socket().calls.len() {
            return assert!(call > 15, "{call} calls were interrupted");
        }
    }
}

#[test]
fn an_interrupted_send_is_repeated_at_once() {
    let statistics = statistics();
    // The answer itself, and then the pending write.
    for room in [100, 0] {
        let mut world = World::without_room(&statistics, &config(), Echo);
        world.socket().add_room(room);
        world.run();
        world.socket().fail_at = Some((1 + usize::from(room == 0), Errno::EINTR));
        world.send(5);
        world.socket().add_room(100);
        world.run();
        assert!(world.take_calls().contains(&Send(Err(Errno::EINTR))));
        world.assert_echoed();
    }
}

#[test]
fn a_reset_at_any_call_is_counted() {
    let statistics = statistics();
    for errno in [Errno::ECONNRESET, Errno::EPIPE, Errno::ETIMEDOUT] {
        for call in 0.. {
            let mut world = World::without_room(&statistics, &config(), Echo);
            let before = [Field::Sent, Field::Abandoned].map(|field| world.count(field));
            world.socket().fail_at = Some((call, errno));
            busy_life(&mut world);
            if call >= world.socket().calls.len() {
                world.assert_closed(Reason::ClientDone);
                break;
            }
            world.assert_closed(Reason::ClientReset);
            assert_eq!(world.socket().calls.len(), call + 1, "nothing follows a reset");
            let received = world.socket().received();
            let now = [Field::Sent, Field::Abandoned].map(|field| world.count(field));
            assert_eq!(now[0] - before[0] + now[1] - before[1], received as u64);
        }
    }
}

#[test]
fn a_reset_that_an_event_reports_closes_the_connection() {
    let statistics = statistics();
    for pending in [0, 10] {
        let mut world = World::without_room(&statistics, &config(), Echo);
        world.send(pending);
        world.socket().client_resets();
        world.run();
        world.assert_closed(Reason::ClientReset);
        assert_eq!(world.count(Field::Abandoned), pending as u64);
    }
}

#[test]
fn a_fin_behind_all_answers_closes_the_connection() {
    let statistics = statistics();
    for bytes in [0, 5, 16, 40] {
        let mut world = World::new(&statistics, &config(), Echo);
        world.send(bytes);
        world.assert_open();
        world.socket().client_finishes();
        world.run();
        world.assert_closed(Reason::ClientDone);
        world.assert_echoed();
        assert!(!world.socket().reset);
    }
}

#[test]
fn a_fin_with_the_data_needs_no_second_event() {
    let statistics = statistics();
    let mut world = World::new(&statistics, &config(), Echo);
    world.send_quietly(5);
    world.socket().client_finishes();
    world.run();
    assert_eq!(world.take_calls(), [Receive(Ok(5)), Send(Ok(5)), Receive(Ok(0))]);
    world.assert_closed(Reason::ClientDone);
}

#[test]
fn a_fin_does_not_overtake_a_pending_write() {
    let statistics = statistics();
    let mut world = World::without_room(&statistics, &config(), Echo);
    world.send_quietly(12);
    world.socket().client_finishes();
    world.run();
    world.assert_open();
    for sent in 0..12 {
        assert_eq!(world.socket().sent.len(), sent);
        world.assert_open();
        world.socket().add_room(1);
        world.run();
    }
    world.assert_closed(Reason::ClientDone);
    world.assert_echoed();
}

#[test]
fn an_urgent_byte_is_echoed_in_its_place() {
    let statistics = statistics();
    let mut world = World::new(&statistics, &config(), Echo);
    world.send_quietly(3);
    world.send_urgent();
    world.send_quietly(3);
    world.run();
    world.assert_echoed();
    let calls = world.take_calls();
    assert_eq!(calls.last(), Some(&Receive(AGAIN)), "no event reports what is behind the byte");
    world.send(3);
    assert_eq!(world.take_calls(), [Receive(Ok(3)), Send(Ok(3))], "two calls again");
    world.send_urgent();
    world.socket().client_finishes();
    world.run();
    world.assert_echoed();
    world.assert_closed(Reason::ClientDone);
}

/// Answers a dot with "bye" as the last answer, everything else with nothing.
#[derive(Debug)]
struct Dot;

impl Service for Dot {
    type Session = ();

    const INPUT_IS_ACTIVITY: bool = false;

    fn received(&mut self, (): &mut (), io: &mut impl Io, input: &[u8]) {
        if input.contains(&b'.') {
            io.send(b"bye");
            io.finish();
        }
    }
}

#[test]
fn the_last_answer_is_followed_by_a_fin() {
    let statistics = statistics();
    for room in [0, 1, 3] {
        // Bytes of this service are not those of the input: only what is sent counts here.
        let mut world = World::without_room(&statistics, &config(), Dot);
        world.socket().add_room(room);
        world.socket().client_sends(b".ab");
        world.run();
        assert_eq!(world.socket().fin_sent, room == 3);
        world.socket().add_room(3);
        world.socket().client_sends(b"more");
        world.run();
        assert_eq!(world.socket().sent, b"bye");
        assert!(world.socket().fin_sent);
        assert_eq!(world.socket().unread(), 0, "discarded");
        world.socket().client_finishes();
        world.run();
        assert_eq!(world.endings(), [Reason::Answered]);
    }
}

#[test]
fn input_without_an_answer_may_be_no_activity() {
    let statistics = statistics();
    let mut world = World::new(&statistics, &config(), Dot);
    world.pass(50);
    world.socket().client_sends(b"12345");
    world.run();
    assert!(
        !world.take_calls().iter().any(|call| matches!(call, Call::Send(_))),
        "nothing to send"
    );
    world.pass(IDLE - 50);
    assert!(world.socket().fin_sent);
}

#[test]
fn the_idlest_connection_is_evicted() {
    let statistics = statistics();
    let mut world = World::new(&statistics, &config(), Echo);
    let second = world.accept();
    world.pass(QUIET);
    let third = world.accept();
    world.send(5);
    world.evict();
    assert!(second.borrow().closed && !third.borrow().closed && !world.socket().closed);
    assert_eq!(world.endings(), [Reason::Idle]);
}

#[test]
fn a_connection_that_cannot_be_registered_is_counted() {
    let statistics = statistics();
    let mut world = World::new(&statistics, &config(), Echo);
    let (wire, now) = (super::script::Wire::default(), world.now());
    let refused = world.connections.add(wire, None, now, |_, _| Err(Errno::ENOSPC.into()));
    assert_eq!(refused.unwrap_err().raw_os_error(), Some(Errno::ENOSPC as i32));
    assert_eq!(world.connections.len(), 1);
    assert_eq!(statistics.block(crate::daemon::ids::BlockId(0)).closed(Reason::Error), 1);
    world.send(5);
    world.assert_echoed();
}
