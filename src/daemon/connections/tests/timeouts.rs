//! Idle, write, and linger timeout of a connection.

use nix::errno::Errno;

use super::script::Call::Shutdown;
use super::world::{IDLE, LINGER, WRITE, World, config};
use crate::config::{ConnectionConfig, IdleClose};
use crate::daemon::services::Echo;
use crate::daemon::stats::{Field, Reason, Statistics};

fn statistics() -> Statistics {
    Statistics::new().expect("memory")
}

#[test]
fn an_idle_connection_is_closed_in_order() {
    let statistics = statistics();
    let mut world = World::new(&statistics, &config(), Echo);
    world.pass(50);
    world.send(5);
    world.pass(IDLE - 1);
    assert!(!world.socket().fin_sent);
    world.take_calls();
    world.pass(1);
    assert!(world.socket().fin_sent);
    world.assert_open();
    world.send(50);
    assert_eq!(world.socket().sent.len(), 5, "input is discarded");
    world.socket().client_finishes();
    world.run();
    world.assert_closed(Reason::Idle);
    assert!(!world.socket().reset);
}

#[test]
fn a_client_that_does_not_answer_the_fin_is_closed() {
    let statistics = statistics();
    let mut world = World::new(&statistics, &config(), Echo);
    world.pass(IDLE);
    world.pass(LINGER - 1);
    world.assert_open();
    world.pass(1);
    world.assert_closed(Reason::Idle);
    assert!(!world.socket().reset, "it owes nothing");
}

#[test]
fn an_error_while_lingering_keeps_the_reason() {
    let statistics = statistics();
    let mut world = World::new(&statistics, &config(), Echo);
    world.pass(IDLE);
    world.socket().client_resets();
    world.run();
    world.assert_closed(Reason::Idle);
    let mut world = World::new(&statistics, &config(), Echo);
    // The first call at the deadline is a receive.
    world.socket().fail_at = Some((1, Errno::ENOTCONN));
    world.pass(IDLE);
    assert_eq!(world.take_calls().last(), Some(&Shutdown));
    world.assert_closed(Reason::Idle);
}

#[test]
fn an_idle_message_is_sent_before_the_fin() {
    let statistics = statistics();
    let with = ConnectionConfig { idle_message: Some("bye".into()), ..config() };
    for room in [0, 2, 3] {
        let mut world = World::without_room(&statistics, &with, Echo);
        world.socket().add_room(room);
        world.pass(IDLE);
        assert_eq!(world.socket().sent, b"bye"[..room]);
        assert_eq!(world.socket().fin_sent, room == 3);
        world.socket().add_room(3);
        world.run();
        assert_eq!(world.socket().sent, b"bye");
        assert!(world.socket().fin_sent);
        world.socket().client_finishes();
        world.run();
        world.assert_closed(Reason::Idle);
    }
}

#[test]
fn an_idle_connection_is_reset_if_configured() {
    let statistics = statistics();
    let with = ConnectionConfig { idle_close: IdleClose::Reset, ..config() };
    let mut world = World::new(&statistics, &with, Echo);
    world.pass(IDLE);
    world.assert_closed(Reason::Idle);
    assert!(world.socket().reset && !world.socket().fin_sent);
}

#[test]
fn no_idle_timeout_is_no_deadline() {
    let statistics = statistics();
    let with = ConnectionConfig { idle_timeout: None, ..config() };
    let mut world = World::new(&statistics, &with, Echo);
    world.skip(1_000_000);
    world.send(5);
    world.assert_echoed();
    world.assert_open();
}

#[test]
fn a_client_that_does_not_read_is_reset() {
    let statistics = statistics();
    let mut world = World::without_room(&statistics, &config(), Echo);
    world.socket().add_room(4);
    world.pass(30);
    world.send(10);
    world.pass(WRITE - 1);
    world.assert_open();
    world.pass(1 + 11);
    world.assert_closed(Reason::WriteTimeout);
    assert!(world.socket().reset);
    assert_eq!(world.count(Field::Abandoned), 6);
}

#[test]
fn a_byte_that_is_sent_restarts_the_write_timeout() {
    let statistics = statistics();
    let mut world = World::without_room(&statistics, &config(), Echo);
    world.send(10);
    for _ in 0..9 {
        world.pass(WRITE - 20);
        world.socket().add_room(1);
        world.run();
    }
    world.assert_open();
    world.pass(WRITE);
    world.assert_closed(Reason::WriteTimeout);
}

#[test]
fn a_client_that_reads_slowly_is_not_reset() {
    let statistics = statistics();
    let mut world = World::without_room(&statistics, &config(), Echo);
    world.socket().add_room(1000);
    world.send(1000);
    world.socket().acknowledged = Some(0);
    world.send(10);
    // The kernel reports no room, but the client acknowledges a byte now and then.
    for read in 1..6 {
        world.pass(WRITE - 20);
        world.socket().acknowledged = Some(read);
    }
    world.assert_open();
    world.pass(WRITE + 12);
    world.assert_closed(Reason::WriteTimeout);
}

#[test]
fn what_no_event_has_reported_is_found_at_the_deadline() {
    let statistics = statistics();
    // Data.
    let mut world = World::new(&statistics, &config(), Echo);
    world.run();
    world.send_quietly(40);
    world.socket().hide_event();
    world.skip(IDLE);
    world.assert_echoed();
    assert!(!world.socket().fin_sent);
    // Room.
    let mut world = World::without_room(&statistics, &config(), Echo);
    world.send(10);
    world.socket().add_room(100);
    world.socket().hide_event();
    world.skip(WRITE);
    world.assert_echoed();
    world.assert_open();
    // The client's FIN.
    let mut world = World::new(&statistics, &config(), Echo);
    world.run();
    world.socket().client_finishes();
    world.socket().hide_event();
    world.skip(IDLE);
    world.assert_closed(Reason::ClientDone);
}
