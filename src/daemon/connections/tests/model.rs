//! Random scripts against a model: every byte received is sent once, in order, or counted as
//! abandoned, and no wake-up is lost.

use std::time::Duration;

use proptest::prelude::*;

use super::world::{World, config};
use crate::config::{ConnectionConfig, IdleClose, Splice};
use crate::daemon::services::Echo;
use crate::daemon::stats::{Reason, Statistics};

/// What happens next, to the client, the kernel, or the process.
#[derive(Clone, Debug)]
enum Step {
    Send(usize),
    SendUrgent,
    Finish,
    Reset,
    /// The client reads: the send buffer gets space.
    Room(usize),
    /// The client acknowledges what was sent; what is sent later only if `true`.
    Acknowledge(bool),
    /// The call after that many others is interrupted, or fails.
    Interrupt(usize),
    Fail(usize),
    ShortSplices(Vec<usize>),
    /// An event gets lost, as if the batch had been full: it comes with the next one or never.
    Hide,
    Iterate,
    Run,
    Pass(u32),
    Skip(u32),
    Drain(Option<u64>),
    Evict,
    Housekeeping,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => prop_oneof![0usize..40, Just(65536), 60_000usize..200_000].prop_map(Step::Send),
        1 => Just(Step::SendUrgent),
        1 => Just(Step::Finish),
        1 => Just(Step::Reset),
        6 => prop_oneof![0usize..40, 1usize..100_000].prop_map(Step::Room),
        2 => Just(Step::Room(usize::MAX / 4)),
        1 => any::<bool>().prop_map(Step::Acknowledge),
        1 => (0usize..5).prop_map(Step::Interrupt),
        1 => (0usize..30).prop_map(Step::Fail),
        2 => prop::collection::vec(1usize..70_000, 1..5).prop_map(Step::ShortSplices),
        1 => Just(Step::Hide),
        8 => Just(Step::Iterate),
        8 => Just(Step::Run),
        2 => (1u32..60).prop_map(Step::Pass),
        1 => (1u32..200).prop_map(Step::Skip),
        1 => prop::option::of(0u64..10).prop_map(Step::Drain),
        1 => Just(Step::Evict),
        1 => Just(Step::Housekeeping),
    ];
    prop::collection::vec(step, 1..60)
}

fn configs() -> impl Strategy<Value = ConnectionConfig> {
    let sizes = prop_oneof![Just(1usize), Just(8), Just(1000), Just(65536), Just(131_072)];
    (sizes, any::<bool>(), any::<bool>()).prop_map(|(buffer_size, splice, fin)| ConnectionConfig {
        buffer_size,
        splice: if splice { Splice::Auto } else { Splice::Off },
        idle_close: if fin { IdleClose::Fin } else { IdleClose::Reset },
        ..config()
    })
}

fn apply(world: &mut World<'_, Echo>, step: Step, most: usize) {
    use nix::errno::Errno;
    let calls = world.socket().calls.len();
    match step {
        // A client that has finished sends no more.
        Step::Send(_) | Step::SendUrgent if world.socket().is_finished() => {}
        Step::Send(count) => world.send_quietly(count.min(most)),
        Step::SendUrgent => world.send_urgent(),
        Step::Finish => world.socket().client_finishes(),
        Step::Reset => world.socket().client_resets(),
        Step::Room(count) => world.socket().add_room(count),
        Step::Acknowledge(all) => {
            let sent = world.socket().sent.len();
            world.socket().acknowledged = (!all).then_some(sent);
        }
        Step::Interrupt(after) => world.socket().fail_at = Some((calls + after, Errno::EINTR)),
        Step::Fail(after) => world.socket().fail_at = Some((calls + after, Errno::ECONNRESET)),
        Step::ShortSplices(limits) => world.socket().splice_limits.extend(limits),
        Step::Hide => world.socket().hide_event(),
        Step::Iterate => world.iterate(),
        Step::Run => world.run(),
        Step::Pass(ticks) => world.pass(ticks),
        Step::Skip(ticks) => world.skip(ticks),
        Step::Drain(spread) => {
            world.connections.drain(world.now(), spread.map(Duration::from_secs));
        }
        Step::Evict => world.evict(),
        Step::Housekeeping => world.connections.housekeeping(),
    }
}

proptest! {
    #[test]
    fn every_byte_is_sent_once_in_order_or_abandoned(config in configs(), steps in steps()) {
        let statistics = Statistics::new().expect("memory");
        let mut world = World::without_room(&statistics, &config, Echo);
        let mut hidden = false;
        let mut undisturbed = true;
        for step in steps {
            hidden |= matches!(step, Step::Hide);
            undisturbed &= matches!(
                step,
                Step::Send(_) | Step::SendUrgent | Step::Finish | Step::Room(_) | Step::Iterate | Step::Run
                    | Step::Interrupt(_) | Step::ShortSplices(_) | Step::Acknowledge(_)
            );
            // Few iterations, whatever the size of the buffer.
            apply(&mut world, step, 100 * config.buffer_size);
            world.assert_balanced();
            world.assert_in_order();
            if !world.connections.is_empty() {
                prop_assert!(world.connections.next_timer().is_some(), "no state without a deadline");
            }
        }
        // The client reads everything, and is done.
        world.socket().add_room(usize::MAX / 4);
        world.socket().client_finishes();
        world.run();
        if hidden {
            world.skip(1000);
        }
        prop_assert!(world.connections.is_empty(), "a wake-up was lost");
        world.assert_balanced();
        let endings = world.endings();
        prop_assert_eq!(endings.len(), 1, "one connection, one end");
        if undisturbed {
            prop_assert_eq!(endings[0], Reason::ClientDone);
            world.assert_echoed();
        }
        if endings[0] == Reason::ClientDone {
            world.assert_echoed();
        }
    }
}
