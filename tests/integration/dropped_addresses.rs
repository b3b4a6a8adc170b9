//! A reload that removes an address: the kept address is served whatever happens to the worker that
//! drains the removed one.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::reload_addresses::{assert_closed, local};
use super::scaling::scale;
use super::support::operations::{
    ConfigFile, free_port, freeze, reload, send_signal, wait_for_workers,
};
use super::support::traffic::short_exchange;
use super::support::{Client, SOON, Server, TestLock, proc, secs, wait_until};

/// A server at two addresses, and the file that a reload reads.
struct Scene {
    server: Server,
    file: ConfigFile,
    workers: usize,
    dropped: SocketAddr,
    kept: SocketAddr,
}

fn settings(workers: usize, addresses: &[SocketAddr]) -> String {
    let list: Vec<String> = addresses.iter().map(|address| format!("\"{address}\"")).collect();
    format!("workers = {workers}\nidle-timeout = 60\nlisten = [{}]\n", list.join(", "))
}

impl Scene {
    fn start(lock: &TestLock, workers: usize, args: &[&str]) -> Self {
        let (dropped, kept) = (local(free_port()), local(free_port()));
        let file = ConfigFile::new(&settings(workers, &[dropped, kept]));
        let server = lock.start(&[&["--config", file.name()], args].concat());
        Self { server, file, workers, dropped, kept }
    }

    /// Reloads without the first address.
    #[track_caller]
    fn drop_address(&self) {
        self.file.write(&settings(self.workers, &[self.kept]));
        reload(&self.server);
    }

    /// Every connection to the address that stays is served, one after the other over `span`.
    #[track_caller]
    fn assert_serves_for(&self, span: Duration) {
        let end = Instant::now() + span;
        while Instant::now() < end {
            short_exchange(self.kept, 1000).expect("the address that stays is served");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Every worker listens at the address that stays, and the server stops in order.
    #[track_caller]
    fn finish(self) {
        assert_closed(self.dropped);
        for pid in wait_for_workers(&self.server, self.workers).into_values() {
            // A queue of a slot that is given up is held until it is drained.
            wait_until(SOON, "a worker listens where it should", || {
                let listeners = proc::listeners_of(pid);
                listeners.len() == 1 && listeners[0].local == self.kept
            });
        }
        self.server.stop();
    }
}

#[test]
fn the_kept_address_is_served_when_the_worker_that_drains_the_other_dies() {
    let lock = TestLock::shared();
    let scene = Scene::start(&lock, 1, &[]);
    let old = scene.server.worker();
    // So that it is still there, however long the reload takes.
    freeze(old);
    scene.drop_address();
    send_signal(old, Signal::SIGKILL);
    // The time in which the new worker drains the queue that it takes over.
    scene.assert_serves_for(secs(3));
    scene.finish();
}

#[test]
fn the_kept_address_is_served_when_the_worker_that_drains_the_other_hangs() {
    let lock = TestLock::shared();
    let scene = Scene::start(&lock, 1, &["--drain-timeout", "1m"]);
    let old = scene.server.worker();
    freeze(old);
    scene.drop_address();
    let mut queued = Client::connect(scene.dropped);
    queued.send(1000);
    scene.server.log.wait_for(secs(15), "taking over accept queue from_slot=1");
    scene.assert_serves_for(secs(3));
    queued.expect(1000);
    queued.finish();
    send_signal(old, Signal::SIGCONT);
    scene.finish();
}

/// Kills the worker of slot 1 again and again, until its slot waits for a second or longer.
#[track_caller]
fn kill_until_backoff(server: &Server) {
    let mut victim = 0;
    wait_until(secs(40), "slot 1 waits for its next worker", || {
        let current = server.logged_workers()[&1];
        if current != victim && proc::is_alive(current) {
            victim = current;
            send_signal(victim, Signal::SIGKILL);
        }
        let waits = server.log.with("worker restart delayed");
        waits.iter().any(|line| line.number("delay_ms") >= Some(1000))
    });
}

#[test]
fn the_kept_address_is_served_when_the_slot_had_no_worker_to_drain_the_other() {
    let lock = TestLock::shared();
    let scene = Scene::start(&lock, 2, &[]);
    kill_until_backoff(&scene.server);
    scene.drop_address();
    scene.assert_serves_for(secs(3));
    scene.finish();
}

#[test]
fn the_end_of_one_queue_drain_does_not_end_another() {
    let lock = TestLock::shared();
    // A shared port is not steered: the kernel goes on choosing the queue of slot 2.
    let args = ["--allow-shared-port", "--drain-timeout", "1m"];
    let mut scene = Scene::start(&lock, 2, &args);
    let first = scene.server.workers()[&2];
    scene.drop_address();
    // The worker of before drains the slot's queue at one address, the new one that at the other.
    let second = scene.server.logged_workers()[&2];
    freeze(second);
    scale(&scene.server, Signal::SIGTTOU, 1);
    wait_until(secs(10), "the first drain is over", || !proc::is_alive(first));
    let mut queued: Vec<Client> = (0..40).map(|_| Client::connect(scene.kept)).collect();
    queued.iter_mut().for_each(|client| client.send(1000));
    send_signal(second, Signal::SIGKILL);
    queued.iter_mut().for_each(|client| client.expect(1000));
    queued.into_iter().for_each(Client::finish);
    scene.workers = 1;
    scene.finish();
}
