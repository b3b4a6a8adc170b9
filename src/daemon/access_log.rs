//! The access log: one line per closed connection.
//!
//! Lines that cannot be written are dropped and counted. The log reports the first one, and the end of the
//! failure.

use std::fmt::{self, Display, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use crate::config::{AccessLog as Which, LogConfig, LogFormat};
use crate::daemon::connections::record::{Record, Recorder};
use crate::daemon::stats::{Field, Reason, StatsBlock};
use crate::logging;
use crate::sys::line_file::LineFile;
use crate::text::reason;

/// Time without a dropped line after which a failure counts as over.
const RECOVERY_TIME: Duration = Duration::from_secs(1);

/// An access log file that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("--access-log-file {path}: {}", reason(source))]
pub struct AccessLogError {
    path: PathBuf,
    source: std::io::Error,
}

/// Checks that the access log file can be opened, if one is configured.
///
/// # Errors
/// [`AccessLogError`].
pub(crate) fn check(config: &LogConfig) -> Result<(), AccessLogError> {
    match &config.access_file {
        Some(path) if config.access != Which::Off => {
            LineFile::check(path).map_err(|source| AccessLogError { path: path.clone(), source })
        }
        _ => Ok(()),
    }
}

/// The access log of a worker.
#[derive(Debug)]
pub struct AccessLog<'a> {
    which: Which,
    empty: bool,
    format: LogFormat,
    slot: u32,
    /// `None` if lines go to the log.
    file: Option<LineFile>,
    block: StatsBlock<'a>,
    /// Buffer for a line, reused to avoid allocations.
    line: String,
    failure: Option<Failure>,
}

/// A time in which lines are dropped.
#[derive(Clone, Copy, Debug)]
struct Failure {
    dropped: u64,
    last_dropped: Instant,
}

impl<'a> AccessLog<'a> {
    /// Opens the access log of the worker of `slot`, `None` if it is off. Dropped lines are counted in `block`.
    pub(crate) fn open(config: &LogConfig, slot: u32, block: StatsBlock<'a>) -> Option<Self> {
        let wanted = config.access != Which::Off;
        wanted.then(|| Self {
            which: config.access,
            empty: config.empty,
            format: config.format,
            slot,
            file: config.access_file.as_deref().map(LineFile::open),
            block,
            line: String::with_capacity(512),
            failure: None,
        })
    }

    fn is_wanted(&self, record: &Record, reason: Reason) -> bool {
        let of_kind = self.which == Which::All || !reason.is_orderly();
        of_kind && (self.empty || record.received > 0)
    }

    fn drop_line(&mut self, error: &std::io::Error, now: Instant) {
        self.block.add(Field::LogDropped, 1);
        if self.failure.is_none() {
            let path = self.file.as_ref().map_or_else(PathBuf::new, |file| file.path().to_owned());
            warn!(path = %path.display(), %error, "access log write failed, dropping lines");
        }
        let dropped = self.failure.map_or(0, |failure| failure.dropped) + 1;
        self.failure = Some(Failure { dropped, last_dropped: now });
    }

    fn write(&mut self, now: Instant) {
        let Some(file) = &mut self.file else { return logging::write_line(self.line.as_bytes()) };
        match file.write_line(self.line.as_bytes()) {
            Err(error) => self.drop_line(&error, now),
            Ok(()) => {
                let over = |failure: &Failure| failure.last_dropped + RECOVERY_TIME <= now;
                if let Some(Failure { dropped, .. }) = self.failure.filter(over) {
                    self.failure = None;
                    let path = file.path().display();
                    info!(%path, dropped, "access log recovered");
                }
            }
        }
    }
}

impl Recorder for AccessLog<'_> {
    fn record(&mut self, record: &Record, reason: Reason) {
        if !self.is_wanted(record, reason) {
            return;
        }
        let now = Instant::now();
        self.line.clear();
        let line = Line { slot: self.slot, record, reason, duration: now - record.since };
        // Writing to a String cannot fail.
        let _ = match self.format {
            LogFormat::Text => line.write_text(&mut self.line),
            LogFormat::Json => line.write_json(&mut self.line),
        };
        self.write(now);
    }
}

/// The content of a line. Of the client it contains only addresses and numbers.
struct Line<'a> {
    slot: u32,
    record: &'a Record,
    reason: Reason,
    duration: Duration,
}

