//! Random events. Each event has a separate seed, so that removing one does not change the others.

use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::process::{Fate, Life};
use super::random::Random;
use super::setup::{Setup, first_setup, next_setup};
use super::world::World;
use crate::daemon::ids::SlotId;
use crate::sys::wait::ExitStatus;

/// Kind of a random event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Happening {
    Nothing,
    Connect,
    Kill,
    Crash,
    ExitWith(i32),
    StopProcess,
    Continue,
    ContinueAll,
    Hang,
    Unhang,
    Slow,
    Quick,
    TermWorker,
    TermGroup,
    Recycle,
    Fill,
    Free,
    Clog,
    Unclog,
    Stutter,
    AddWorker,
    RemoveWorker,
    Stop,
    Reload,
    ForksFail,
    Fate,
    SlotFails,
    Suspend,
    SuspendAll,
    ManagerStalls,
    ManagerRefuses,
    ManagerLoses,
    UnknownExit,
}

/// Random event: its kind, the seed of its details, and the time that passes after it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chaos {
    pub(super) what: Happening,
    pub(super) seed: u64,
    pub(super) pause: Duration,
}

/// Relative frequency of each kind. A sequence omits some kinds and repeats others more often.
const WEIGHTS: &[(Happening, u64)] = &[
    (Happening::Nothing, 60),
    (Happening::Connect, 120),
    (Happening::Kill, 25),
    (Happening::Crash, 8),
    (Happening::ExitWith(0), 3),
    (Happening::ExitWith(1), 3),
    (Happening::ExitWith(3), 1),
    (Happening::StopProcess, 20),
    (Happening::Continue, 20),
    (Happening::ContinueAll, 4),
    (Happening::Hang, 6),
    (Happening::Unhang, 5),
    (Happening::Slow, 8),
    (Happening::Quick, 8),
    (Happening::TermWorker, 8),
    (Happening::TermGroup, 1),
    (Happening::Recycle, 10),
    (Happening::Fill, 8),
    (Happening::Free, 8),
    (Happening::Clog, 6),
    (Happening::Unclog, 6),
    (Happening::Stutter, 5),
    (Happening::AddWorker, 20),
    (Happening::RemoveWorker, 20),
    (Happening::Stop, 2),
    (Happening::Reload, 22),
    (Happening::ForksFail, 6),
    (Happening::Fate, 12),
    (Happening::SlotFails, 5),
    (Happening::Suspend, 4),
    (Happening::SuspendAll, 3),
    (Happening::ManagerStalls, 4),
    (Happening::ManagerRefuses, 4),
    (Happening::ManagerLoses, 2),
    (Happening::UnknownExit, 2),
];

/// Returns the initial configuration and the events of a seed.
pub(super) fn sequence(seed: u64) -> (Setup, Vec<Chaos>) {
    let mut random = Random::new(seed);
    let setup = first_setup(&mut random);
    let mut weights: Vec<(Happening, u64)> = WEIGHTS.to_vec();
    for (what, weight) in &mut weights {
        let always = matches!(what, Happening::Connect | Happening::Nothing);
        *weight *= match random.below(10) {
            0..4 if !always => 0,
            9 => 4,
            _ => 1,
        };
    }
    let total: u64 = weights.iter().map(|(_, weight)| weight).sum();
    let length = match random.below(100) {
        0..96 => random.between(100, 140),
        96..99 => random.between(140, 300),
        _ => random.between(300, 1000),
    };
    // In halves. Slow sequences let long timeouts expire.
    let speed = [1, 2, 3, 4, 6, 8][random.index(6)];
    let events = (0..length).map(|_| {
        let mut at = random.below(total);
        let chosen = weights.iter().find(|(_, weight)| {
            let here = at < *weight;
            at = at.saturating_sub(*weight);
            here
        });
        let what = chosen.map_or(Happening::Nothing, |(what, _)| *what);
        let pause = match random.below(100) {
            0..30 => 0,
            30..65 => random.between(100, 20_000),
            65..88 => random.between(20_000, 300_000),
            88..99 => random.between(300_000, 2_500_000),
            _ => random.between(2_500_000, 12_000_000),
        };
        Chaos { what, seed: random.next(), pause: Duration::from_micros(pause * 2 / speed) }
    });
    (setup, events.collect())
}

