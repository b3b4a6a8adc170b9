//! The table with real sockets.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use mio::{Events, Poll};

use super::world::config;
use crate::daemon::connections::*;
use crate::daemon::ids::BlockId;
use crate::daemon::services::Echo;
use crate::daemon::stats::Statistics;
use crate::event_loop::timers::Clock;

/// The two ends of a new connection.
fn connect(listener: &TcpListener) -> (TcpStream, mio::net::TcpStream) {
    let address = listener.local_addr().expect("bound");
    let client = TcpStream::connect(address).expect("a client");
    client.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
    let (server, _) = listener.accept().expect("accept");
    server.set_nonblocking(true).expect("non-blocking");
    (client, mio::net::TcpStream::from_std(server))
}

/// Waits until the kernel reports what a client has sent.
fn wait(poll: &mut Poll) -> Events {
    let mut events = Events::with_capacity(16);
    poll.poll(&mut events, Some(Duration::from_secs(5))).expect("poll");
    assert!(events.iter().any(Event::is_readable), "{events:?}");
    events
}

#[test]
fn an_event_for_a_closed_connection_is_not_taken_for_one_of_its_successor() {
    let config = config();
    let statistics = Statistics::new().expect("memory");
    let mut connections = Connections::new(0, &config, Echo, statistics.block(BlockId(0)), None);
    let clock = Clock::start(Instant::now());
    let mut poll = Poll::new().expect("epoll");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");

    let (mut closed, server) = connect(&listener);
    connections.insert(poll.registry(), server, Tick::default()).expect("epoll");
    closed.write_all(b"closed").expect("send");
    let stale = wait(&mut poll);
    connections.evict_idlest(clock.tick(Instant::now()));
    assert!(connections.is_empty());

    let (mut successor, server) = connect(&listener);
    connections.insert(poll.registry(), server, Tick::default()).expect("epoll");
    stale.iter().for_each(|event| connections.mark(event));
    assert!(
        !connections.has_work(),
        "an event of the closed connection gives its successor a turn"
    );

    successor.write_all(b"successor").expect("send");
    let fresh = wait(&mut poll);
    let token = |events: &Events| events.iter().next().expect("an event").token();
    let (old, new) = (token(&stale), token(&fresh));
    assert_eq!(key_of(old), key_of(new), "the successor has the key of the closed connection");
    assert_ne!(old, new);
    fresh.iter().for_each(|event| connections.mark(event));
    assert!(connections.has_work());
    connections.work(Tick::default());
    let mut echo = [0; 9];
    successor.read_exact(&mut echo).expect("the echo");
    assert_eq!(&echo, b"successor");
}
