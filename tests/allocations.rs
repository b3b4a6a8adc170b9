//! Nothing on the way of a message allocates: counted by the allocator itself.
//!
//! A binary of its own, because the allocator is the whole process's.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use mio::{Events, Poll};
use tcp_echo::cli::Cli;
use tcp_echo::config::Config;
use tcp_echo::daemon::connections::Connections;
use tcp_echo::daemon::services::Echo;
use tcp_echo::daemon::stats::Statistics;
use tcp_echo::event_loop::timers::Clock;

struct Counting;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: everything is left to the system's allocator; the counter allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn no_message_allocates() {
    let cli = Cli::parse_from(Vec::new(), |_| None).expect("no options");
    let config = Config::load(&cli.layers).expect("the defaults");
    let mut statistics = Statistics::new().expect("memory");
    let block = statistics.allocate().expect("a block");
    let mut poll = Poll::new().expect("epoll");
    let mut connections =
        Connections::new(0, &config.connection, Echo, statistics.block(block), None);

    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let mut client = TcpStream::connect(listener.local_addr().expect("bound")).expect("client");
    let (server, _) = listener.accept().expect("accept");
    server.set_nonblocking(true).expect("non-blocking");
    client.set_read_timeout(Some(Duration::from_secs(5))).expect("timeout");
    let clock = Clock::start(Instant::now());
    let server = mio::net::TcpStream::from_std(server);
    connections.insert(poll.registry(), server, clock.tick(Instant::now())).expect("epoll");

    let mut events = Events::with_capacity(64);
    let (message, mut echo) = ([7; 64], [0; 64]);
    let mut exchange = |client: &mut TcpStream| {
        client.write_all(&message).expect("send");
        // As the event loop does it, until the echo is there.
        poll.poll(&mut events, Some(Duration::from_secs(5))).expect("poll");
        events.iter().for_each(|event| connections.mark(event));
        connections.work(clock.tick(Instant::now()));
        client.read_exact(&mut echo).expect("the echo");
        assert_eq!(echo, message);
    };
    (0..10).for_each(|_| exchange(&mut client));
    let before = COUNT.get();
    (0..10_000).for_each(|_| exchange(&mut client));
    assert_eq!(COUNT.get() - before, 0, "allocations in 10 000 messages");
}
