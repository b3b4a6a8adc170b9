//! Transitions of a worker's life with real queues: what it accepts, closes, and reports.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use mio::Poll;
use nix::unistd::getpid;

use super::phase::{Phase, Stop};
use super::server::Server;
use crate::config::{Config, Layers};
use crate::daemon::assignment::{Assignment, HandoffQueues};
use crate::daemon::ids::{BlockId, QueueId, SlotId};
use crate::daemon::protocol::{FromWorker, Handoff, ToWorker};
use crate::daemon::stats::{Field, Stage, Statistics};
use crate::event_loop::Handler;
use crate::sys::channel::{Channel, Received};
use crate::sys::signals::SignalStream;

const ACCEPT_QUEUE: QueueId = QueueId(1);
const HANDOFF_QUEUE: QueueId = QueueId(2);
const SECOND: Duration = Duration::from_secs(1);

/// A worker that serves, in this process, with one accept queue and one handoff queue.
struct Worker<'a> {
    server: Server<'a>,
    controller: Channel,
    sender: Channel,
    address: SocketAddr,
    now: Instant,
}

impl Worker<'_> {
    /// Connects, and leaves the connection in the accept queue.
    fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).expect("a client")
    }

    /// Hands a connection off to the worker, as a sibling does.
    fn hand_off(&self, message: Handoff) -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("a client");
        let (socket, _) = listener.accept().expect("accept");
        socket.set_nonblocking(true).expect("non-blocking");
        self.sender.send(&message, &[socket.as_fd()]).expect("sent");
        client
    }

    fn order(&self, message: &ToWorker, sockets: &[OwnedFd]) {
        let sockets: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
        self.controller.send(message, &sockets).expect("sent");
    }

    /// The messages that the controller has got.
    fn reports(&self) -> Vec<FromWorker> {
        let next = || match self.controller.receive() {
            Ok(Received::Message(message, _)) => Some(message),
            _ => None,
        };
        std::iter::from_fn(next).collect()
    }

    /// A loop iteration after events of the channel and of all queues.
    fn iterate(&mut self) -> Option<Stop> {
        self.server.channel_event();
        let queues = self.server.acceptor.queues();
        self.server.acceptor.mark_queues(&queues);
        self.server.balancer.mark();
        self.server.tick(self.now).break_value()
    }
}

