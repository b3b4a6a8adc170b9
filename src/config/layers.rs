//! Layers of settings, and the configuration that they make.

use std::ffi::{OsStr, OsString};
use std::num::{NonZeroU32, NonZeroU64};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use super::file::{self, File};
use super::listen::ListError;
use super::listen::table::LISTENER;
use super::options::{OPTIONS, OptionDefinition, Settings};
use super::{
    AdminConfig, Config, ConfigError, ConnectionConfig, Fault, FleetConfig, IdleClose, Keepalive,
    LimitsConfig, ListenConfig, LogConfig, MAX_WORKERS, ProcessConfig, listen,
};
use crate::text::one_line;

/// The shortest `worker-timeout`.
const SHORTEST_WORKER_TIMEOUT: Duration = Duration::from_secs(1);

/// Settings by origin. The command line wins over the environment, the environment over the file, and
/// the file over the defaults.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Layers {
    /// Settings of the command line.
    pub command_line: Settings,
    /// Settings of environment variables.
    pub environment: Settings,
    /// Path of the configuration file.
    pub file: Option<PathBuf>,
    /// Failures on purpose, for tests.
    pub faults: Vec<Fault>,
}

impl Layers {
    /// Adds the environment layer, and the path of the file if there is none yet. `variable` returns
    /// the value of an environment variable.
    ///
    /// # Errors
    /// A variable has an invalid value.
    pub fn read_environment(
        &mut self,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Result<(), ConfigError> {
        for option in OPTIONS {
            let name = option.variable();
            let Some(value) = variable(&name).filter(|value| is_set(&name, value)) else {
                continue;
            };
            let text = value.to_string_lossy();
            let invalid = |message: &str| ConfigError::Invalid {
                place: one_line(&format!("invalid value '{text}' for '{name}'")),
                message: one_line(message),
            };
            let text = value.to_str().ok_or_else(|| invalid("not UTF-8"))?;
            let setting = option.parse(text).map_err(|error| invalid(&error.0))?;
            self.environment = std::mem::take(&mut self.environment).or(setting);
        }
        if self.file.is_none() {
            let path = variable("TCP_ECHO_CONFIG").filter(|path| !path.is_empty());
            self.file = path.map(PathBuf::from);
        }
        Ok(())
    }
}

/// Returns `true` unless the variable is empty, as compose files and scripts leave it, or is the
/// address that Kubernetes puts into TCP_ECHO_PORT if a service is named tcp-echo.
fn is_set(name: &str, value: &OsStr) -> bool {
    let is_address = name == "TCP_ECHO_PORT" && value.to_string_lossy().contains("://");
    !value.is_empty() && !is_address
}

/// Layers with the contents of the file.
pub(super) struct Sources<'a> {
    layers: &'a Layers,
    file: File,
}

impl<'a> Sources<'a> {
    pub(super) fn read(layers: &'a Layers) -> Result<Self, ConfigError> {
        let file = layers.file.as_deref().map(file::read).transpose()?.unwrap_or_default();
        Ok(Self { layers, file })
    }

    /// Returns the settings that win.
    pub(super) fn effective(&self) -> Settings {
        let Layers { command_line, environment, .. } = self.layers.clone();
        command_line.or(environment).or(self.file.settings.clone()).or(Settings::defaults())
    }

    /// Returns the layer that a setting is from.
    pub(super) fn origin(&self, option: &OptionDefinition) -> &'static str {
        if option.is_in(&self.layers.command_line) {
            "command line"
        } else if option.is_in(&self.layers.environment) {
            "environment"
        } else if option.is_in(&self.file.settings) {
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
            limits: LimitsConfig {
                max_connections: NonZeroU64::new(filled(settings.max_connections).get()),
                max_concurrent_connections: NonZeroU32::new(
                    filled(settings.max_concurrent_connections).get(),
                ),
            },
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
            faults: self.layers.faults.clone(),
            settings,
        })
    }

    fn listen(&self, settings: &Settings) -> Result<ListenConfig, ConfigError> {
        let invalid = |ListError { index, message }| ConfigError::Invalid {
            place: self.place_of_listener(index),
            message: one_line(&message),
        };
        let specs = filled(settings.listen.as_ref());
        Ok(ListenConfig {
            listeners: listen::listeners(specs, settings).map_err(invalid)?,
            backlog: filled(settings.connection_backlog).get(),
            share_port: filled(settings.allow_shared_port),
        })
    }

    /// Returns the place of a listener: the line of its table in the file, or that of the list. An
    /// `index` of `None` stands for the whole list.
    fn place_of_listener(&self, index: Option<usize>) -> String {
        let table = index.and_then(|index| self.file.tables.get(index));
        let line = table.or_else(|| self.file.lines.get(LISTENER));
        let origin = OptionDefinition::find("listen").map(|option| self.origin(option));
        match (line, origin, &self.layers.file) {
            (Some(line), Some("file"), Some(path)) => {
                one_line(&format!("{}:{line}: {LISTENER}", path.display()))
            }
            _ => self.place_of("listen"),
        }
    }

    /// Returns the place to name if a setting is wrong: the line of the file, the variable, or the
    /// option.
    fn place_of(&self, name: &str) -> String {
        let option = OptionDefinition::find(name);
        match (option.map(|option| (option, self.origin(option))), &self.layers.file) {
            (Some((option, "environment")), _) => option.variable(),
            (Some((_, "file")), Some(path)) => {
                let line = self.file.lines.get(name).copied().unwrap_or(1);
                one_line(&format!("{}:{line}: {name}", path.display()))
            }
            _ => format!("--{name}"),
        }
    }

    fn check(&self, settings: &Settings) -> Result<(), ConfigError> {
        match filled(settings.worker_timeout).unless_zero() {
            // A worker sends three heartbeats in this time.
            Some(limit) if limit < SHORTEST_WORKER_TIMEOUT => Err(ConfigError::Invalid {
                place: self.place_of("worker-timeout"),
                message: "must be 0 (off), or between 1s and 8760h (365 days)".into(),
            }),
            _ => self.check_files(settings),
        }
    }

    /// Rejects one path for two files, as each file is written in its own way.
    fn check_files(&self, settings: &Settings) -> Result<(), ConfigError> {
        let files = [
            ("pid-file", settings.pid_file.clone().map(|path| path.get())),
            ("state-file", settings.state_file.clone().map(|path| path.get())),
            ("access-log-file", settings.access_log_file.clone().map(|path| path.get())),
            ("config", self.layers.file.clone()),
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

pub(super) fn connection(settings: &Settings) -> ConnectionConfig {
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
    }
}

pub(super) fn keepalive(settings: &Settings) -> Option<Keepalive> {
    let delay = filled(settings.keepalive_delay).unless_zero()?;
    Some(Keepalive::new(delay, filled(settings.write_timeout).unless_zero()))
}

/// Returns the value of an option that has a default.
pub(super) fn filled<T>(setting: Option<T>) -> T {
    setting.expect("the option has a default")
}

/// Returns the number of CPUs that affinity and quota leave to this process, 1..=[`MAX_WORKERS`].
fn usable_cpus() -> NonZeroU32 {
    let cpus = thread::available_parallelism().map_or(1, |cpus| cpus.get());
    let workers = u32::try_from(cpus).map_or(MAX_WORKERS, |cpus| cpus.min(MAX_WORKERS));
    NonZeroU32::new(workers).unwrap_or(NonZeroU32::MIN)
}