impl World {
    /// Carries out an event and lets its pause pass.
    pub(super) fn happen(&mut self, chaos: &Chaos) {
        self.random = Random::new(chaos.seed);
        if self.trace.is_some() {
            let text = format!("* {:?} (pause {:?})", chaos.what, chaos.pause);
            self.log(|| text);
        }
        self.carry_out(chaos.what);
        let until = self.now + chaos.pause;
        self.advance(until);
    }

    fn carry_out(&mut self, what: Happening) {
        match what {
            Happening::Nothing => {}
            Happening::Connect => self.connect(),
            Happening::Kill => self.at_random(|world, pid| world.deliver(pid, Signal::SIGKILL)),
            Happening::Crash => self.at_random(|world, pid| world.deliver(pid, Signal::SIGSEGV)),
            Happening::ExitWith(code) => self.at_random(|world, pid| {
                let kernel = &mut world.kernel;
                if let Some(process) = world.processes.iter_mut().find(|it| it.pid == pid) {
                    process.die(ExitStatus::Code(code), kernel);
                    world.wake_controller();
                }
            }),
            Happening::StopProcess
            | Happening::Continue
            | Happening::Hang
            | Happening::Unhang
            | Happening::Slow
            | Happening::Quick
            | Happening::Recycle
            | Happening::Fill
            | Happening::Free
            | Happening::Clog
            | Happening::Unclog
            | Happening::Stutter => self.at_random(|world, pid| world.change(pid, what)),
            Happening::ContinueAll => {
                let pids: Vec<Pid> = self.processes.iter().map(|process| process.pid).collect();
                pids.into_iter().for_each(|pid| self.change(pid, Happening::Continue));
            }
            Happening::TermWorker => {
                self.at_random(|world, pid| world.deliver(pid, Signal::SIGTERM));
            }
            Happening::TermGroup => {
                let pids: Vec<Pid> = self.processes.iter().map(|process| process.pid).collect();
                pids.into_iter().for_each(|pid| self.deliver(pid, Signal::SIGTERM));
                self.signals.stop = true;
                self.wake_controller();
            }
            Happening::AddWorker => self.signal_controller(|signals| signals.add_worker = true),
            Happening::RemoveWorker => {
                self.signal_controller(|signals| signals.remove_worker = true);
            }
            Happening::Stop => self.signal_controller(|signals| signals.stop = true),
            Happening::Reload => {
                let next = next_setup(&self.setup, &mut self.random);
                self.reload.next = Some(next);
                self.signal_controller(|signals| signals.reload = true);
            }
            Happening::ForksFail
            | Happening::Fate
            | Happening::SlotFails
            | Happening::Suspend
            | Happening::SuspendAll
            | Happening::ManagerStalls
            | Happening::ManagerRefuses
            | Happening::ManagerLoses => self.inject_fault(what),
            Happening::UnknownExit => {
                let pid = Pid::from_raw(5000 + self.random.below(100) as i32);
                self.unknown_exits.push((pid, ExitStatus::Code(0)));
                self.wake_controller();
            }
        }
    }

    /// Injects a fault of later forks, the machine, or the service manager.
    fn inject_fault(&mut self, what: Happening) {
        match what {
            Happening::ForksFail => self.faults.forks = self.random.between(1, 4) as u32,
            Happening::Fate => {
                let fate = self.any_fate();
                let count = self.random.between(1, 3) as usize;
                self.faults.fates = vec![fate; count];
            }
            Happening::SlotFails => {
                let fate = self.any_fate();
                let slot = SlotId(self.random.below(5) as u32);
                let until = self.now + Duration::from_millis(self.random.between(100, 15_000));
                self.faults.slot = Some((slot, fate, until));
            }
            Happening::Suspend => {
                let millis = self.random.between(100, 15_000);
                self.suspended = Some(self.now + Duration::from_millis(millis));
            }
            Happening::SuspendAll => self.suspend_all(),
            Happening::ManagerStalls => {
                let millis = self.random.between(100, 9000);
                self.manager.stalled = Some(self.now + Duration::from_millis(millis));
            }
            Happening::ManagerRefuses => self.manager.failing = self.random.between(1, 5) as u32,
            Happening::ManagerLoses => self.manager.losing = self.random.between(1, 3) as u32,
            _ => {}
        }
    }

