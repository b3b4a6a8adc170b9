//! The driver: the event loop of one load thread, with its connections, tasks, and ramp-up.

mod lifecycle;

use std::collections::VecDeque;
use std::io;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::{Poll, Registry, Token};

use super::clock::{Alarm, Clock};
use super::connection::{Connection, Context, Next};
use super::progress::LiveCounters;
use super::ramp_up::RampUp;
use super::schedule::{Action, Schedule, Task, TaskQueue};
use super::stats::LoadStats;
use super::workload::Workload;
use crate::event_loop::{self, Handler};
use crate::tools::payload::MAX_SLICE;

const ALARM: Token = Token(usize::MAX);
/// Timeout of connecting and of finishing, in nanoseconds.
const TIMEOUT: u64 = 5_000_000_000;
/// Maximum time between two checks of the stop flag, in nanoseconds.
const STOP_CHECK_INTERVAL: u64 = 100_000_000;
/// Maximum number of connections to advance in one loop iteration during the ramp-up.
const ADVANCES_DURING_RAMP_UP: usize = 256;

/// The parts of a run that all threads share.
#[derive(Debug)]
pub(super) struct Shared<'a> {
    pub workload: &'a Workload,
    pub clock: Clock,
    /// Set to end the run early.
    pub stop: &'a AtomicBool,
}

/// A client: keeps one connection open, and replaces it when it ends.
#[derive(Debug, Default)]
struct Client {
    connection: Option<Connection>,
    /// Number of connections so far. Events and tasks of earlier ones are stale.
    generation: u32,
    /// Open loop: the messages that no earlier connection has started.
    schedule: Option<Schedule>,
}

/// Stage of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Running,
    /// No further message starts. Connections may finish until `deadline`.
    Finishing {
        deadline: u64,
    },
}

/// State of a load thread.
#[derive(Debug)]
pub(super) struct Driver<'a> {
    workload: &'a Workload,
    clock: Clock,
    stop: &'a AtomicBool,
    counters: &'a LiveCounters,
    thread: u32,
    registry: Registry,
    alarm: Alarm,
    clients: Vec<Client>,
    ramp_up: RampUp,
    /// Clients whose connection can advance.
    ready: VecDeque<u32>,
    tasks: TaskQueue,
    /// Connect and finish deadlines. All have the same timeout, so they are added in order.
    deadlines: VecDeque<Task>,
    /// Number of connections, including those being opened.
    connections: u32,
    stage: Stage,
    buffer: Vec<u8>,
    stats: LoadStats,
}

/// Runs thread `thread`, counted from 0, and returns its stats.
///
/// # Errors
/// No free descriptor for the event loop, or an error of epoll_wait(2).
pub(super) fn run(
    shared: &Shared<'_>,
    thread: u32,
    counters: &LiveCounters,
) -> io::Result<LoadStats> {
    let mut poll = Poll::new()?;
    let mut driver = Driver::new(shared, thread, counters, poll.registry().try_clone()?)?;
    event_loop::run(&mut poll, &mut driver)?;
    Ok(driver.stats)
}

impl<'a> Driver<'a> {
    fn new(
        shared: &Shared<'a>,
        thread: u32,
        counters: &'a LiveCounters,
        registry: Registry,
    ) -> io::Result<Self> {
        let Shared { workload, clock, stop } = *shared;
        let share = workload.share(thread);
        // The threads open their connections in turn.
        let pace = workload
            .connect_interval
            .map(|interval| (interval * f64::from(thread), interval * f64::from(workload.threads)));
        let mut alarm = Alarm::new(clock, &registry, ALARM)?;
        // Starts the first loop iteration immediately.
        alarm.set(0, clock.now());
        Ok(Self {
            workload,
            clock,
            stop,
            counters,
            thread,
            alarm,
            registry,
            clients: (0..share).map(|_| Client::default()).collect(),
            ramp_up: RampUp::new(share, workload.threads, pace),
            ready: VecDeque::with_capacity(share as usize),
            tasks: TaskQueue::default(),
            deadlines: VecDeque::new(),
            connections: 0,
            stage: Stage::Running,
            buffer: vec![0; MAX_SLICE],
            stats: LoadStats::new(),
        })
    }

    fn connection(&mut self, client: u32) -> Option<&mut Connection> {
        self.clients[client as usize].connection.as_mut()
    }

    /// Returns a task for the current connection of a client.
    fn task(&self, action: Action, client: u32, at: u64) -> Task {
        Task { at, action, client, generation: self.clients[client as usize].generation }
    }

    fn schedule(&mut self, action: Action, client: u32, at: u64) {
        let task = self.task(action, client, at);
        self.tasks.add(task);
    }

    fn add_deadline(&mut self, action: Action, client: u32, now: u64) {
        let task = self.task(action, client, now + TIMEOUT);
        self.deadlines.push_back(task);
    }