impl Line<'_> {
    fn write_text(&self, out: &mut String) -> fmt::Result {
        let Record { peer, local, received, sent, .. } = self.record;
        let (slot, pid, reason) = (self.slot, std::process::id(), self.reason.label());
        logging::write_timestamp(out)?;
        write!(out, " INFO  worker-{slot}[{pid}]: connection ended slot={slot}")?;
        write!(out, " peer={} local={}", Known(*peer), Known(*local))?;
        write!(out, " duration_ms={} received={received} sent={sent}", self.millis())?;
        writeln!(out, " reason={reason}")
    }

    fn write_json(&self, out: &mut String) -> fmt::Result {
        let Record { peer, local, received, sent, .. } = self.record;
        let (slot, pid, reason) = (self.slot, std::process::id(), self.reason.label());
        out.push_str(r#"{"timestamp":""#);
        logging::write_timestamp(out)?;
        write!(out, r#"","level":"INFO","role":"worker-{slot}","pid":{pid}"#)?;
        write!(out, r#","message":"connection ended","slot":{slot}"#)?;
        write!(out, r#","peer":{},"local":{}"#, Quoted(*peer), Quoted(*local))?;
        write!(out, r#","duration_ms":{},"received":{received}"#, self.millis())?;
        writeln!(out, r#","sent":{sent},"reason":"{reason}"}}"#)
    }

    fn millis(&self) -> impl Display {
        Millis(self.duration)
    }
}

/// A duration in milliseconds, with microseconds as decimals.
struct Millis(Duration);

impl Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}", self.0.as_millis(), self.0.subsec_micros() % 1000)
    }
}

/// A value as text, `-` if it is unknown.
struct Known<T>(Option<T>);

impl<T: Display> Display for Known<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(known) => known.fmt(f),
            None => f.write_str("-"),
        }
    }
}

/// A value as JSON, `null` if it is unknown.
struct Quoted<T>(Option<T>);

impl<T: Display> Display for Quoted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(known) => write!(f, "\"{known}\""),
            None => f.write_str("null"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::ids::BlockId;
    use crate::daemon::stats::Statistics;
    use serde_json::Value;

    fn record(received: u64) -> Record {
        let peer = Some("[fe80::1]:4000".parse().expect("address"));
        Record { peer, local: None, since: Instant::now(), received, sent: received / 2 }
    }

    fn line(record: &Record) -> Line<'_> {
        let duration = Duration::from_micros(1_234_056);
        Line { slot: 3, record, reason: Reason::WriteTimeout, duration }
    }

    #[test]
    fn text_line_has_the_format_of_the_log() {
        let mut out = String::new();
        line(&record(100)).write_text(&mut out).expect("text");
        let (stamp, rest) = out.split_once(' ').expect("a time");
        assert!(stamp.ends_with('Z'));
        let expected = format!(
            "INFO  worker-3[{}]: connection ended slot=3 peer=[fe80::1]:4000 local=- \
             duration_ms=1234.056 received=100 sent=50 reason=write_timeout\n",
            std::process::id()
        );
        assert_eq!(rest, expected);
    }

    #[test]
    fn json_line_is_an_object() {
        let mut out = String::new();
        line(&record(100)).write_json(&mut out).expect("text");
        let object: Value = serde_json::from_str(&out).expect("JSON");
        assert_eq!((&object["slot"], &object["peer"]), (&3.into(), &"[fe80::1]:4000".into()));
        assert_eq!((&object["local"], &object["duration_ms"]), (&Value::Null, &1234.056.into()));
        assert_eq!((&object["received"], &object["sent"]), (&100.into(), &50.into()));
        assert_eq!(object["reason"], "write_timeout");
        assert_eq!(out.lines().count(), 1);
    }

    #[test]
    fn only_wanted_connections_are_logged() {
        let statistics = Statistics::new().expect("memory");
        let log = |which, empty| AccessLog {
            which,
            empty,
            format: LogFormat::Text,
            slot: 1,
            file: None,
            block: statistics.block(BlockId(0)),
            line: String::new(),
            failure: None,
        };
        let errors = log(Which::Errors, false);
        for &reason in Reason::ALL {
            assert!(log(Which::All, false).is_wanted(&record(1), reason));
            assert!(!log(Which::All, false).is_wanted(&record(0), reason), "it sent nothing");
            assert!(log(Which::All, true).is_wanted(&record(0), reason));
            let calm = ["client_fin", "idle", "drain", "answered"].contains(&reason.label());
            assert_eq!(errors.is_wanted(&record(1), reason), !calm);
        }
    }

    #[test]
    fn lines_dropped_by_a_full_disk_are_counted() {
        let statistics = Statistics::new().expect("memory");
        let mut log = AccessLog {
            which: Which::All,
            empty: false,
            format: LogFormat::Json,
            slot: 1,
            file: Some(LineFile::open("/dev/full".as_ref())),
            block: statistics.block(BlockId(0)),
            line: String::new(),
            failure: None,
        };
        (0..3).for_each(|_| log.record(&record(1), Reason::ClientDone));
        assert_eq!(statistics.block(BlockId(0)).get(Field::LogDropped), 3);
        assert_eq!(log.failure.map(|failure| failure.dropped), Some(3));
    }
}