    fn signal_controller(&mut self, set: impl FnOnce(&mut super::world::Signals)) {
        set(&mut self.signals);
        self.wake_controller();
    }

    fn connect(&mut self) {
        let Self { kernel, random, setup, now, processes, children, .. } = self;
        let stays =
            |it: &&super::process::Process| children.get(&it.pid).is_some_and(|it| !it.leaving);
        let staying: Vec<_> = processes.iter().filter(stays).flat_map(|it| &it.attends).collect();
        for _ in 0..random.between(1, 6) {
            let known = kernel.groups.len();
            let address = if random.chance(20) && known > 0 {
                kernel.groups.keys().nth(random.index(known))
            } else {
                setup.addresses.get(random.index(setup.addresses.len()))
            };
            let Some(&address) = address else { return };
            let longest = if random.chance(15) { 300_000 } else { 500 };
            let handshake = Duration::from_micros(random.between(20, longest));
            // If every socket of the address is closing, the kernel has no better choice.
            let group = kernel.groups.get(&address);
            let mut members = group.into_iter().flat_map(|group| &group.members);
            let steered = !setup.passed.iter().any(|(passed, _)| *passed == address);
            let sound = steered
                && setup.addresses.contains(&address)
                && members.any(|member| staying.iter().any(|(_, socket)| socket == member));
            kernel.connect(address, *now, handshake, sound, random);
        }
    }

    /// Acts on a random process, preferably a worker.
    fn at_random(&mut self, act: impl FnOnce(&mut Self, Pid)) {
        let alive = self.processes.iter().filter(|process| process.is_alive());
        let pids: Vec<Pid> = alive.map(|process| process.pid).collect();
        if pids.is_empty() {
            return;
        }
        let mut pid = pids[self.random.index(pids.len())];
        if self.process_mut(pid).is_some_and(|process| process.slot == SlotId::ADMIN) {
            pid = pids[self.random.index(pids.len())];
        }
        if self.trace.is_some() {
            let slot = self.process_mut(pid).map_or(SlotId::ADMIN, |process| process.slot);
            self.log(|| format!("  at {pid} of slot {slot}"));
        }
        act(self, pid);
    }

    fn change(&mut self, pid: Pid, what: Happening) {
        let now = self.now;
        let slow = Duration::from_millis(self.random.between(20, 1300));
        let Self { processes, random, .. } = self;
        let Some(process) = processes.iter_mut().find(|process| process.pid == pid) else { return };
        match what {
            Happening::StopProcess => process.stopped = true,
            Happening::Continue => process.stopped = false,
            Happening::Hang => process.hung = process.life == Life::Running,
            Happening::Unhang => process.hung = false,
            Happening::Slow => process.slow = slow,
            Happening::Quick => process.slow = Duration::ZERO,
            Happening::Recycle => process.recycle = process.slot != SlotId::ADMIN,
            Happening::Fill => process.full = true,
            Happening::Free => process.full = false,
            Happening::Clog => process.clogged = true,
            Happening::Unclog => process.clogged = false,
            Happening::Stutter => process.stutters = true,
            _ => {}
        }
        process.notify(now, random);
    }

    fn any_fate(&mut self) -> Fate {
        let millis = Duration::from_millis(self.random.between(1, 12_000));
        let soon = Duration::from_millis(self.random.between(0, 300));
        match self.random.below(20) {
            0..5 => Fate::Crash(soon),
            5..9 => Fate::CrashWhenReady,
            9..12 => Fate::Exit(1),
            12 => Fate::Exit(3),
            13..15 => Fate::Never,
            15..18 => Fate::Ready(soon),
            _ => Fate::Ready(millis),
        }
    }

    /// Suspends the machine: no process runs, and every deadline may pass.
    fn suspend_all(&mut self) {
        let slept = Duration::from_millis(self.random.between(500, 40_000));
        self.now += slept;
        self.watch_sleep();
        for process in &mut self.processes {
            process.wake = process.wake.max(self.now);
        }
    }
}
