//! `--balance least-connections`: few long-lived connections are spread evenly, and whoever dies
//! while they are passed on takes none along that it was not serving.

use std::io::ErrorKind;
use std::thread;
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::operator::queues::{Queues, resume_all};
use super::operator::traffic::{TRANSFERS, under_traffic, under_visits};
use super::operator::{ConfigFile, census, descriptors_of, freeze, reload, strike, wait_settled};
use super::support::pattern::Dice;
use super::support::{
    Client, SOON, Server, Turn, ms, secs, stats, try_for, under_connecting_load, wait_for,
    wait_until,
};

const LEAST: [&str; 4] = ["--balance", "least-connections", "--idle-timeout", "60"];

fn start(turn: &Turn, workers: &str) -> Server {
    let args: Vec<&str> = LEAST.into_iter().chain(["--workers", workers]).collect();
    turn.start(&args)
}

/// How many of `all` connections each worker has, fewest first.
#[track_caller]
fn spread(server: &Server, all: usize) -> Vec<usize> {
    // One that was passed on has its echo before whoever passed it on has closed it, perhaps.
    wait_for(SOON, "every connection is somebody's", || {
        let mut counts: Vec<usize> = census(server).into_values().map(|(now, _)| now).collect();
        counts.sort();
        (counts.iter().sum::<usize>() == all).then_some(counts)
    })
}

/// A new client that has had its first echo.
fn served_client(server: &Server) -> Client {
    let mut client = server.connect();
    client.echo(100);
    client
}

#[test]
fn twelve_connections_on_six_workers_are_two_each() {
    let turn = Turn::shared();
    for _ in 0..3 {
        let server = start(&turn, "6");
        let mut clients = Vec::new();
        for count in 1..=12 {
            clients.push(served_client(&server));
            let counts = spread(&server, count);
            assert!(counts[5] - counts[0] <= 1, "always even: {counts:?}");
        }
        assert_eq!(spread(&server, 12), [2; 6]);
        clients.iter_mut().for_each(|client| _ = client.echo(1000));
        clients.into_iter().for_each(Client::finish);
        server.stop();
    }
}

#[test]
fn twelve_connections_that_come_at_once_are_two_each_as_well() {
    let turn = Turn::shared();
    for _ in 0..5 {
        let server = start(&turn, "6");
        let mut clients: Vec<Client> = (0..12).map(|_| server.connect()).collect();
        clients.iter_mut().for_each(|client| _ = client.echo(100));
        assert_eq!(spread(&server, 12), [2; 6]);
        drop(clients);
        server.stop();
    }
}

#[test]
fn six_hundred_connections_stay_within_one_percent_of_even() {
    let turn = Turn::shared();
    let server = start(&turn, "6");
    let mut clients: Vec<Client> = (0..600).map(|_| server.connect()).collect();
    let even = |clients: &mut Vec<Client>| {
        clients.iter_mut().for_each(|client| _ = client.echo(100));
        let counts = spread(&server, 600);
        println!("{counts:?}");
        assert!(counts[0] >= 99 && counts[5] <= 101, "{counts:?}");
    };
    even(&mut clients);
    // Some go, others come.
    let mut dice = Dice::new(600);
    for _ in 0..2 {
        for _ in 0..200 {
            clients.swap_remove(dice.below(clients.len() as u64) as usize).finish();
        }
        clients.extend((0..200).map(|_| server.connect()));
        even(&mut clients);
    }
    clients.into_iter().for_each(Client::finish);
    server.stop();
}

#[test]
fn what_was_passed_to_a_worker_that_dies_is_served_by_its_successor() {
    let turn = Turn::shared();
    let server = start(&turn, "3");
    for _ in 0..5 {
        let workers = wait_settled(&server, 3);
        // Its siblings believe it to be idle, and pass on to it what they accept.
        freeze(workers[&2]);
        let mut clients: Vec<Client> = (0..60).map(|_| server.connect()).collect();
        clients.iter_mut().for_each(|client| client.send(1000));
        strike(workers[&2], Signal::SIGKILL);
        clients.iter_mut().for_each(|client| client.expect(1000));
        clients.into_iter().for_each(Client::finish);
    }
    server.stop();
}

