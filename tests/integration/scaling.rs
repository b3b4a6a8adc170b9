//! SIGTTIN and SIGTTOU: one worker more, one fewer, and no connection less.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::operator::traffic::{TRANSFERS, under_traffic};
use super::operator::{
    census, descriptors_of, freeze, hang_up_and_wait, reload, strike, wait_settled,
};
use super::support::{
    Client, SOON, Server, Turn, alongside, assert_between, ms, proc, secs, wait_for, wait_until,
};

/// Sends the signal and waits until it is carried out, as far as the controller is concerned.
#[track_caller]
pub(super) fn scale(server: &Server, signal: Signal, workers: i64) {
    let before = server.log.count(": scaled ");
    server.signal(signal);
    let line = wait_for(SOON, "it says that it has scaled", || {
        server.log.with(": scaled ").into_iter().nth(before)
    });
    assert_eq!(line.number("workers"), Some(workers), "{line:?}");
}

#[test]
fn between_one_and_eight_workers_nothing_is_lost() {
    let turn = Turn::alone();
    let args = ["--workers", "1", "--idle-timeout", "60", "--drain-spread", "1s"];
    let mut server = turn.start(&args);
    let descriptors = descriptors_of(server.controller());
    let ((), ledger) = under_traffic(server.address(), || {
        for _ in 0..4 {
            for workers in 2..=8 {
                scale(&server, Signal::SIGTTIN, workers);
            }
            wait_until(SOON, "eight workers", || server.workers().len() == 8);
            // Long enough for each of them to be in the middle of something.
            thread::sleep(ms(300));
            for workers in (1..=7).rev() {
                scale(&server, Signal::SIGTTOU, workers);
            }
            // Fewer again before the old ones have gone is what the next round is for.
            thread::sleep(ms(100));
        }
    });
    ledger.assert_nothing_lost();
    assert_eq!(ledger.transfers, TRANSFERS, "{ledger:?}");
    assert_eq!(server.exit_code(), None);
    wait_settled(&server, 1);
    wait_until(SOON, "no descriptor is left over", || {
        descriptors_of(server.controller()) == descriptors
    });
    assert_eq!(server.log.count("signal SIG"), 0, "nobody was killed");
    server.assert_echoes();
    server.stop();
}

#[test]
fn there_is_always_a_worker() {
    let turn = Turn::shared();
    let server = turn.start(&["--workers", "2"]);
    scale(&server, Signal::SIGTTOU, 1);
    server.signal(Signal::SIGTTOU);
    let line = server.log.wait_for(SOON, "the number of workers stays as it is");
    assert_eq!(line.number("workers"), Some(1), "{line:?}");
    assert_eq!(wait_settled(&server, 1).keys().collect::<Vec<_>>(), [&1]);
    server.assert_echoes();
    scale(&server, Signal::SIGTTIN, 2);
    wait_settled(&server, 2);
    server.stop();
}

#[test]
fn a_worker_more_takes_its_part() {
    let turn = Turn::shared();
    let server = turn.start(&["--workers", "1"]);
    scale(&server, Signal::SIGTTIN, 2);
    let workers = wait_settled(&server, 2);
    let listens = || proc::listeners_of(workers[&2]).len() == 1;
    wait_until(SOON, "the new worker listens", listens);
    let mut clients: Vec<Client> = (0..40).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|client| _ = client.echo(10));
    // Two of equal standing: that one gets none of forty happens once in 2^39 times.
    let census = census(&server);
    assert_eq!(census.len(), 2);
    assert!(census.values().all(|(now, _)| *now > 0), "both have accepted some: {census:?}");
    drop(clients);
    server.stop();
}

#[test]
fn the_queue_of_a_slot_that_is_given_up_is_emptied() {
    let turn = Turn::shared();
    let server = turn.start(&["--workers", "3"]);
    let workers = server.workers();
    workers.values().for_each(|&pid| freeze(pid));
    let mut queued: Vec<Client> = (0..40).map(|_| server.connect()).collect();
    queued.iter_mut().for_each(|client| client.send(1000));
    scale(&server, Signal::SIGTTOU, 2);
    scale(&server, Signal::SIGTTOU, 1);
    workers.values().for_each(|&pid| strike(pid, Signal::SIGCONT));
    queued.iter_mut().for_each(|client| client.expect(1000));
    queued.into_iter().for_each(Client::finish);
    wait_settled(&server, 1);
    server.stop();
}

