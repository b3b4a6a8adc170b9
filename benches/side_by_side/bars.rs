//! The bars: limits of measured figures, and their judgment.

use crate::measure::{Metric, Sample};
use crate::table::figure;

/// Names of the daemon, the floor, and the program that the daemon replaces.
pub(crate) const OURS: &str = "tcp-echo";
pub(crate) const FLOOR: &str = "floor";
const PREDECESSOR: &str = "predecessor";

/// Direction of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sense {
    AtMost,
    AtLeast,
}

/// Servers to compare tcp-echo with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Against {
    Floor,
    /// All except tcp-echo and the floor.
    Peers,
    /// All except tcp-echo.
    Others,
    /// A guest named `predecessor`, if there is one.
    Predecessor,
}

impl Against {
    fn includes(self, name: &str) -> bool {
        match self {
            Self::Floor => name == FLOOR,
            Self::Peers => name != OURS && name != FLOOR,
            Self::Others => name != OURS,
            Self::Predecessor => name == PREDECESSOR,
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Floor => "the floor",
            Self::Peers => "the best peer",
            Self::Others => "the best other",
            Self::Predecessor => "the predecessor",
        }
    }
}

/// A bar that is a ratio of two servers under the same load.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Ratio {
    pub metric: Metric,
    pub against: Against,
    pub sense: Sense,
    pub limit: f64,
    /// Tolerance beyond the limit, as a part of it.
    pub noise: f64,
}

impl Ratio {
    pub(crate) const fn at_most(metric: Metric, against: Against, limit: f64) -> Self {
        Self { metric, against, sense: Sense::AtMost, limit, noise: 0.0 }
    }

    pub(crate) const fn at_least(metric: Metric, against: Against, limit: f64) -> Self {
        Self { metric, against, sense: Sense::AtLeast, limit, noise: 0.0 }
    }

    /// Sets the tolerance.
    pub(crate) const fn with_noise(self, noise: f64) -> Self {
        Self { noise, ..self }
    }

    /// Judges the turns of all servers by the comparison that is worst for tcp-echo. Returns `None` if
    /// there is no predecessor to compare with.
    pub(crate) fn judge(&self, case: &str, turns: &[(String, Vec<Sample>)]) -> Option<Bar> {
        let ours = turns.iter().find(|(name, _)| name == OURS).map(|(_, samples)| samples);
        let others = turns.iter().filter(|(name, _)| self.against.includes(name));
        let ratios = others.filter_map(|(name, samples)| {
            let ratio = self.metric.ratio(ours?, samples);
            ratio.is_finite().then_some((ratio, name))
        });
        let worst = ratios.max_by(|a, b| match self.sense {
            Sense::AtMost => a.0.total_cmp(&b.0),
            Sense::AtLeast => b.0.total_cmp(&a.0),
        });
        if worst.is_none() && self.against == Against::Predecessor {
            return None;
        }
        Some(Bar {
            what: format!("{case}: {}, × {}", self.metric.head(), self.against.text()),
            sense: self.sense,
            limit: self.limit,
            noise: self.noise,
            measured: worst.map(|(ratio, _)| ratio),
            unit: "",
            remark: worst.map_or_else(String::new, |(_, name)| match self.against {
                Against::Peers | Against::Others => name.clone(),
                Against::Floor | Against::Predecessor => String::new(),
            }),
        })
    }
}

/// A bar and what was measured.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Bar {
    pub what: String,
    pub sense: Sense,
    pub limit: f64,
    /// Tolerance as a part of the limit.
    pub noise: f64,
    /// Measured figure; `None` if there is none.
    pub measured: Option<f64>,
    /// Unit of limit and figure.
    pub unit: &'static str,
    pub remark: String,
}

impl Bar {
    pub(crate) fn at_most(what: &str, limit: f64, unit: &'static str, measured: f64) -> Self {
        Self {
            what: what.to_owned(),
            sense: Sense::AtMost,
            limit,
            noise: 0.0,
            measured: Some(measured).filter(|figure| figure.is_finite()),
            unit,
            remark: String::new(),
        }
    }

    pub(crate) fn at_least(what: &str, limit: f64, measured: f64) -> Self {
        Self { sense: Sense::AtLeast, ..Self::at_most(what, limit, "", measured) }
    }

    /// Returns `true` if the bar is reached, and `false` without a measured figure.
    pub(crate) fn is_reached(&self) -> bool {
        self.measured.is_some_and(|figure| match self.sense {
            Sense::AtMost => figure <= self.limit * (1.0 + self.noise),
            Sense::AtLeast => figure >= self.limit * (1.0 - self.noise),
        })
    }