    fn take_due(&mut self, now: u64) -> Option<Task> {
        if self.deadlines.front().is_some_and(|task| task.at <= now) {
            return self.deadlines.pop_front();
        }
        self.tasks.take_due(now)
    }

    fn run_due_tasks(&mut self, now: u64) {
        while let Some(Task { at, action, client, generation }) = self.take_due(now) {
            let workload = self.workload;
            let Client { connection, generation: current, .. } = &mut self.clients[client as usize];
            if *current != generation {
                continue;
            }
            let Some(connection) = connection else {
                if action == Action::Retry {
                    self.ramp_up.enqueue(client);
                }
                continue;
            };
            match action {
                Action::Send => {
                    if let Some(next) = connection.permit_due(now, workload) {
                        self.schedule(Action::Send, client, next);
                        self.queue(client);
                    }
                }
                Action::Finish => {
                    // Messages that became due before are sent first.
                    self.advance(client);
                    self.finish_in_time(client, at);
                }
                Action::ConnectDeadline if connection.is_connecting() => self.time_out(client),
                // A server that accepts but does not echo must not block the ramp-up.
                Action::ConnectDeadline => self.finish_opening(client),
                Action::FinishDeadline => self.time_out(client),
                Action::Retry => {}
            }
        }
    }

    /// Adds a client to the ready queue unless it is there already.
    fn queue(&mut self, client: u32) {
        let Some(connection) = &mut self.clients[client as usize].connection else { return };
        if connection.queued {
            return;
        }
        connection.queued = true;
        // Connections being opened come first, because the next one waits for them.
        if connection.opening {
            self.ready.push_front(client);
        } else {
            self.ready.push_back(client);
        }
    }

    /// Advances each queued connection once, or a part of them during the ramp-up.
    fn advance_ready(&mut self) {
        let max = if self.ramp_up.is_done() { usize::MAX } else { ADVANCES_DURING_RAMP_UP };
        for _ in 0..self.ready.len().min(max) {
            let Some(client) = self.ready.pop_front() else { return };
            if let Some(connection) = self.connection(client) {
                connection.queued = false;
                self.advance(client);
            }
        }
    }

    fn advance(&mut self, client: u32) {
        let Some(connection) = &mut self.clients[client as usize].connection else { return };
        let was_connecting = connection.is_connecting();
        let mut context = Context {
            workload: self.workload,
            clock: self.clock,
            buffer: &mut self.buffer,
            stats: &mut self.stats,
            run_ends: self.stage != Stage::Running,
        };
        let next = connection.advance(&mut context);
        if was_connecting && !connection.is_connecting() {
            self.on_established(client);
        }
        match next {
            Ok(Next::Wait) => {}
            Ok(Next::Again) => self.queue(client),
            Ok(Next::Closed) => return self.close(client),
            Err(error) => return self.fail(client, error),
        }
        let workload = self.workload;
        if self.connection(client).is_some_and(|connection| connection.is_accepted(workload)) {
            self.finish_opening(client);
        }
    }

    fn set_alarm(&mut self, now: u64) {
        if let Some(at) = self.ramp_up.next(now).into_iter().chain(self.tasks.next()).min() {
            self.alarm.set(at, now);
        }
    }
}

/// Converts a duration to the unit of the run's clock.
fn nanoseconds(time: Duration) -> u64 {
    time.as_nanos() as u64
}

impl Handler for Driver<'_> {
    type Stop = ();

    fn ready(&mut self, event: &Event) {
        if event.token() == ALARM {
            return;
        }
        let Token(token) = event.token();
        let (client, generation) = (token as u32, (token >> 32) as u32);
        if self.clients[client as usize].generation == generation {
            if let Some(connection) = self.connection(client) {
                connection.update_readiness(event);
                self.queue(client);
            }
        }
    }

    fn tick(&mut self, _: Instant) -> ControlFlow<()> {
        let now = self.clock.now();
        self.run_due_tasks(now);
        self.open_connections(now);
        self.advance_ready();
        if self.stage == Stage::Running {
            let expired = now >= nanoseconds(self.workload.duration);
            if expired || self.stop.load(Ordering::Relaxed) {
                self.end_run(now);
            }
        }
        self.counters.publish(&self.stats, self.connections - self.ramp_up.opening());
        if let Stage::Finishing { deadline } = self.stage {
            if now >= deadline {
                (0..self.clients.len() as u32).for_each(|client| self.time_out(client));
            }
            if self.connections == 0 {
                return ControlFlow::Break(());
            }
        }
        self.set_alarm(now);
        ControlFlow::Continue(())
    }

    fn deadline(&self, now: Instant) -> Option<Instant> {
        if !self.ready.is_empty() {
            return Some(now);
        }
        let end = match self.stage {
            Stage::Running => nanoseconds(self.workload.duration),
            Stage::Finishing { deadline } => deadline,
        };
        let stop_check = self.clock.now() + STOP_CHECK_INTERVAL;
        Some(self.clock.instant(end.min(stop_check)))
    }
}
