//! The log: one line an event on standard error, with the role and pid of who speaks. The only
//! tracing-subscriber of the project.

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
use crate::process::stderr::LogPipe;

/// The target of events after which the process ends: level FATAL.
pub const FATAL: &str = "fatal";

/// The slot of the worker that speaks; 0 is the controller, [`ADMIN`] the admin process.
static SLOT: AtomicU32 = AtomicU32::new(0);

/// No slot.
const ADMIN: u32 = u32::MAX;

/// Where lines go. A process has one thread: the lock is never waited for.
static PIPE: Mutex<Option<LogPipe>> = Mutex::new(None);

/// Starts logging, as the controller.
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
    // Only a second call could fail.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

/// From now on the worker of this slot speaks.
pub fn speak_as_worker(slot: u32) {
    SLOT.store(slot, Ordering::Relaxed);
}

/// From now on the admin process speaks.
pub fn speak_as_admin() {
    SLOT.store(ADMIN, Ordering::Relaxed);
}

/// Looks anew at what standard error is, after it has been redirected.
pub fn reopen() {
    *pipe() = Some(LogPipe::open());
}

/// Closes the log until [`reopen`].
pub fn close() {
    *pipe() = None;
}

fn pipe() -> MutexGuard<'static, Option<LogPipe>> {
    PIPE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns how many lines were dropped since the last time, and says so once there is room to.
pub fn report_dropped() -> u64 {
    // The lock is free again behind this line, which the log line needs.
    let count = pipe().as_ref().map_or(0, LogPipe::take_unsaid);
    if count > 0 {
        warn!(count, "log lines dropped");
    }
    pipe().as_ref().map_or(0, LogPipe::take_dropped)
}

/// Writes a line that is formatted already, whatever the level.
pub fn write_line(line: &[u8]) {
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
    /// Called once an event, with the whole line.
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
            // A machine that reads lines wants to know when, always.
            let stamp = stamp.map_or_else(timestamp, Ok)?;
            line.write_json(&mut writer, &stamp)
        } else {
            line.write_text(&mut writer, stamp.as_deref())
        }
    }
}

/// One event, taken apart.
struct Line {
    level: &'static str,
    message: String,
    /// In the order in which they were written.
    fields: Vec<(&'static str, Value)>,
}

impl Line {
    fn write_text(&self, out: &mut impl fmt::Write, stamp: Option<&str>) -> fmt::Result {
        if let Some(stamp) = stamp {
            write!(out, "{stamp} ")?;
        }
        write!(out, "{:<5} {}[{}]: ", self.level, role(), std::process::id())?;
        write_on_one_line(out, &self.message)?;
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
    match SLOT.load(Ordering::Relaxed) {
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

/// Appends the time as RFC 3339 has it, in UTC, to the microsecond.
///
/// # Errors
/// Those of `out`.
pub fn write_timestamp(out: &mut String) -> fmt::Result {
    tracing_subscriber::fmt::time::SystemTime.format_time(&mut Writer::new(out))
}

/// Nothing that is logged can forge a second line.
fn write_on_one_line(out: &mut impl fmt::Write, text: &str) -> fmt::Result {
    for char in text.chars() {
        if char.is_control() {
            write!(out, "{}", char.escape_default())?;
        } else {
            out.write_char(char)?;
        }
    }
    Ok(())
}

/// The beginning of a text, short enough that a whole line fits into one write even as JSON.
fn shorten(text: &str) -> String {
    const LONGEST: usize = 600;
    text.chars().take(LONGEST).collect()
}

/// Whether a value can stand in a text line without quotes.
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
    fn a_text_line_says_who_and_what() {
        let mut out = String::new();
        line("worker exited").write_text(&mut out, Some("NOW")).unwrap();
        let pid = std::process::id();
        let expected =
            format!("NOW WARN  controller[{pid}]: worker exited slot=3 status=\"exit code 1\"\n");
        assert_eq!(out, expected);
    }

    #[test]
    fn a_json_line_is_one_flat_object() {
        let mut out = String::new();
        line("two\nlines \"quoted\"").write_json(&mut out, "NOW").unwrap();
        let object: Value = serde_json::from_str(&out).expect("JSON");
        assert_eq!(object["message"], "two\nlines \"quoted\"");
        assert_eq!(object["slot"], 3);
        assert_eq!(object["role"], "controller");
        assert_eq!(out.lines().count(), 1);
    }

    #[test]
    fn control_characters_cannot_forge_a_line() {
        let mut out = String::new();
        line("evil\nINFO  all is well\x1b[0m").write_text(&mut out, None).unwrap();
        assert_eq!(out.lines().count(), 1);
        assert!(!out.contains('\x1b'));
    }
}