    /// Returns `ok`, `short`, or `void` without a measured figure.
    fn verdict(&self) -> &'static str {
        match self.measured {
            None => "void",
            Some(_) if self.is_reached() => "ok",
            Some(_) => "short",
        }
    }

    /// Formats the limit.
    fn goal(&self) -> String {
        let sign = if self.sense == Sense::AtMost { "≤" } else { "≥" };
        let noise = match self.noise {
            0.0 => String::new(),
            noise => format!(" (noise {:.0} %)", noise * 100.0),
        };
        format!("{sign} {}{}{noise}", figure(self.limit), self.unit)
    }
}

/// Returns a line for each bar, and the number of reached bars.
pub(crate) fn report(bars: &[Bar]) -> String {
    let width = |text: &dyn Fn(&Bar) -> String| {
        bars.iter().map(|bar| text(bar).chars().count()).max().unwrap_or(0)
    };
    let measured =
        |bar: &Bar| bar.measured.map_or_else(|| "-".to_owned(), |value| figure(value) + bar.unit);
    let (what, goal) = (width(&|bar| bar.what.clone()), width(&|bar| bar.goal()));
    let number = width(&measured);
    let mut text = String::from("\nThe bars\n");
    for bar in bars {
        let remark = match bar.remark.as_str() {
            "" => String::new(),
            remark => format!("  ({remark})"),
        };
        text += &format!(
            "bar  {:<what$}  {:<goal$}  measured {:>number$}  {}{remark}\n",
            bar.what,
            bar.goal(),
            measured(bar),
            bar.verdict(),
        );
    }
    let reached = bars.iter().filter(|bar| bar.is_reached()).count();
    text + &format!("{reached} of {} bars reached", bars.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[allow(dead_code, reason = "a benchmark has no tests")]
    fn turns(servers: &[(&str, f64)]) -> Vec<(String, Vec<Sample>)> {
        let samples = |p50: f64| vec![Sample { p50, ..Sample::default() }; 5];
        servers.iter().map(|&(name, p50)| (name.to_owned(), samples(p50))).collect()
    }

    #[test]
    fn the_worst_comparison_counts() {
        let turns = turns(&[("tcp-echo", 6.0), ("floor", 5.0), ("tokio", 8.0), ("threads", 10.0)]);
        for (bar, measured, remark, reached) in [
            (Ratio::at_most(Metric::P50, Against::Peers, 1.0), 0.75, "tokio", true),
            (Ratio::at_most(Metric::P50, Against::Peers, 0.74), 0.75, "tokio", false),
            (Ratio::at_most(Metric::P50, Against::Floor, 1.0), 1.2, "", false),
            (Ratio::at_most(Metric::P50, Against::Floor, 1.0).with_noise(0.2), 1.2, "", true),
            (Ratio::at_most(Metric::P50, Against::Others, 1.0), 1.2, "floor", false),
            (Ratio::at_least(Metric::P50, Against::Peers, 0.7), 0.6, "threads", false),
            (Ratio::at_least(Metric::P50, Against::Peers, 0.6), 0.6, "threads", true),
        ] {
            let found = bar.judge("case", &turns).expect("a bar");
            assert_eq!(found.measured, Some(measured), "{bar:?}");
            assert_eq!((found.remark.as_str(), found.is_reached()), (remark, reached), "{bar:?}");
        }
    }

    #[test]
    fn a_bar_without_a_figure_is_void_and_not_reached() {
        let bar = Ratio::at_most(Metric::P50, Against::Peers, 1.0);
        for servers in [&[("tcp-echo", 1.0), ("floor", 1.0)][..], &[("tokio", 1.0)]] {
            let bar = bar.judge("case", &turns(servers)).expect("a bar");
            assert_eq!((bar.verdict(), bar.is_reached()), ("void", false));
        }
        assert_eq!(Bar::at_most("x", 1.0, "", f64::NAN).verdict(), "void");
    }

    #[test]
    fn the_predecessor_is_compared_if_present() {
        let bar = Ratio::at_most(Metric::P50, Against::Predecessor, 0.8);
        assert_eq!(bar.judge("case", &turns(&[("tcp-echo", 1.0), ("tokio", 1.0)])), None);
        let found = bar.judge("case", &turns(&[("tcp-echo", 1.0), ("predecessor", 2.0)]));
        assert_eq!(found.expect("a bar").measured, Some(0.5));
    }

    #[test]
    fn every_bar_is_a_line() {
        let mut short = Bar::at_most("memory of a connection", 64.0, " bytes", 70.0);
        short.remark = "15 000".into();
        let turns = turns(&[("tcp-echo", 6.0), ("floor", 6.0)]);
        let noisy = Ratio::at_most(Metric::P50, Against::Floor, 1.0).with_noise(0.03);
        let bars = [short, noisy.judge("ping", &turns).expect("a bar")];
        assert_eq!(
            report(&bars),
            "\nThe bars\n\
             bar  memory of a connection     ≤ 64.0 bytes        measured 70.0 bytes  short  (15 000)\n\
             bar  ping: p50 µs, × the floor  ≤ 1.00 (noise 3 %)  measured       1.00  ok\n\
             1 of 2 bars reached"
        );
    }
}
