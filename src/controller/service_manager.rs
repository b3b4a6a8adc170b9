//! Talking to the service manager: the notifier's texts, sent.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::time::{Duration, Instant};

use tracing::warn;

use super::Controller;
use super::notify::{Notifier, Phase, View, fdstore, fdstore_remove, watchdog_interval};
use crate::process::fork::own_pid;
use crate::process::notify_socket::NotifySocket;
use crate::stats::Word;

/// The connection to the service manager, if there is one.
#[derive(Debug)]
pub(super) struct ServiceManager {
    socket: Option<NotifySocket>,
    notifier: Notifier,
    /// Which sockets it keeps for us: slot and place.
    stored: BTreeSet<(u32, usize)>,
}

impl ServiceManager {
    /// Looks for a manager in the environment.
    pub(super) fn find() -> Self {
        let variable = |name: &str| -> Option<OsString> { std::env::var_os(name) };
        let socket = variable("NOTIFY_SOCKET").filter(|value| !value.is_empty());
        let socket = socket.and_then(|value| {
            let opened = NotifySocket::from_env_value(&value);
            opened.inspect_err(|error| warn!("cannot talk to the service manager: {error}")).ok()
        });
        let interval = watchdog_interval(own_pid(), variable);
        Self { socket, notifier: Notifier::new(interval), stored: BTreeSet::new() }
    }

    /// Which sockets it keeps for us, for the next image to know.
    pub(super) fn stored(&self) -> Vec<(u32, usize)> {
        self.stored.iter().copied().collect()
    }

    /// Goes on from what the image before knew.
    pub(super) fn resume(stored: Vec<(u32, usize)>) -> Self {
        Self { stored: stored.into_iter().collect(), ..Self::find() }
    }

    /// When it wants to hear from us.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.socket.as_ref().and(self.notifier.deadline())
    }
}

impl Controller<'_> {
    /// Tells the service manager what has changed.
    pub(super) fn notify(&mut self, now: Instant) {
        if self.manager.socket.is_none() {
            return;
        }
        let view = self.view(now);
        let uptime = self.clock.uptime(now).as_micros() as u64;
        let texts = self.manager.notifier.tick(view, now, uptime);
        let Some(socket) = &self.manager.socket else { return };
        for text in texts {
            if let Err(error) = socket.send(&text) {
                warn!("the service manager does not listen: {error}");
                self.manager.notifier.unheard();
                return;
            }
        }
    }

    fn view(&self, now: Instant) -> View {
        let brain = &self.supervisor;
        let phase = if brain.is_starting() {
            Phase::Starting
        } else if brain.is_stopping() {
            Phase::Draining
        } else if self.reload.is_active() || brain.is_renewing() {
            Phase::Reloading
        } else {
            Phase::Serving
        };
        let seats = self.handles.values().map(|handle| self.statistics.seat(handle.seat));
        let workers_ready = brain.healthy().len() as u32;
        View {
            phase,
            workers_ready,
            workers_wanted: brain.wanted(),
            connections: seats.map(|seat| seat.get(Word::Connections)).fold(0, u64::saturating_add),
            healthy: workers_ready * 2 >= brain.wanted(),
            drain_left: brain.drain_left(now).unwrap_or(Duration::ZERO),
        }
    }

    /// Lets the manager keep the sockets of a slot, so that what is queued there survives even our
    /// own crash.
    pub(super) fn store_sockets(&mut self, slot: u32) {
        let Some(socket) = &self.manager.socket else { return };
        for (place, listener) in self.listeners.of(slot).into_iter().enumerate() {
            if self.manager.stored.contains(&(slot, place)) {
                continue;
            }
            match socket.send_with(&fdstore(slot, place), &[listener]) {
                Ok(()) => {
                    self.manager.stored.insert((slot, place));
                }
                Err(error) => warn!(slot, "the service manager does not keep a socket: {error}"),
            }
        }
    }

    /// The sockets of a slot are gone, or are others now.
    pub(super) fn unstore_sockets(&mut self, slot: u32) {
        let Some(socket) = &self.manager.socket else { return };
        let of_slot: Vec<(u32, usize)> =
            self.manager.stored.range((slot, 0)..=(slot, usize::MAX)).copied().collect();
        for (slot, place) in of_slot {
            self.manager.stored.remove(&(slot, place));
            // At worst it keeps a socket that nobody wants.
            let _ = socket.send(&fdstore_remove(slot, place));
        }
    }
}