#[test]
fn a_full_handoff_queue_costs_nobody_the_connection() {
    const CLIENTS: usize = 2600;
    let turn = Turn::alone();
    let args = [&LEAST[..], &["--workers", "2", "--connection-backlog", "4096"]].concat();
    let server = turn.start(&args);
    let (workers, queues) = (server.workers(), Queues::of(&server));
    let idle = descriptors_of(workers[&1]);
    // Nobody notices that worker 2 stands still, so its sibling goes on handing connections to it.
    freeze(server.controller());
    freeze(workers[&2]);
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| server.connect()).collect();
    wait_until(SOON, "worker 1 has accepted what it can", || queues.lengths()[&1] == 0);
    let accepted = CLIENTS - queues.lengths()[&2];
    // It keeps what does not fit: most of them.
    let full =
        try_for(SOON, || (descriptors_of(workers[&1]) > idle + accepted * 2 / 3).then_some(()));
    resume_all(&server, None);
    let is_lost = |client: &mut Client| match client.try_send(100) {
        Ok(()) => client.try_expect(100).is_err_and(|error| {
            assert_ne!(error.kind(), ErrorKind::WouldBlock, "a client waits in vain");
            true
        }),
        Err(_) => true,
    };
    let lost = clients.iter_mut().filter_map(|client| is_lost(client).then_some(())).count();
    assert_eq!(lost, 0, "lost of {accepted} connections that worker 1 accepted");
    assert!(full.is_some(), "the handoff queue was full");
    assert_eq!(spread(&server, CLIENTS).len(), 2);
    clients.into_iter().for_each(Client::finish);
    server.stop();
}

#[test]
fn what_was_passed_to_a_worker_that_hangs_does_not_stall() {
    let turn = Turn::shared();
    let server = start(&turn, "2");
    let workers = server.workers();
    freeze(workers[&2]);
    let begin = Instant::now();
    let mut clients: Vec<Client> = (0..40).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|client| client.send(1000));
    clients.iter_mut().for_each(|client| client.expect(1000));
    println!("all are answered after {:?}", begin.elapsed());
    assert!(begin.elapsed() < secs(3), "within the heartbeat and a bit: {:?}", begin.elapsed());
    strike(workers[&2], Signal::SIGCONT);
    server.log.wait_for(SOON, "worker responds again");
    clients.into_iter().for_each(Client::finish);
    server.stop();
}

#[test]
fn two_seconds_after_a_worker_has_stopped_nothing_is_passed_to_it_any_more() {
    let turn = Turn::alone();
    let server = start(&turn, "2");
    let workers = server.workers();
    freeze(workers[&2]);
    server.log.wait_for(secs(2), "worker does not respond");
    let ((), ledger) = under_visits(server.address(), || thread::sleep(ms(500)));
    ledger.assert_nothing_lost();
    assert!(ledger.stall() < ms(500), "{ledger:?}");
    strike(workers[&2], Signal::SIGCONT);
    server.log.wait_for(SOON, "worker responds again");
    let clients: Vec<Client> = (0..20).map(|_| served_client(&server)).collect();
    assert_eq!(spread(&server, 20), [10, 10], "it takes part again");
    drop(clients);
    server.stop();
}

#[test]
fn random_kills_under_load_cost_only_what_the_killed_one_served() {
    let turn = Turn::alone();
    let server = start(&turn, "4");
    let mut dice = Dice::new(4);
    let ((), tally) = under_connecting_load(server.address(), || {
        for _ in 0..10 {
            wait_until(SOON, "four workers", || server.workers().len() == 4);
            let workers: Vec<i32> = server.workers().into_values().collect();
            let victim = workers[dice.below(4) as usize];
            let _ = kill(Pid::from_raw(victim), Signal::SIGKILL);
            thread::sleep(ms(100));
        }
    });
    println!("{tally:?}");
    assert!(tally.failures.is_empty(), "nobody is refused, nobody waits in vain: {tally:?}");
    // A killed worker takes with it only what it was serving: at most one visit a client.
    assert!(tally.broken <= 10 * 4, "{tally:?}");
    assert!(tally.served > 200, "the load was real: {tally:?}");
    wait_settled(&server, 4);
    server.stop();
}

