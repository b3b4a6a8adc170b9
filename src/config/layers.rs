//! The layers, put together, and what they mean.

use std::num::{NonZeroU32, NonZeroU64};
use std::thread;
use std::time::Duration;

use super::defaults::defaults;
use super::file::{self, File};
use super::{
    AdminConfig, Config, ConfigError, ConnectionConfig, FleetConfig, IdleClose, Keepalive,
    ListenConfig, LogConfig, ProcessConfig, listen, one_line,
};
use crate::cli::{Cli, Settings};

/// The shortest `worker-timeout`.
const SHORTEST_WORKER_TIMEOUT: Duration = Duration::from_secs(1);

/// The layers before they are put together.
pub(super) struct Layers<'a> {
    cli: &'a Cli,
    file: File,
}

impl<'a> Layers<'a> {
    pub(super) fn read(cli: &'a Cli) -> Result<Self, ConfigError> {
        let file = cli.config.as_deref().map(file::read).transpose()?.unwrap_or_default();
        Ok(Self { cli, file })
    }

    /// The settings that win.
    pub(super) fn effective(&self) -> Settings {
        let Cli { settings, environment, .. } = self.cli.clone();
        settings.or(environment).or(self.file.settings.clone()).or(defaults())
    }

    /// Which layer a setting is from.
    pub(super) fn origin(&self, key: &str) -> &'static str {
        let has = |settings: &Settings| settings.to_table().contains_key(key);
        if has(&self.cli.settings) {
            "command line"
        } else if has(&self.cli.environment) {
            "environment"
        } else if has(&self.file.settings) {
            "file"
        } else {
            "default"
        }
    }

    pub(super) fn config(&self) -> Result<Config, ConfigError> {
        let settings = self.effective();
        self.check(&settings)?;
        Ok(Config {
            listen: self.listen(&settings)?,
            fleet: fleet(&settings),
            connection: connection(&settings),
            admin: admin(&settings),
            log: LogConfig {
                level: filled(settings.log_level),
                format: filled(settings.log_format),
                timestamps: filled(settings.enable_log_timestamps),
                access: filled(settings.access_log),
                access_file: settings.access_log_file.clone().map(|path| path.get()),
                empty: filled(settings.log_empty),
            },
            process: ProcessConfig {
                daemon: filled(settings.daemon),
                pid_file: settings.pid_file.clone().map(|path| path.get()),
                state_file: settings.state_file.clone().map(|path| path.get()),
            },
            faults: self.cli.faults.clone(),
            settings,
        })
    }

    fn listen(&self, settings: &Settings) -> Result<ListenConfig, ConfigError> {
        let specs = filled(settings.listen.as_ref());
        let endpoints = listen::endpoints(specs, filled(settings.port).get())
            .map_err(|message| ConfigError::Invalid { place: self.place_of("listen"), message })?;
        Ok(ListenConfig {
            endpoints,
            backlog: filled(settings.connection_backlog).get(),
            share_port: filled(settings.allow_shared_port),
            nodelay: filled(settings.enable_nodelay),
            keepalive: filled(settings.keepalive_delay)
                .unless_zero()
                .map(|delay| Keepalive::new(delay, filled(settings.write_timeout).unless_zero())),
        })
    }

    /// What to point at when a setting is wrong.
    fn place_of(&self, key: &str) -> String {
        match (self.origin(key), &self.cli.config) {
            ("environment", _) => format!("TCP_ECHO_{}", key.to_uppercase().replace('-', "_")),
            ("file", Some(path)) => {
                let line = self.file.lines.get(key).copied().unwrap_or(1);
                one_line(&format!("{}:{line}: {key}", path.display()))
            }
            _ => format!("--{key}"),
        }
    }

    fn check(&self, settings: &Settings) -> Result<(), ConfigError> {
        match filled(settings.worker_timeout).unless_zero() {
            // A worker gives a sign of life three times in that time.
            Some(limit) if limit < SHORTEST_WORKER_TIMEOUT => Err(ConfigError::Invalid {
                place: self.place_of("worker-timeout"),
                message: "less than a second is too short (0 = off)".into(),
            }),
            _ => self.check_files(settings),
        }
    }

    /// Each file is written in its own way: two of them in one place would ruin each other.
    fn check_files(&self, settings: &Settings) -> Result<(), ConfigError> {
        let files = [
            ("pid-file", settings.pid_file.clone().map(|path| path.get())),
            ("state-file", settings.state_file.clone().map(|path| path.get())),
            ("access-log-file", settings.access_log_file.clone().map(|path| path.get())),
            ("config", self.cli.config.clone()),
        ];
        for (index, (key, path)) in files.iter().enumerate() {
            let same = files[index + 1..].iter().find(|(_, other)| path.is_some() && other == path);
            if let Some((other, _)) = same {
                let message = format!("the same file as {other}");
                return Err(ConfigError::Invalid { place: self.place_of(key), message });
            }
        }
        Ok(())
    }
}

fn fleet(settings: &Settings) -> FleetConfig {
    FleetConfig {
        workers: NonZeroU32::new(filled(settings.workers).get()).unwrap_or_else(usable_cpus),
        worker_timeout: filled(settings.worker_timeout).unless_zero(),
        graceful_timeout: filled(settings.graceful_timeout).get(),
        shutdown_delay: filled(settings.shutdown_delay).get(),
        drain_timeout: filled(settings.drain_timeout).get(),
        drain_spread: filled(settings.drain_spread).get(),
        pin_cpus: filled(settings.cpu_affinity),
        balance: filled(settings.balance),
        busy_poll: NonZeroU64::new(filled(settings.busy_poll).get())
            .map(|microseconds| Duration::from_micros(microseconds.get())),
    }
}

fn admin(settings: &Settings) -> AdminConfig {
    AdminConfig {
        address: settings.admin.clone(),
        hosts: settings.admin_host.clone().unwrap_or_default(),
        min_healthy: NonZeroU32::new(filled(settings.min_healthy).get()).unwrap_or(NonZeroU32::MIN),
    }
}

fn connection(settings: &Settings) -> ConnectionConfig {
    ConnectionConfig {
        buffer_size: filled(settings.buffer_size).get(),
        splice: filled(settings.splice),
        idle_timeout: filled(settings.idle_timeout).unless_zero(),
        write_timeout: filled(settings.write_timeout).unless_zero(),
        linger_timeout: filled(settings.linger_timeout).get(),
        idle_close: if filled(settings.enable_send_reset) {
            IdleClose::Reset
        } else {
            IdleClose::Fin
        },
        idle_message: settings.idle_message.clone().filter(|text| !text.is_empty()),
        max_connections: NonZeroU64::new(filled(settings.max_connections).get()),
        max_concurrent_connections: NonZeroU32::new(
            filled(settings.max_concurrent_connections).get(),
        ),
    }
}

/// A setting that has a default, once the defaults are below it.
fn filled<T>(setting: Option<T>) -> T {
    setting.expect("the lowest layer has a value for this setting")
}

/// One worker for each CPU this process may use (affinity and quota count), 1..=1024.
fn usable_cpus() -> NonZeroU32 {
    let cpus = thread::available_parallelism().map_or(1, |cpus| cpus.get().min(1024));
    u32::try_from(cpus).ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MIN)
}