fn with_worker(test: impl FnOnce(&mut Worker<'_>)) {
    let config = Config::load(&Layers::default()).expect("the defaults");
    let mut statistics = Statistics::new().expect("memory");
    let block_id = statistics.allocate().expect("a block");
    statistics.assign(block_id, SlotId(1), 77, 0);
    let (controller, channel) = Channel::pair().expect("a channel");
    let (receiver, sender) = Channel::pair().expect("a channel");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    listener.set_nonblocking(true).expect("non-blocking");
    let address = listener.local_addr().expect("bound");
    let assignment = Assignment {
        slot: SlotId(1),
        controller: getpid(),
        missing: Vec::new(),
        listeners: Vec::new(),
        handoff: None,
        siblings: statistics.health_table(),
        channel,
        block: statistics.block(block_id),
        config: &config,
    };
    let poll = Poll::new().expect("epoll");
    let signals = SignalStream::new(&[]).expect("a pipe");
    let listeners = vec![(ACCEPT_QUEUE, listener.into())];
    let mut server = Server::new(&poll, &assignment, listeners, signals).expect("epoll");
    let queues = HandoffQueues { receiver: (HANDOFF_QUEUE, receiver), senders: Vec::new() };
    server.join(queues).expect("epoll");
    test(&mut Worker { server, controller, sender, address, now: Instant::now() });
}

fn released(queues: &[QueueId]) -> FromWorker {
    FromWorker::Released { queues: queues.to_vec() }
}

#[test]
fn a_worker_that_recycles_releases_its_queues_and_serves_on() {
    with_worker(|worker| {
        let _client = worker.connect();
        assert_eq!(worker.iterate(), None);
        let _waiting = worker.connect();
        worker.server.recycle(worker.now);
        worker.server.recycle(worker.now);
        let expected = [FromWorker::Retiring, released(&[ACCEPT_QUEUE, HANDOFF_QUEUE])];
        assert_eq!(worker.reports(), expected, "once");
        assert_eq!(worker.server.connections.len(), 1, "what waits is the successor's");
        assert!(worker.server.acceptor.is_closed() && worker.server.balancer.queues().is_empty());
        worker.now += 5 * SECOND;
        assert_eq!(worker.iterate(), None, "undisturbed");
        assert_eq!(worker.server.connections.len(), 1);
    });
}

#[test]
fn a_worker_that_retires_attends_its_queues_until_they_are_released() {
    with_worker(|worker| {
        worker.order(&ToWorker::Retire { accept_ms: 0, drain_ms: 9000, spread_ms: 0 }, &[]);
        assert_eq!(worker.iterate(), None);
        let deadline = worker.now + 9 * SECOND;
        assert_eq!(worker.server.phase, Phase::Retiring { deadline });
        let _client = worker.connect();
        assert_eq!(worker.iterate(), None);
        assert_eq!(worker.server.connections.len(), 1);
        assert_eq!(worker.reports(), []);
        let _waiting = (worker.connect(), worker.hand_off(Handoff::Connection));
        let queues = vec![ACCEPT_QUEUE, HANDOFF_QUEUE];
        worker.order(&ToWorker::Release { queues: queues.clone() }, &[]);
        assert_eq!(worker.iterate(), None);
        assert_eq!(worker.reports(), [released(&queues)]);
        assert_eq!(worker.server.connections.len(), 3, "both queues were drained");
    });
}

#[test]
fn a_worker_that_drains_accepts_what_waits_and_keeps_its_handoff_queue() {
    with_worker(|worker| {
        let _waiting = [worker.connect(), worker.connect(), worker.hand_off(Handoff::Connection)];
        worker.server.drain(worker.now, worker.now + SECOND);
        assert_eq!(worker.reports(), [FromWorker::Draining, released(&[ACCEPT_QUEUE])]);
        assert_eq!(worker.server.connections.len(), 3);
        assert!(worker.server.acceptor.is_closed());
        assert_eq!(worker.server.balancer.queues(), [HANDOFF_QUEUE]);
        worker.server.drain(worker.now, worker.now + SECOND / 2);
        assert_eq!(worker.reports(), [], "once");
        let _late = worker.hand_off(Handoff::Connection);
        assert_eq!(worker.iterate(), None);
        assert_eq!(worker.server.connections.len(), 4, "siblings may not know yet");
        worker.now += SECOND / 2;
        assert_eq!(worker.iterate(), Some(Stop::DeadlineReached { reset: 4 }));
    });
}

#[test]
fn only_a_worker_that_serves_reports_that_it_drains() {
    with_worker(|worker| {
        worker.server.recycle(worker.now);
        worker.reports();
        worker.server.drain(worker.now, worker.now + SECOND);
        assert_eq!(worker.reports(), []);
    });
    with_worker(|worker| {
        worker.server.retire(worker.now, worker.now + SECOND, SECOND);
        worker.server.drain(worker.now, worker.now + SECOND);
        assert_eq!(worker.reports(), [released(&[ACCEPT_QUEUE])]);
        worker.server.retire(worker.now, worker.now + 9 * SECOND, SECOND);
        worker.server.recycle(worker.now);
        assert_eq!(worker.server.phase.deadline(), Some(worker.now + SECOND));
    });
}

#[test]
fn a_worker_stops_once_it_is_empty_and_accepts_nothing() {
    with_worker(|worker| {
        assert_eq!(worker.iterate(), None, "it serves");
        worker.server.retire(worker.now, worker.now + SECOND, SECOND);
        assert_eq!(worker.iterate(), None, "it still accepts");
        worker.server.release(&[ACCEPT_QUEUE], worker.now);
        assert_eq!(worker.iterate(), Some(Stop::Drained));
    });
    with_worker(|worker| {
        worker.server.retire(worker.now, worker.now + SECOND, SECOND);
        worker.now += SECOND;
        assert_eq!(worker.iterate(), Some(Stop::DeadlineReached { reset: 0 }));
    });
}

#[test]
fn a_queue_that_is_not_attended_is_released_too() {
    with_worker(|worker| {
        worker.server.release(&[QueueId(9)], worker.now);
        assert_eq!(worker.reports(), [released(&[QueueId(9)])]);
        assert!(!worker.server.acceptor.is_closed());
    });
}

#[test]
fn a_grant_is_attended_or_refused_and_drained_by_a_worker_that_drains() {
    let grant = ToWorker::Grant { queues: vec![QueueId(3), QueueId(4)], slot: SlotId(2) };
    let queue = || {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        listener.set_nonblocking(true).expect("non-blocking");
        let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("a client");
        (OwnedFd::from(listener), client)
    };
    let attending = FromWorker::Attending { queues: vec![QueueId(3)] };
    let refused = FromWorker::Refused { queues: vec![QueueId(4)] };
    with_worker(|worker| {
        // One of the two descriptors found no room.
        let (socket, _client) = queue();
        worker.order(&grant, &[socket]);
        worker.iterate();
        assert_eq!(worker.reports(), [attending.clone(), refused.clone()]);
        assert_eq!(worker.server.connections.len(), 1);
    });
    with_worker(|worker| {
        worker.server.drain(worker.now, worker.now + SECOND);
        worker.reports();
        let (socket, _client) = queue();
        worker.order(&grant, &[socket]);
        worker.iterate();
        assert_eq!(worker.reports(), [attending, refused, released(&[QueueId(3)])]);
        assert_eq!(worker.server.connections.len(), 1, "it has served what waited");
        assert!(worker.server.acceptor.is_closed());
    });
}

#[test]
fn a_worker_whose_controller_has_died_drains_for_a_second() {
    with_worker(|worker| {
        worker.controller = Channel::pair().expect("a channel").0;
        assert_eq!(worker.iterate(), Some(Stop::Drained));
        assert_eq!(worker.server.phase, Phase::Draining { deadline: worker.now + SECOND });
    });
}

#[test]
fn a_connection_that_is_received_counts_once_where_it_was_reserved() {
    with_worker(|worker| {
        let block = worker.server.assignment.block;
        let reserved = Handoff::Reserved { block_id: BlockId(0), pid: 77 };
        block.reserve_handoff();
        let _client = worker.hand_off(reserved);
        assert_eq!((block.load(), block.get(Field::Connections)), (1, 0));
        worker.iterate();
        assert_eq!((block.load(), block.get(Field::Connections)), (1, 1));
        // The worker that it was reserved with has ended: its block is another worker's.
        let _late = worker.hand_off(Handoff::Reserved { block_id: BlockId(0), pid: 76 });
        worker.iterate();
        assert_eq!((block.load(), block.get(Field::HandoffsCommitted)), (2, 1));
    });
}

#[test]
fn statistics_tell_the_stage() {
    with_worker(|worker| {
        let block = worker.server.assignment.block;
        let stage = || Stage::ALL[block.get(Field::Stage) as usize];
        worker.iterate();
        assert_eq!(stage(), Stage::Serving);
        worker.server.retire(worker.now, worker.now + SECOND, SECOND);
        worker.iterate();
        assert_eq!(stage(), Stage::Retiring);
        worker.server.drain(worker.now, worker.now + SECOND);
        worker.iterate();
        assert_eq!(stage(), Stage::Draining);
    });
}