#[test]
fn reloads_scaling_and_passing_on_go_together() {
    let turn = Turn::alone();
    let args: Vec<&str> =
        LEAST.into_iter().chain(["--workers", "3", "--drain-spread", "500ms"]).collect();
    let server = turn.start(&args);
    let descriptors = descriptors_of(server.controller());
    let ((), ledger) = under_traffic(server.address(), || {
        for step in 0..6 {
            reload(&server);
            server.signal(if step % 2 == 0 { Signal::SIGTTIN } else { Signal::SIGTTOU });
            thread::sleep(ms(200));
        }
        reload(&server);
    });
    ledger.assert_nothing_lost();
    assert_eq!(ledger.transfers, TRANSFERS, "{ledger:?}");
    wait_settled(&server, 3);
    // The way to the worker that was one too many may be kept for the next time.
    wait_until(SOON, "nothing else is left over", || {
        descriptors_of(server.controller()) <= descriptors + 2
    });
    let clients: Vec<Client> = (0..12).map(|_| served_client(&server)).collect();
    assert_eq!(spread(&server, 12), [4, 4, 4]);
    drop(clients);
    server.stop();
}

#[test]
fn a_worker_more_gets_the_new_connections_until_it_has_its_share() {
    let turn = Turn::shared();
    let server = start(&turn, "2");
    let mut clients: Vec<Client> = (0..6).map(|_| served_client(&server)).collect();
    assert_eq!(spread(&server, 6), [3, 3]);
    server.signal(Signal::SIGTTIN);
    wait_until(SOON, "three workers", || server.log.count("worker ready") == 3);
    clients.extend((0..3).map(|_| served_client(&server)));
    assert_eq!(spread(&server, 9), [3, 3, 3]);
    drop(clients);
    server.stop();
}

#[test]
fn the_way_of_balancing_follows_the_file() {
    let turn = Turn::shared();
    let file = ConfigFile::new("workers = 4\nbalance = \"hash\"\n");
    let server = turn.start(&["--config", file.name()]);
    for way in ["least-connections", "hash", "least-connections"] {
        file.write(&format!("workers = 4\nbalance = \"{way}\"\n"));
        reload(&server);
        wait_settled(&server, 4);
        let spreads: Vec<Vec<usize>> = (0..8).map(|_| spread_of_sixteen(&server)).collect();
        let even = spreads.iter().filter(|counts| *counts == &[4; 4]).count();
        if way == "least-connections" {
            assert_eq!(even, 8, "{way}: {spreads:?}");
        } else {
            // The kernel's hash is even with a probability of 1/68, eight times in a row of 10^-14.
            assert!(even < 8, "{way}: {spreads:?}");
        }
    }
    server.stop();
}

/// Connections that each worker serves by the statistics, fewest first, once all are counted.
#[track_caller]
fn counted(server: &Server, all: usize) -> Vec<u64> {
    wait_for(SOON, "the statistics count every connection", || {
        let stats = stats(server);
        let slots = stats["slots"].as_array()?.iter();
        let of_slot = |slot: &Value| slot.pointer("/figures/connections_active")?.as_u64();
        let mut counts: Vec<u64> = slots.map(of_slot).collect::<Option<_>>()?;
        counts.sort();
        (counts.iter().sum::<u64>() == all as u64).then_some(counts)
    })
}

#[test]
fn after_a_reload_back_to_hash_no_connection_is_handed_off() {
    let turn = Turn::shared();
    let file = ConfigFile::new("");
    let configure = |way: &str| file.write(&format!("workers = 4\nbalance = \"{way}\"\n"));
    configure("least-connections");
    let server = turn.start(&["--config", file.name()]);
    for way in ["least-connections", "hash"] {
        configure(way);
        reload(&server);
        wait_settled(&server, 4);
        // Least connections keep within one of each other at any time; the kernel's hash does not do
        // that for long.
        let mut clients = Vec::new();
        let mut even = true;
        while even && clients.len() < 200 {
            clients.extend((0..8).map(|_| served_client(&server)));
            let counts = counted(&server, clients.len());
            even = counts[3] - counts[0] <= 1;
        }
        assert_eq!(even, way == "least-connections", "{way}: {} connections", clients.len());
        clients.into_iter().for_each(Client::finish);
    }
    server.stop();
}

/// Opens sixteen connections and closes them; returns how many each worker had, in ascending order.
fn spread_of_sixteen(server: &Server) -> Vec<usize> {
    let clients: Vec<Client> = (0..16).map(|_| served_client(server)).collect();
    let counts = spread(server, 16);
    clients.into_iter().for_each(Client::finish);
    spread(server, 0);
    counts
}
