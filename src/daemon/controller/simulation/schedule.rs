//! Simulated time, and the order in which the controller, processes, and the kernel run.

use std::time::Instant;

use super::process::{Context, Life, Process};
use super::world::World;

/// Maximum number of steps between two random events; more indicate a busy loop.
const MAX_STEPS: u32 = 50_000;

impl World {
    /// Advances time to `until`, and runs whatever is due before.
    pub(super) fn advance(&mut self, until: Instant) {
        for step in 0.. {
            if self.failure.is_some() || self.exited.is_some() {
                return;
            }
            if step > MAX_STEPS {
                return self.fail("no process spins", || "too many steps".into());
            }
            let due = self.next_due();
            if due > until {
                self.now = self.now.max(until);
                return;
            }
            self.now = self.now.max(due);
            self.step();
            self.check_resets();
        }
    }

    fn next_due(&self) -> Instant {
        let mut due = self.controller_due();
        for process in self.processes.iter().filter(|process| process.can_run()) {
            due = due.min(process.wake);
        }
        let others = [self.kernel.next_handshake(), self.manager.wake()].into_iter().flatten();
        let deaths = self.doomed.iter().map(|(_, at, _)| *at);
        others.chain(deaths).fold(due, Instant::min)
    }

    /// Runs one component that is due.
    fn step(&mut self) {
        let now = self.now;
        if self.kernel.next_handshake().is_some_and(|due| due <= now) {
            for socket in self.kernel.establish(now) {
                self.notify_attendants(socket);
            }
            return;
        }
        if self.manager.wake().is_some_and(|due| due <= now) {
            if self.manager.step(&mut self.kernel) {
                self.wake_controller();
            }
            return;
        }
        if let Some(index) = self.doomed.iter().position(|(_, at, _)| *at <= now) {
            let (pid, _, status) = self.doomed.swap_remove(index);
            let kernel = &mut self.kernel;
            let mut process = self.processes.iter_mut();
            if let Some(process) = process.find(|process| process.pid == pid && process.is_alive())
            {
                process.die(status, kernel);
                self.wake_controller();
            }
            return;
        }
        let is_due = |process: &Process| process.wake <= now && process.can_run();
        let due = self.processes.iter().filter(|process| is_due(process)).count();
        let controller = usize::from(self.controller_due() <= now);
        if due + controller == 0 {
            return;
        }
        let chosen = self.random.index(due + controller);
        let mut processes = self.processes.iter().enumerate();
        match processes.by_ref().filter(|(_, process)| is_due(process)).nth(chosen) {
            Some((index, _)) => self.run_process(index),
            None => self.tick(),
        }
    }

    fn notify_attendants(&mut self, socket: usize) {
        let Self { processes, random, now, .. } = self;
        for process in processes.iter_mut().filter(|process| process.attends_socket(socket)) {
            process.notify(*now, random);
        }
    }

    fn run_process(&mut self, index: usize) {
        let Self { processes, kernel, random, coverage, now, listed, calm, .. } = self;
        let process = &mut processes[index];
        let mut context = Context {
            kernel,
            random,
            coverage,
            now: *now,
            listed,
            touched: Vec::new(),
            calm: *calm,
        };
        let before = (process.life, process.phase, process.attends.len());
        process.step(&mut context);
        let touched = context.touched;
        // New and granted queues may already contain connections.
        if process.life == Life::Running {
            let queues = process.attends.iter().chain(&process.handoff_queues);
            let waiting = |socket: usize| !kernel.sockets[socket].waiting.is_empty();
            if !process.full && queues.into_iter().any(|(_, socket)| waiting(*socket)) {
                process.notify(*now, random);
            }
        }
        let speaks = !process.to_controller.is_empty() || !process.is_alive();
        let after = (process.life, process.phase, process.attends.len());
        if self.trace.is_some() && before != after {
            let process = &self.processes[index];
            let text = format!(
                "    {} of slot {}: {:?}, attends {:?}, connections {}, says {:?}{}",
                process.pid,
                process.slot,
                process.life,
                process
                    .attends
                    .iter()
                    .chain(&process.handoff_queues)
                    .map(|(id, _)| id.0)
                    .collect::<Vec<_>>(),
                process.connections,
                process.to_controller,
                if process.staged.is_empty() { "" } else { ", and more soon" },
            );
            self.log(|| text);
        }
        if speaks {
            self.wake_controller();
        }
        touched.into_iter().for_each(|socket| self.notify_attendants(socket));
    }
}
