//! Calls of a service: it speaks first, sends without input, answers the end of the input, and finishes.

use nix::errno::Errno;

use super::script::Call::*;
use super::world::{WRITE, World, config};
use crate::config::ConnectionConfig;
use crate::daemon::services::{Io, Service};
use crate::daemon::stats::{Field, Reason, Statistics};

fn statistics() -> Statistics {
    Statistics::new().expect("memory")
}

/// Sends a greeting in two parts, and finishes if `finishes` is set.
#[derive(Debug)]
struct Greeter {
    finishes: bool,
}

impl Service for Greeter {
    type Session = ();

    fn opened(&mut self, (): &mut (), io: &mut impl Io) {
        io.send(b"hello ");
        io.send(b"");
        io.send(b"world");
        if self.finishes {
            io.finish();
        }
    }

    fn received(&mut self, (): &mut (), _: &mut impl Io, _: &[u8]) {}

    fn input_ended(&mut self, (): &mut (), io: &mut impl Io) {
        io.send(b" bye");
    }
}

#[test]
fn a_service_may_speak_first() {
    let statistics = statistics();
    for room in 0..=11 {
        let mut world = World::without_room(&statistics, &config(), Greeter { finishes: false });
        world.socket().add_room(room);
        world.run();
        assert_eq!(world.socket().sent.len(), room);
        world.socket().add_room(11 - room);
        world.run();
        assert_eq!(world.socket().sent, b"hello world");
        world.assert_open();
        assert_eq!(world.count(Field::Injected), 11, "no client has sent them");
    }
}

#[test]
fn a_service_that_finishes_first_sends_a_fin_and_waits_for_the_clients() {
    let statistics = statistics();
    let mut world = World::without_room(&statistics, &config(), Greeter { finishes: true });
    world.socket().add_room(3);
    world.run();
    assert!(!world.socket().fin_sent, "bytes are pending");
    world.socket().add_room(100);
    world.send(5);
    assert!(world.socket().fin_sent);
    assert_eq!(world.socket().unread(), 0, "discarded: unread input would become a reset");
    world.assert_open();
    world.socket().client_finishes();
    world.run();
    world.assert_closed(Reason::Answered);
}

#[test]
fn the_end_of_the_input_may_be_answered() {
    let statistics = statistics();
    for room in [11, 13, 100] {
        let mut world = World::without_room(&statistics, &config(), Greeter { finishes: false });
        world.socket().add_room(room);
        world.send(5);
        world.socket().client_finishes();
        world.run();
        if room < 15 {
            world.assert_open();
            world.socket().add_room(100);
            world.run();
        }
        assert_eq!(world.socket().sent, b"hello world bye");
        world.assert_closed(Reason::ClientDone);
        assert_eq!(world.count(Field::Consumed), 5);
    }
}

#[test]
fn output_that_no_client_reads_is_abandoned_and_not_lost() {
    let statistics = statistics();
    let mut world = World::without_room(&statistics, &config(), Greeter { finishes: true });
    world.socket().add_room(3);
    world.run();
    world.pass(WRITE);
    world.assert_closed(Reason::WriteTimeout);
    assert!(world.socket().reset);
    assert_eq!(world.count(Field::Abandoned), 8);
}

/// Sends ten bytes whenever there is room.
#[derive(Debug)]
struct Producer;

impl Service for Producer {
    type Session = ();

    const PRODUCES: bool = true;

    fn received(&mut self, (): &mut (), _: &mut impl Io, _: &[u8]) {}

    fn writable(&mut self, (): &mut (), io: &mut impl Io) {
        io.send(b"0123456789");
    }
}

#[test]
fn a_producer_sends_as_fast_as_the_client_reads() {
    let statistics = statistics();
    let mut world = World::without_room(&statistics, &config(), Producer);
    world.socket().add_room(25);
    world.run();
    assert_eq!(world.socket().sent, b"0123456789012345678901234");
    assert_eq!(world.count(Field::Buffered), 5, "one piece is kept");
    world.take_calls();
    world.send(7);
    assert_eq!(world.take_calls(), [Send(Err(Errno::EAGAIN))], "it waits for room");
    world.socket().add_room(5);
    world.run();
    assert_eq!(world.take_calls()[..3], [Send(Ok(5)), Receive(Ok(7)), Send(Err(Errno::EAGAIN))]);
    world.assert_open();
}

#[test]
fn a_client_ends_a_producer_by_a_fin_or_a_reset() {
    let statistics = statistics();
    for reset in [false, true] {
        let mut world = World::without_room(&statistics, &config(), Producer);
        world.socket().add_room(15);
        world.run();
        if reset {
            world.socket().client_resets();
        } else {
            world.socket().client_finishes();
            world.socket().add_room(25);
        }
        world.run();
        world.assert_closed(Reason::ClientDone);
        let abandoned = world.count(Field::Abandoned);
        assert_eq!(abandoned, if reset { 5 } else { 0 });
    }
}

#[test]
fn a_producer_ends_when_its_worker_drains() {
    let statistics = statistics();
    let mut world = World::without_room(&statistics, &config(), Producer);
    world.socket().add_room(15);
    world.run();
    world.connections.drain(world.now(), None);
    world.socket().add_room(100);
    world.run();
    assert_eq!(world.socket().sent, b"01234567890123456789", "the piece that was begun");
    assert!(world.socket().fin_sent);
    world.socket().client_finishes();
    world.run();
    world.assert_closed(Reason::Drain);
}

#[test]
fn a_producer_that_is_accepted_during_a_drain_ends_at_once() {
    let statistics = statistics();
    let mut world = World::new(&statistics, &config(), Producer);
    world.connections.drain(world.now(), None);
    let late = world.accept();
    world.run();
    assert!(late.borrow().fin_sent && late.borrow().sent.is_empty());
}

#[test]
fn a_greeting_that_no_client_reads_has_the_write_timeout() {
    let statistics = statistics();
    let config = ConnectionConfig { idle_timeout: None, ..config() };
    let mut world = World::without_room(&statistics, &config, Greeter { finishes: false });
    world.pass(WRITE);
    world.assert_closed(Reason::WriteTimeout);
}
