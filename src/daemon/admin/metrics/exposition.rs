//! The text formats that Prometheus reads: the classic one (0.0.4) and OpenMetrics (1.0.0).
//!
//! Both have the same samples. OpenMetrics describes a counter without the suffix `_total` of its
//! samples, and marks the end of the text.

use std::fmt::{Display, Write};

/// A text format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// Understood by every version of Prometheus.
    Classic,
    /// Preferred by current versions.
    OpenMetrics,
}

impl Format {
    /// Returns the format to answer a request with: OpenMetrics if the `Accept` header lines rate it
    /// at least as high as plain text.
    pub(super) fn accepted_by(accept: &[&str]) -> Self {
        let quality = |kind: &str| {
            let ranges = accept.iter().flat_map(|line| line.split(','));
            let of_kind = ranges.filter_map(|range| {
                let mut parts = range.split(';').map(str::trim);
                parts.next()?.eq_ignore_ascii_case(kind).then_some(())?;
                let q = parts.find_map(|part| part.strip_prefix("q=").or(part.strip_prefix("Q=")));
                Some(q.map_or(1.0, |q| q.parse::<f64>().unwrap_or(0.0)))
            });
            of_kind.fold(0.0, f64::max)
        };
        let open = quality("application/openmetrics-text");
        if open > 0.0 && open >= quality("text/plain") { Self::OpenMetrics } else { Self::Classic }
    }

    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::Classic => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// A metric type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// Label names and values of a sample. Values are written as they are: none has a quote, a backslash,
/// or a newline.
pub(super) type Labels<'a> = &'a [(&'a str, &'a str)];

/// Metric families written one after the other.
#[derive(Debug)]
pub(super) struct Exposition {
    format: Format,
    text: String,
}

impl Exposition {
    pub(super) fn new(format: Format) -> Self {
        Self { format, text: String::new() }
    }

    /// Begins a family. Its samples are those written until the next family begins. The name of a
    /// counter ends with `_total`.
    pub(super) fn family<'a>(
        &'a mut self,
        kind: Kind,
        name: &'static str,
        help: &str,
    ) -> Family<'a> {
        let described = match self.format {
            Format::OpenMetrics => name.strip_suffix("_total").unwrap_or(name),
            Format::Classic => name,
        };
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        // Writing to a String does not fail.
        let _ = writeln!(self.text, "# HELP {described} {help}\n# TYPE {described} {kind}");
        Family { text: &mut self.text, name }
    }

    pub(super) fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }
}

/// The samples of a metric family.
#[derive(Debug)]
pub(super) struct Family<'a> {
    text: &'a mut String,
    name: &'static str,
}

impl Family<'_> {
    pub(super) fn sample(&mut self, labels: Labels<'_>, value: impl Display) {
        self.write("", labels, value);
    }

    /// Writes a histogram: cumulative counts by upper bound, `None` being the last bucket, without a
    /// bound.
    pub(super) fn histogram(
        &mut self,
        worker: &str,
        buckets: &[(Option<f64>, u64)],
        sum_seconds: f64,
    ) {
        for (bound, count) in buckets {
            let bound = match bound {
                // OpenMetrics: 1.0, not 1.
                Some(bound) if bound.fract() == 0.0 => format!("{bound:.1}"),
                Some(bound) => bound.to_string(),
                None => "+Inf".into(),
            };
            self.write("_bucket", &[("le", &bound), ("worker", worker)], count);
        }
        let count = buckets.last().map_or(0, |(_, count)| *count);
        self.write("_count", &[("worker", worker)], count);
        self.write("_sum", &[("worker", worker)], sum_seconds);
    }

    fn write(&mut self, suffix: &str, labels: Labels<'_>, value: impl Display) {
        self.text.push_str(self.name);
        self.text.push_str(suffix);
        for (index, (name, value)) in labels.iter().enumerate() {
            let separator = if index == 0 { '{' } else { ',' };
            // Writing to a String does not fail.
            let _ = write!(self.text, "{separator}{name}=\"{value}\"");
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.text, "{end} {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_chooses_the_format() {
        for (accept, open) in [
            ("application/openmetrics-text", true),
            ("text/plain;q=0.3, application/openmetrics-text; version=1.0.0; q=0.5", true),
            ("Application/OpenMetrics-Text;Q=0.1", true),
            ("text/plain, application/openmetrics-text;q=0.5", false),
            ("application/openmetrics-text;q=0", false),
            ("application/openmetrics-text;q=x", false),
            ("*/*", false),
            ("", false),
        ] {
            assert_eq!(Format::accepted_by(&[accept]) == Format::OpenMetrics, open, "{accept}");
        }
        let lines = ["text/html", "application/openmetrics-text"];
        assert_eq!(Format::accepted_by(&lines), Format::OpenMetrics);
    }

    #[test]
    fn formats_differ_in_counter_descriptions_and_the_end() {
        let text = |format| {
            let mut out = Exposition::new(format);
            out.family(Kind::Counter, "a_total", "A").sample(&[("k", "v"), ("l", "w")], 3);
            out.family(Kind::Gauge, "b", "B").sample(&[], 0.5);
            out.finish()
        };
        let samples = "a_total{k=\"v\",l=\"w\"} 3\n# HELP b B\n# TYPE b gauge\nb 0.5\n";
        let classic = format!("# HELP a_total A\n# TYPE a_total counter\n{samples}");
        assert_eq!(text(Format::Classic), classic);
        let open = format!("# HELP a A\n# TYPE a counter\n{samples}# EOF\n");
        assert_eq!(text(Format::OpenMetrics), open);
    }

    #[test]
    fn bucket_bounds_are_decimal_numbers_with_a_point() {
        let mut out = Exposition::new(Format::Classic);
        let buckets = [(Some(0.00005), 1), (Some(86400.0), 2), (None, 4)];
        out.family(Kind::Histogram, "h", "H").histogram("1", &buckets, 0.25);
        let expected = "# HELP h H\n# TYPE h histogram\n\
            h_bucket{le=\"0.00005\",worker=\"1\"} 1\nh_bucket{le=\"86400.0\",worker=\"1\"} 2\n\
            h_bucket{le=\"+Inf\",worker=\"1\"} 4\nh_count{worker=\"1\"} 4\nh_sum{worker=\"1\"} 0.25\n";
        assert_eq!(out.finish(), expected);
    }
}
