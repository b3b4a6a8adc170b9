//! Findings, and their output as text and as JSON.

use std::fmt::{self, Display, Write};

use serde::Serialize;
use serde_json::json;

use crate::text;

/// Severity of a finding, in ascending order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    /// No problem.
    Ok,
    /// Information; no problem.
    Note,
    /// The daemon runs with reduced function or at a risk.
    Warn,
    /// The daemon cannot start or cannot work as configured.
    Wrong,
}

impl Level {
    const ALL: [Self; 4] = [Self::Ok, Self::Note, Self::Warn, Self::Wrong];

    fn key(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warn => "warn",
            Self::Wrong => "wrong",
        }
    }
}

impl Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.key())
    }
}

/// Result of a check: one line of text and one of advice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Verdict {
    pub(super) level: Level,
    pub(super) text: String,
    pub(super) advice: Option<String>,
}

impl Verdict {
    pub(super) fn ok(text: impl Into<String>) -> Self {
        Self::new(Level::Ok, text)
    }

    pub(super) fn note(text: impl Into<String>) -> Self {
        Self::new(Level::Note, text)
    }

    pub(super) fn warn(text: impl Into<String>) -> Self {
        Self::new(Level::Warn, text)
    }

    pub(super) fn wrong(text: impl Into<String>) -> Self {
        Self::new(Level::Wrong, text)
    }

    fn new(level: Level, text: impl Into<String>) -> Self {
        Self { level, text: text.into(), advice: None }
    }

    /// Adds a line of advice.
    pub(super) fn advise(self, advice: impl Into<String>) -> Self {
        Self { advice: Some(advice.into()), ..self }
    }
}

/// A verdict on a subject.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    subject: &'static str,
    #[serde(flatten)]
    pub(super) verdict: Verdict,
}

impl Finding {
    pub(super) fn new(subject: &'static str, verdict: Verdict) -> Self {
        Self { subject, verdict }
    }
}

/// All findings of a run.
#[derive(Clone, Debug)]
pub(super) struct Diagnosis(pub(super) Vec<Finding>);

impl Diagnosis {
    /// Returns `true` if no finding is wrong. The daemon can run despite warnings.
    pub(super) fn is_good(&self) -> bool {
        self.count(Level::Wrong) == 0
    }

    fn count(&self, level: Level) -> usize {
        self.0.iter().filter(|finding| finding.verdict.level == level).count()
    }

    /// Returns a line for each finding, a line for its advice, and a last line with the totals.
    pub(super) fn text(&self) -> String {
        let width = self.0.iter().map(|finding| finding.subject.len()).max().unwrap_or(0);
        let mut text = String::new();
        for Finding { subject, verdict } in &self.0 {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{:<5}  {subject:<width$}  {}", verdict.level, verdict.text);
            if let Some(advice) = &verdict.advice {
                let _ = writeln!(text, "{:<5}  {:<width$}  -> {advice}", "", "");
            }
        }
        let [ok, notes, warnings, wrong] = Level::ALL.map(|level| self.count(level) as u64);
        let _ = writeln!(
            text,
            "{ok} ok, {}, {}, {wrong} wrong",
            text::plural(notes, "note"),
            text::plural(warnings, "warning"),
        );
        text
    }

    /// Returns one JSON object in one line. Its keys are stable.
    pub(super) fn json(&self) -> String {
        let mut object = json!({ "version": env!("CARGO_PKG_VERSION"), "findings": self.0 });
        for level in Level::ALL {
            object[level.key()] = self.count(level).into();
        }
        format!("{object}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn diagnosis() -> Diagnosis {
        Diagnosis(vec![
            Finding::new("queue", Verdict::ok("fine")),
            Finding::new("low ports", Verdict::warn("so so").advise("do this")),
        ])
    }

    #[test]
    fn lines_are_aligned_and_counted() {
        let text = "ok     queue      fine\n\
                    warn   low ports  so so\n\
                    \x20                 -> do this\n\
                    1 ok, 0 notes, 1 warning, 0 wrong\n";
        assert_eq!(diagnosis().text(), text);
    }

    #[test]
    fn the_json_object_has_the_same_content() {
        let line = diagnosis().json();
        assert_eq!(line.lines().count(), 1);
        let object: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(object["findings"][1]["level"], "warn");
        assert_eq!(object["findings"][1]["subject"], "low ports");
        assert_eq!(object["findings"][1]["text"], "so so");
        assert_eq!(object["findings"][1]["advice"], "do this");
        assert_eq!(object["findings"][0]["advice"], serde_json::Value::Null);
        let sums = ["ok", "note", "warn", "wrong"].map(|level| object[level].as_u64());
        assert_eq!(sums, [Some(1), Some(0), Some(1), Some(0)]);
    }

    #[test]
    fn only_wrong_findings_are_failures() {
        assert!(diagnosis().is_good());
        let wrong = Finding::new("address", Verdict::wrong("in use"));
        assert!(!Diagnosis(vec![wrong]).is_good());
    }
}
