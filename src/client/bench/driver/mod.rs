//! One thread of a run: its connections, its agenda, and the event loop that turns them.

mod life;

use std::collections::VecDeque;
use std::io;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::{Poll, Registry, Token};

use super::clock::{Alarm, Clock};
use super::connection::{Connection, Next, Turn};
use super::opening::Opening;
use super::plan::Plan;
use super::progress::Live;
use super::schedule::{Agenda, Entry, Task, Timetable};
use super::tally::Tally;
use crate::client::source::REACH;
use crate::event_loop::{self, Handler};

const ALARM: Token = Token(usize::MAX);
/// Nanoseconds a connection may take to be opened, or to end.
const PATIENCE: u64 = 5_000_000_000;
/// Nanoseconds after which the loop looks whether it is to stop.
const GLANCE: u64 = 100_000_000;
/// Turns of connections in a turn of the loop while there are connections to open.
const DRIVES_WHILE_OPENING: usize = 256;

/// What all threads of a run share.
#[derive(Debug)]
pub(super) struct Shared<'a> {
    /// The run.
    pub plan: &'a Plan,
    /// Its time.
    pub clock: Clock,
    /// Set when it is to end before its time.
    pub stop: &'a AtomicBool,
}

/// Where a connection is, is not yet, or will be again.
#[derive(Debug, Default)]
struct Slot {
    connection: Option<Connection>,
    generation: u32,
    /// Open loop: when the messages are due that no former connection has begun.
    timetable: Option<Timetable>,
}

/// Whether the run goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Running,
    /// What is under way is waited for until that time.
    Ending(u64),
}

/// A thread at work.
#[derive(Debug)]
pub(super) struct Driver<'a> {
    plan: &'a Plan,
    clock: Clock,
    stop: &'a AtomicBool,
    live: &'a Live,
    thread: u32,
    registry: Registry,
    alarm: Alarm,
    slots: Vec<Slot>,
    opening: Opening,
    /// Slots whose connection wants a turn.
    ready: VecDeque<u32>,
    agenda: Agenda,
    /// When patience ends, in order: it is the same for all. Looked at now and then.
    deadlines: VecDeque<Entry>,
    /// Connections in slots.
    present: u32,
    stage: Stage,
    buffer: Vec<u8>,
    tally: Tally,
}

/// Runs thread number `thread`, from 0, to its end and returns what it has counted.
///
/// # Errors
/// No descriptor for the event loop, or those of epoll_wait(2).
pub(super) fn run(shared: &Shared<'_>, thread: u32, live: &Live) -> io::Result<Tally> {
    let mut poll = Poll::new()?;
    let mut driver = Driver::new(shared, thread, live, poll.registry().try_clone()?)?;
    event_loop::run(&mut poll, &mut driver)?;
    Ok(driver.tally)
}

impl<'a> Driver<'a> {
    fn new(
        shared: &Shared<'a>,
        thread: u32,
        live: &'a Live,
        registry: Registry,
    ) -> io::Result<Self> {
        let Shared { plan, clock, stop } = *shared;
        let share = plan.share(thread);
        // In turn with the other threads.
        let pace = plan
            .connect_interval
            .map(|interval| (interval * f64::from(thread), interval * f64::from(plan.threads)));
        let mut alarm = Alarm::new(clock, &registry, ALARM)?;
        // The first turn comes at once.
        alarm.set(0, clock.now());
        Ok(Self {
            plan,
            clock,
            stop,
            live,
            thread,
            alarm,
            registry,
            slots: (0..share).map(|_| Slot::default()).collect(),
            opening: Opening::new(share, plan.threads, pace),
            ready: VecDeque::with_capacity(share as usize),
            agenda: Agenda::default(),
            deadlines: VecDeque::new(),
            present: 0,
            stage: Stage::Running,
            buffer: vec![0; REACH],
            tally: Tally::new(),
        })
    }

    /// An entry for the present connection of a slot.
    fn entry(&self, task: Task, slot: u32, at: u64) -> Entry {
        Entry { at, task, slot, generation: self.slots[slot as usize].generation }
    }

    fn schedule(&mut self, task: Task, slot: u32, at: u64) {
        let entry = self.entry(task, slot, at);
        self.agenda.add(entry);
    }

    fn take_due(&mut self, now: u64) -> Option<Entry> {
        if self.deadlines.front().is_some_and(|entry| entry.at <= now) {
            return self.deadlines.pop_front();
        }
        self.agenda.take_due(now)
    }

