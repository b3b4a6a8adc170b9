//! Connections of a worker that drains.

use std::time::Duration;

use super::world::{IDLE, LINGER, QUIET, WRITE, World, config};
use crate::config::{ConnectionConfig, IdleClose};
use crate::daemon::services::Echo;
use crate::daemon::stats::{Field, Reason, Statistics};

fn statistics() -> Statistics {
    Statistics::new().expect("memory")
}

#[test]
fn a_quiet_connection_is_closed_after_a_second() {
    let statistics = statistics();
    let mut world = World::new(&statistics, &config(), Echo);
    world.pass(5);
    world.connections.drain(world.now(), None);
    world.pass(QUIET - 5 - 1);
    assert!(!world.socket().fin_sent);
    world.pass(1);
    assert!(world.socket().fin_sent);
    world.pass(QUIET);
    world.assert_closed(Reason::Drain);
    assert!(!world.socket().reset);
}

#[test]
fn a_busy_connection_is_served_to_its_end() {
    let statistics = statistics();
    let mut world = World::new(&statistics, &config(), Echo);
    world.connections.drain(world.now(), None);
    for _ in 0..50 {
        world.pass(QUIET - 1);
        world.send(5);
    }
    world.assert_open();
    world.assert_echoed();
    world.socket().client_finishes();
    world.run();
    world.assert_closed(Reason::ClientDone);
}

#[test]
fn a_pending_write_keeps_its_own_timeout() {
    let statistics = statistics();
    let mut world = World::without_room(&statistics, &config(), Echo);
    world.send(10);
    world.connections.drain(world.now(), None);
    world.pass(5 * QUIET);
    world.assert_open();
    world.socket().add_room(10);
    world.run();
    world.pass(QUIET);
    assert!(world.socket().fin_sent);
    world.assert_echoed();
    let mut world = World::without_room(&statistics, &config(), Echo);
    world.send(10);
    world.connections.drain(world.now(), None);
    world.pass(WRITE + 12);
    world.assert_closed(Reason::WriteTimeout);
}

#[test]
fn a_lingering_connection_has_a_second() {
    let statistics = statistics();
    let mut world = World::new(&statistics, &config(), Echo);
    world.pass(IDLE);
    world.connections.drain(world.now(), None);
    world.pass(QUIET - 1);
    world.assert_open();
    world.pass(1);
    world.assert_closed(Reason::Idle);
}

#[test]
fn no_idle_message_and_no_reset_end_a_drained_connection() {
    let statistics = statistics();
    let with = ConnectionConfig {
        idle_message: Some("bye".into()),
        idle_close: IdleClose::Reset,
        ..config()
    };
    let mut world = World::new(&statistics, &with, Echo);
    world.connections.drain(world.now(), None);
    world.pass(QUIET);
    assert_eq!(world.socket().sent, b"");
    assert!(world.socket().fin_sent && !world.socket().reset);
}

#[test]
fn a_retiring_worker_closes_within_the_spread() {
    let statistics = statistics();
    let mut world = World::new(&statistics, &config(), Echo);
    let others: Vec<_> = (0..99).map(|_| world.accept()).collect();
    world.connections.drain(world.now(), Some(Duration::from_secs(5)));
    world.pass(QUIET - 1);
    let closing = || others.iter().filter(|socket| socket.borrow().fin_sent).count();
    assert_eq!(closing(), 0, "not quiet yet");
    world.pass(15);
    assert!((20..80).contains(&closing()), "{}", closing());
    world.pass(51 - QUIET - 14);
    assert_eq!(closing(), 99);
    world.pass(LINGER);
    assert!(world.connections.is_empty());
    assert!(world.endings().iter().all(|reason| *reason == Reason::Drain));
}

#[test]
fn a_drain_after_a_retirement_ends_the_jitter() {
    let statistics = statistics();
    let mut world = World::new(&statistics, &config(), Echo);
    world.connections.drain(world.now(), Some(Duration::from_secs(4000)));
    world.pass(2 * QUIET);
    assert!(!world.socket().fin_sent);
    world.connections.drain(world.now(), None);
    world.pass(1);
    assert!(world.socket().fin_sent);
}

#[test]
fn the_drain_deadline_resets_all_but_lingering_connections() {
    let statistics = statistics();
    let mut world = World::without_room(&statistics, &config(), Echo);
    let lingering = world.accept();
    world.pass(IDLE - 1);
    world.send(10);
    world.pass(2);
    assert!(lingering.borrow().fin_sent);
    assert_eq!(world.connections.reset_all(world.now()), 1);
    assert!(world.socket().reset && !lingering.borrow().reset && lingering.borrow().closed);
    assert_eq!(world.endings(), [Reason::DrainDeadline; 2]);
    assert_eq!(world.count(Field::Abandoned), 10);
    world.assert_balanced();
}