#[test]
fn the_queue_of_a_slot_whose_worker_hangs_is_emptied_by_a_sibling() {
    let turn = Turn::shared();
    let server = turn.start(&["--workers", "2"]);
    let workers = server.workers();
    freeze(workers[&2]);
    server.log.wait_for(SOON, "worker does not respond");
    let mut queued: Vec<Client> = (0..20).map(|_| server.connect()).collect();
    scale(&server, Signal::SIGTTOU, 1);
    queued.iter_mut().for_each(|client| _ = client.echo(1000));
    queued.into_iter().for_each(Client::finish);
    (0..20).for_each(|_| server.assert_echoes());
    strike(workers[&2], Signal::SIGCONT);
    wait_settled(&server, 1);
    server.stop();
}

#[test]
fn the_queue_of_a_slot_whose_worker_dies_meanwhile_is_emptied_by_a_sibling() {
    let turn = Turn::shared();
    let server = turn.start(&["--workers", "2"]);
    let workers = server.workers();
    freeze(workers[&2]);
    let mut queued: Vec<Client> = (0..20).map(|_| server.connect()).collect();
    queued.iter_mut().for_each(|client| client.send(1000));
    scale(&server, Signal::SIGTTOU, 1);
    strike(workers[&2], Signal::SIGKILL);
    queued.iter_mut().for_each(|client| client.expect(1000));
    queued.into_iter().for_each(Client::finish);
    wait_settled(&server, 1);
    server.stop();
}

#[test]
fn a_long_lived_connection_of_a_worker_that_is_given_up_lives_on() {
    let turn = Turn::shared();
    let server = turn.start(&["--workers", "2", "--drain-timeout", "1m"]);
    let mut clients: Vec<Client> = (0..20).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|client| _ = client.echo(100));
    scale(&server, Signal::SIGTTOU, 1);
    server.log.wait_for(SOON, "worker-2");
    for _ in 0..15 {
        // As long as something moves once in a second.
        thread::sleep(ms(100));
        clients.iter_mut().for_each(|client| _ = client.echo(100));
    }
    clients.into_iter().for_each(Client::finish);
    wait_settled(&server, 1);
    server.stop();
}

#[test]
fn scaling_and_reloading_at_the_same_time_end_where_they_should() {
    let turn = Turn::shared();
    let server = turn.start(&["--workers", "4"]);
    for signal in [Signal::SIGTTOU, Signal::SIGTTIN, Signal::SIGTTOU] {
        server.signal(signal);
        let line = hang_up_and_wait(&server, secs(8), ": reloaded ");
        server.signal(signal);
        assert!(line.has("done="), "{line:?}");
        server.assert_echoes();
    }
    reload(&server);
    wait_settled(&server, 4);
    (0..20).for_each(|_| server.assert_echoes());
    server.stop();
}

/// Worst delay with which this machine wakes up a thread, for upper bounds of what others measure.
fn worst_wakeup(over: &AtomicBool) -> Duration {
    let mut worst = Duration::ZERO;
    while !over.load(Ordering::SeqCst) {
        let begin = Instant::now();
        thread::sleep(ms(10));
        worst = worst.max(begin.elapsed() - ms(10));
    }
    worst
}

#[test]
fn the_queue_of_a_closed_slot_is_served_for_one_more_second() {
    let turn = Turn::shared();
    let server = turn.start(&["--workers", "2"]);
    let (took, late) = alongside(worst_wakeup, || {
        let begin = Instant::now();
        scale(&server, Signal::SIGTTOU, 1);
        server.log.wait_for(SOON, "worker exited").at - begin
    });
    assert_between("time to the worker's exit", took, ms(990), ms(1500) + late);
    server.stop();
}

#[test]
fn the_queue_of_a_closed_slot_goes_to_another_worker_within_two_seconds() {
    let turn = Turn::shared();
    let server = turn.start(&["--workers", "2"]);
    freeze(server.workers()[&2]);
    let mut clients: Vec<Client> = (0..20).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|client| client.send(100));
    let (took, late) = alongside(worst_wakeup, || {
        let begin = Instant::now();
        // Its own worker drains the queue of a closed slot, if it can.
        scale(&server, Signal::SIGTTOU, 1);
        server.log.wait_for(secs(15), "looking after a queue from_slot=2").at - begin
    });
    // Its heartbeat, up to a second old when it was stopped, must be 1.5 seconds old; or it has not
    // acknowledged its release, which follows a second after the signal, for another second.
    assert_between("time to the takeover", took, ms(400), ms(2200) + late);
    clients.iter_mut().for_each(|client| client.expect(100));
    drop(clients);
}