    /// Does what is due.
    fn do_tasks(&mut self, now: u64) {
        while let Some(Entry { at, task, slot: index, generation }) = self.take_due(now) {
            let slot = &mut self.slots[index as usize];
            if slot.generation != generation {
                continue;
            }
            let Some(connection) = &mut slot.connection else {
                if task == Task::Retry {
                    self.opening.want(index);
                }
                continue;
            };
            match task {
                Task::Send => {
                    if let Some(next) = connection.release_due(now, self.plan) {
                        self.schedule(Task::Send, index, next);
                        self.queue(index);
                    }
                }
                Task::Finish => {
                    // What has become due before is sent first.
                    self.drive(index);
                    self.finish_in_time(index, at);
                }
                Task::ConnectDeadline if connection.is_connecting() => self.give_up(index),
                // A server that does not echo must not keep the others from being opened.
                Task::ConnectDeadline => self.note_arrival(index),
                Task::EndDeadline => self.give_up(index),
                Task::Retry => {}
            }
        }
    }

    /// A turn for this connection.
    fn queue(&mut self, index: u32) {
        if let Some(connection) = &mut self.slots[index as usize].connection {
            if !connection.queued {
                connection.queued = true;
                // The next one is opened when this one has arrived.
                if connection.on_its_way {
                    self.ready.push_front(index);
                } else {
                    self.ready.push_back(index);
                }
            }
        }
    }

    /// One turn for every connection that wants one, or for some of them.
    fn drive_ready(&mut self) {
        let most = if self.opening.is_over() { usize::MAX } else { DRIVES_WHILE_OPENING };
        for _ in 0..self.ready.len().min(most) {
            let Some(index) = self.ready.pop_front() else { return };
            if let Some(connection) = &mut self.slots[index as usize].connection {
                connection.queued = false;
                self.drive(index);
            }
        }
    }

    /// A turn of one connection.
    fn drive(&mut self, index: u32) {
        let Some(connection) = &mut self.slots[index as usize].connection else { return };
        let was_connecting = connection.is_connecting();
        let mut turn = Turn {
            plan: self.plan,
            clock: self.clock,
            buffer: &mut self.buffer,
            tally: &mut self.tally,
            ending: self.stage != Stage::Running,
        };
        let next = connection.drive(&mut turn);
        if was_connecting && !connection.is_connecting() {
            self.on_opened(index);
        }
        match next {
            Ok(Next::Wait) => {}
            Ok(Next::Again) => self.queue(index),
            Ok(Next::Closed) => return self.close(index),
            Err(trouble) => return self.fail(index, trouble),
        }
        let connection = &self.slots[index as usize].connection;
        if connection.as_ref().is_some_and(|connection| connection.has_arrived(self.plan)) {
            self.note_arrival(index);
        }
    }

    /// Sets the alarm for whatever comes next.
    fn set_alarm(&mut self, now: u64) {
        if let Some(at) = self.opening.next(now).into_iter().chain(self.agenda.next()).min() {
            self.alarm.set(at, now);
        }
    }
}

/// A length of time as the clock of the run counts.
fn nanoseconds(time: Duration) -> u64 {
    time.as_nanos() as u64
}

impl Handler for Driver<'_> {
    type Stop = ();

    fn ready(&mut self, event: &Event) {
        let Token(token) = event.token();
        let (index, generation) = (token as u32, (token >> 32) as u32);
        if event.token() == ALARM {
            return;
        }
        let slot = &mut self.slots[index as usize];
        if slot.generation == generation {
            if let Some(connection) = &mut slot.connection {
                connection.mark(event);
                self.queue(index);
            }
        }
    }

    fn tick(&mut self, _: Instant) -> ControlFlow<()> {
        let now = self.clock.now();
        self.do_tasks(now);
        self.open_some(now);
        self.drive_ready();
        if self.stage == Stage::Running {
            let over = now >= nanoseconds(self.plan.duration);
            if over || self.stop.load(Ordering::Relaxed) {
                self.end(now);
            }
        }
        self.live.publish(&self.tally, self.present - self.opening.under_way());
        if let Stage::Ending(deadline) = self.stage {
            if now >= deadline {
                (0..self.slots.len() as u32).for_each(|index| self.give_up(index));
            }
            if self.present == 0 {
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
            Stage::Running => nanoseconds(self.plan.duration),
            Stage::Ending(deadline) => deadline,
        };
        let glance = self.clock.now() + GLANCE;
        Some(self.clock.instant(end.min(glance)))
    }
}
