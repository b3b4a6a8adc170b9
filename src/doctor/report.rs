//! Findings, for people and for programs.

use std::fmt::{self, Display, Write};

use serde::Serialize;
use serde_json::json;

/// How it stands with a matter, from the best to the worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    /// As it should be.
    Ok,
    /// Nothing is wrong; good to know.
    Note,
    /// The daemon runs, and something does less than was asked for, or may end badly.
    Warn,
    /// The daemon would not start, or cannot do what it is told to.
    Wrong,
}

impl Level {
    const ALL: [Self; 4] = [Self::Ok, Self::Note, Self::Warn, Self::Wrong];

    fn word(self) -> &'static str {
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
        f.pad(self.word())
    }
}

/// What is to be said about a matter: one line, and one line of advice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Verdict {
    pub(super) level: Level,
    pub(super) text: String,
    /// What to do about it.
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

    /// The same with what to do about it.
    pub(super) fn advise(self, advice: impl Into<String>) -> Self {
        Self { advice: Some(advice.into()), ..self }
    }
}

/// A verdict and what it is about.
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

/// All that was found.
#[derive(Clone, Debug)]
pub(super) struct Report {
    findings: Vec<Finding>,
}

impl Report {
    pub(super) fn new(findings: Vec<Finding>) -> Self {
        Self { findings }
    }

    /// Whether nothing is wrong. Warnings do not count: the daemon would run.
    pub(super) fn is_good(&self) -> bool {
        self.count(Level::Wrong) == 0
    }

    fn count(&self, level: Level) -> usize {
        self.findings.iter().filter(|finding| finding.verdict.level == level).count()
    }

    /// A line for each finding, below it what to do, and a last line with the sum.
    pub(super) fn text(&self) -> String {
        let width = self.findings.iter().map(|finding| finding.subject.len()).max().unwrap_or(0);
        let mut text = String::new();
        for Finding { subject, verdict } in &self.findings {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{:<5}  {subject:<width$}  {}", verdict.level, verdict.text);
            if let Some(advice) = &verdict.advice {
                let _ = writeln!(text, "{:<5}  {:<width$}  -> {advice}", "", "");
            }
        }
        let plural = |level, one: &str, many: &str| match self.count(level) {
            1 => format!("1 {one}"),
            count => format!("{count} {many}"),
        };
        let _ = writeln!(
            text,
            "{} ok, {}, {}, {} wrong",
            self.count(Level::Ok),
            plural(Level::Note, "note", "notes"),
            plural(Level::Warn, "warning", "warnings"),
            self.count(Level::Wrong),
        );
        text
    }

    /// One JSON object in one line. Its keys stay as they are.
    pub(super) fn json(&self) -> String {
        let mut object = json!({ "version": env!("CARGO_PKG_VERSION"), "findings": self.findings });
        for level in Level::ALL {
            object[level.word()] = self.count(level).into();
        }
        format!("{object}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report::new(vec![
            Finding::new("queue", Verdict::ok("fine")),
            Finding::new("low ports", Verdict::warn("so so").advise("do this")),
        ])
    }

    #[test]
    fn lines_are_aligned_and_summed_up() {
        let text = "ok     queue      fine\n\
                    warn   low ports  so so\n\
                    \x20                 -> do this\n\
                    1 ok, 0 notes, 1 warning, 0 wrong\n";
        assert_eq!(report().text(), text);
    }

    #[test]
    fn the_object_has_the_same() {
        let line = report().json();
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
    fn only_what_is_wrong_counts() {
        assert!(report().is_good());
        let wrong = Finding::new("address", Verdict::wrong("in use"));
        assert!(!Report::new(vec![wrong]).is_good());
    }
}
