//! The log: one line per event on standard error, with role and pid of the process, as text or JSON.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Subscriber, warn};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;

use crate::config::{LogConfig, LogFormat, LogLevel};
use crate::sys::stderr::LogPipe;
use crate::text;

/// Target of events that end the process. They have the level FATAL.
pub const FATAL: &str = "fatal";

/// Role of this process: the slot of a worker, 0 for the controller, or [`ADMIN`].
static ROLE: AtomicU32 = AtomicU32::new(0);

/// Role of the admin process; no slot has this number.
const ADMIN: u32 = u32::MAX;

/// Destination of the log, `None` while it is closed. As a process has one thread, the lock never blocks.
static PIPE: Mutex<Option<LogPipe>> = Mutex::new(None);

/// Starts logging with the role of the controller.
pub fn init(config: &LogConfig) {
    reopen();
    let level = match config.level {
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Fatal => LevelFilter::OFF,
    };
    let filter = Targets::new().with_default(level).with_target(FATAL, LevelFilter::ERROR);
    let format = LineFormat { json: config.format == LogFormat::Json, stamp: config.timestamps };
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::TRACE)
        .event_format(format)
        .with_writer(ToPipe)
        .finish()
        .with(filter);
    // Only a second call fails.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

/// Sets the role of this process: the worker of `slot`.
pub(crate) fn set_role_worker(slot: u32) {
    ROLE.store(slot, Ordering::Relaxed);
}

/// Sets the role of this process: the admin process.
pub(crate) fn set_role_admin() {
    ROLE.store(ADMIN, Ordering::Relaxed);
}

/// Reopens the log after standard error was redirected or the log was closed.
pub(crate) fn reopen() {
    *pipe() = Some(LogPipe::open());
}

/// Closes the log until [`reopen`].
pub(crate) fn close() {
    *pipe() = None;
}

fn pipe() -> MutexGuard<'static, Option<LogPipe>> {
    PIPE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Logs the number of dropped lines once the log can be written again. Returns the number of lines dropped
/// since the last call.
pub(crate) fn report_dropped() -> u64 {
    // Releases the lock, which the log line needs.
    let count = pipe().as_ref().map_or(0, LogPipe::take_unreported);
    if count > 0 {
        warn!(count, "log lines dropped");
    }
    pipe().as_ref().map_or(0, LogPipe::take_dropped)
}

/// Writes a formatted line, which ends with a newline, whatever the log level.
pub(crate) fn write_line(line: &[u8]) {
    if let Some(pipe) = &*pipe() {
        pipe.write_line(line);
    }
}

struct ToPipe;

impl<'a> MakeWriter<'a> for ToPipe {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        Self
    }
}

impl io::Write for ToPipe {
    /// Called once per event with the whole line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        write_line(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct LineFormat {
    json: bool,
    stamp: bool,
}

impl<S, N> FormatEvent<S, N> for LineFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line =
            Line { level: level_name(event), message: String::new(), fields: Vec::new() };
        event.record(&mut line);
        let stamp = self.stamp.then(timestamp).transpose()?;
        if self.json {
            // JSON lines always have a timestamp.
            let stamp = stamp.map_or_else(timestamp, Ok)?;
            line.write_json(&mut writer, &stamp)
        } else {
            line.write_text(&mut writer, stamp.as_deref())
        }
    }
}

/// The parts of a log line.
struct Line {
    level: &'static str,
    message: String,
    /// In the order of the event.
    fields: Vec<(&'static str, Value)>,
}

impl Line {
    fn write_text(&self, out: &mut impl fmt::Write, stamp: Option<&str>) -> fmt::Result {
        if let Some(stamp) = stamp {
            write!(out, "{stamp} ")?;
        }
        write!(out, "{:<5} {}[{}]: ", self.level, role(), std::process::id())?;
        text::write_one_line(out, &self.message)?;
        for (name, value) in &self.fields {
            write!(out, " {name}=")?;
            match value {
                Value::String(text) if is_plain(text) => out.write_str(text)?,
                other => write!(out, "{other}")?,
            }
        }
        out.write_char('\n')
    }

    fn write_json(&self, out: &mut impl fmt::Write, stamp: &str) -> fmt::Result {
        let pid = std::process::id();
        write!(
            out,
            r#"{{"timestamp":"{stamp}","level":"{}","role":"{}","pid":{pid}"#,
            self.level,
            role()
        )?;
        write!(out, r#","message":{}"#, Value::from(self.message.as_str()))?;
        for (name, value) in &self.fields {
            write!(out, ",{}:{value}", Value::from(*name))?;
        }
        out.write_str("}\n")
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = shorten(&format!("{value:?}"));
        if field.name() == "message" {
            self.message = text;
        } else {
            self.fields.push((field.name(), text.into()));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.fields.push((field.name(), shorten(value).into()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.fields.push((field.name(), value.into()));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.fields.push((field.name(), value.into()));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.fields.push((field.name(), value.into()));
    }
}

fn level_name(event: &Event<'_>) -> &'static str {
    let metadata = event.metadata();
    if metadata.target() == FATAL { "FATAL" } else { metadata.level().as_str() }
}

fn role() -> String {
    match ROLE.load(Ordering::Relaxed) {
        0 => "controller".into(),
        ADMIN => "admin".into(),
        slot => format!("worker-{slot}"),
    }
}

fn timestamp() -> Result<String, fmt::Error> {
    let mut text = String::new();
    write_timestamp(&mut text)?;
    Ok(text)
}

/// Appends the current time (RFC 3339, UTC, with microseconds).
///
/// # Errors
/// Those of `out`.
pub(crate) fn write_timestamp(out: &mut String) -> fmt::Result {
    tracing_subscriber::fmt::time::SystemTime.format_time(&mut Writer::new(out))
}

/// Returns the first 600 characters of a text, so that a line fits into one write even as JSON.
fn shorten(text: &str) -> String {
    const LONGEST: usize = 600;
    text.chars().take(LONGEST).collect()
}

/// Returns `true` if a value needs no quotes in a text line.
fn is_plain(text: &str) -> bool {
    !text.is_empty()
        && !text.contains(|char: char| char.is_control() || matches!(char, ' ' | '"' | '='))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(message: &str) -> Line {
        let fields = vec![("slot", 3.into()), ("status", "exit code 1".into())];
        Line { level: "WARN", message: message.into(), fields }
    }

    #[test]
    fn text_line_has_level_role_pid_message_and_fields() {
        let mut out = String::new();
        line("worker exited").write_text(&mut out, Some("NOW")).unwrap();
        let pid = std::process::id();
        let expected =
            format!("NOW WARN  controller[{pid}]: worker exited slot=3 status=\"exit code 1\"\n");
        assert_eq!(out, expected);
    }

    #[test]
    fn json_line_is_a_flat_object() {
        let mut out = String::new();
        line("two\nlines \"quoted\"").write_json(&mut out, "NOW").unwrap();
        let object: Value = serde_json::from_str(&out).expect("JSON");
        assert_eq!(object["message"], "two\nlines \"quoted\"");
        assert_eq!(object["slot"], 3);
        assert_eq!(object["role"], "controller");
        assert_eq!(out.lines().count(), 1);
    }

    #[test]
    fn control_characters_are_escaped() {
        let mut out = String::new();
        line("evil\nINFO  all is well\x1b[0m").write_text(&mut out, None).unwrap();
        assert_eq!(out.lines().count(), 1);
        assert!(!out.contains('\x1b'));
    }
}
