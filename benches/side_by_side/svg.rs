//! Line charts as SVG, in colors that are readable on light and dark pages.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use crate::table::grouped;

/// Text, axes and grid lines.
const INK: &str = "#7d8590";
/// Colors of the fixed servers.
const COLORS: [(&str, &str); 4] =
    [("tcp-echo", "#e8590c"), ("floor", "#868e96"), ("tokio", "#228be6"), ("threads", "#2f9e44")];
/// Color of tcp-echo with other options.
const OURS_VARIANT: &str = "#f59f00";
/// Colors of guests.
const GUESTS: [&str; 4] = ["#ae3ec9", "#0ca678", "#d6336c", "#4263eb"];
const WIDTH: f64 = 840.0;
const HEIGHT: f64 = 350.0;
/// Space around and between the panels.
const LEFT: f64 = 82.0;
const RIGHT: f64 = 26.0;
const TOP: f64 = 96.0;
const BOTTOM: f64 = 52.0;
const GAP: f64 = 22.0;

/// Mapping from values to positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scale {
    /// Linear from 0.
    Linear,
    /// Logarithmic.
    Log,
}

/// The curve of a server.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub name: String,
    /// Points from left to right.
    pub points: Vec<(f64, f64)>,
}

/// A chart. All panels of a figure have the same axes.
#[derive(Clone, Debug)]
pub(crate) struct Panel {
    pub title: String,
    /// Curves of the same servers in every panel.
    pub lines: Vec<Line>,
}

/// Panels side by side.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    pub title: String,
    pub x_label: String,
    pub y_label: String,
    pub x: Scale,
    pub y: Scale,
    pub panels: Vec<Panel>,
}

/// Draws a figure into `benches/plots`.
///
/// # Errors
/// The file cannot be written.
pub(crate) fn write(name: &str, figure: &Figure) -> Result<(), String> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/plots");
    let path = directory.join(name);
    fs::create_dir_all(&directory)
        .and_then(|()| fs::write(&path, figure.svg()))
        .map_err(|error| format!("{}: {error}", path.display()))?;
    println!("wrote {}", path.display());
    Ok(())
}

/// Range of values and positions in one direction.
#[derive(Clone, Copy, Debug)]
struct Axis {
    scale: Scale,
    low: f64,
    high: f64,
    /// Positions of `low` and `high`.
    from: f64,
    to: f64,
}

impl Axis {
    /// Returns an axis that includes all values.
    fn new(scale: Scale, values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        let finite = values.filter(|value| value.is_finite());
        let (low, high) = finite.fold((f64::MAX, 0.0_f64), |(l, h), v| (l.min(v), h.max(v)));
        let (low, high) = match scale {
            _ if high <= 0.0 => (1.0, 10.0),
            Scale::Linear => (0.0, high * 1.08),
            // With a margin, which also prevents an empty range.
            Scale::Log => (low.max(high * 1e-9) / 1.15, high * 1.15),
        };
        Self { scale, low, high, from, to }
    }

    fn position(&self, value: f64) -> f64 {
        let part = match self.scale {
            Scale::Linear => (value - self.low) / (self.high - self.low),
            Scale::Log => (value / self.low).ln() / (self.high / self.low).ln(),
        };
        self.from + part * (self.to - self.from)
    }

    /// Returns round values along the axis.
    fn ticks(&self) -> Vec<f64> {
        let inside = |value: &f64| (self.low..=self.high).contains(value);
        if self.scale == Scale::Linear {
            let rough = self.high / 6.0;
            let size = 10_f64.powf(rough.log10().floor());
            let step = [1.0, 2.0, 5.0, 10.0].map(|n| n * size).into_iter().find(|&s| s >= rough);
            let step = step.unwrap_or(rough);
            return (0..=10).map(|n| f64::from(n) * step).filter(inside).collect();
        }
        let decades = (self.high / self.low).log10();
        let marks: &[f64] = if decades > 2.5 { &[1.0] } else { &[1.0, 2.0, 5.0] };
        let powers = self.low.log10().floor() as i32..=self.high.log10().ceil() as i32;
        let all = powers.flat_map(|power| marks.iter().map(move |m| m * 10_f64.powi(power)));
        all.filter(inside).collect()
    }
}

/// Formats a round value.
fn label(value: f64) -> String {
    if value >= 1_000.0 { grouped(value) } else { format!("{}", (value * 1e3).round() / 1e3) }
}

impl Figure {
    /// Draws the figure.
    pub(crate) fn svg(&self) -> String {
        let mut svg = String::new();
        let font =
            "font-family=\"system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif\"";
        line(
            &mut svg,
            &format!(
                "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             width=\"{WIDTH}\" height=\"{HEIGHT}\" {font} font-size=\"12\" fill=\"{INK}\">"
            ),
        );
        text(&mut svg, LEFT, 24.0, "start", "font-size=\"15\" font-weight=\"600\"", &self.title);
        self.legend(&mut svg);
        let count = self.panels.len() as f64;
        let width = (WIDTH - LEFT - RIGHT - GAP * (count - 1.0)) / count;
        let points = || self.panels.iter().flat_map(|panel| &panel.lines).flat_map(|l| &l.points);
        let y = Axis::new(self.y, points().map(|point| point.1), HEIGHT - BOTTOM, TOP);
        for (index, panel) in self.panels.iter().enumerate() {
            let left = LEFT + index as f64 * (width + GAP);
            let x = Axis::new(self.x, points().map(|point| point.0), left, left + width);
            grid(&mut svg, &x, &y, index == 0);
            text(&mut svg, left, TOP - 10.0, "start", "font-weight=\"600\"", &panel.title);
            // The curve of tcp-echo comes last, on top of the others.
            for (number, line) in panel.lines.iter().enumerate().rev() {
                curve(&mut svg, line, number, &x, &y);
            }
        }
        text(&mut svg, (LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 10.0, "middle", "", &self.x_label);
        let middle = (TOP + HEIGHT - BOTTOM) / 2.0;
        let turned = format!("transform=\"rotate(-90 16 {middle})\"");
        text(&mut svg, 16.0, middle, "middle", &turned, &self.y_label);
        svg + "</svg>\n"
    }

    fn legend(&self, svg: &mut String) {
        let mut left = LEFT;
        for (number, one) in self.panels.iter().take(1).flat_map(|panel| &panel.lines).enumerate() {
            let style = stroke(&one.name, number);
            line(svg, &format!("<path d=\"M{left:.1} 50h22\" {style}/>"));
            text(svg, left + 28.0, 54.0, "start", "", &one.name);
            left += 28.0 + 7.0 * one.name.chars().count() as f64 + 22.0;
        }
    }
}

/// Draws the grid of a panel, with labels.
fn grid(svg: &mut String, x: &Axis, y: &Axis, labels: bool) {
    let faint = format!("stroke=\"{INK}\" stroke-opacity=\"0.25\"");
    for value in y.ticks() {
        let (at, left, right) = (y.position(value), x.from, x.to);
        line(svg, &format!("<path d=\"M{left:.1} {at:.1}H{right:.1}\" {faint}/>"));
        if labels {
            text(svg, left - 8.0, at + 4.0, "end", "", &label(value));
        }
    }
    for value in x.ticks() {
        let (at, bottom) = (x.position(value), y.from);
        line(svg, &format!("<path d=\"M{at:.1} {bottom:.1}v5\" stroke=\"{INK}\"/>"));
        text(svg, at, bottom + 19.0, "middle", "", &label(value));
    }
    let (left, right, bottom) = (x.from, x.to, y.from);
    line(svg, &format!("<path d=\"M{left:.1} {bottom:.1}H{right:.1}\" stroke=\"{INK}\"/>"));
}

fn curve(svg: &mut String, one: &Line, number: usize, x: &Axis, y: &Axis) {
    let positions: Vec<String> = one
        .points
        .iter()
        .filter(|(_, value)| value.is_finite())
        .map(|&(at, value)| format!("{:.1} {:.1}", x.position(at), y.position(value)))
        .collect();
    if positions.is_empty() {
        return;
    }
    line(svg, &format!("<path d=\"M{}\" {}/>", positions.join("L"), stroke(&one.name, number)));
    let color = color(&one.name, number);
    for position in positions {
        let (left, top) = position.split_once(' ').unwrap_or_default();
        line(svg, &format!("<circle cx=\"{left}\" cy=\"{top}\" r=\"2.6\" fill=\"{color}\"/>"));
    }
}

fn color(name: &str, number: usize) -> &'static str {
    match COLORS.iter().find(|(known, _)| *known == name) {
        Some((_, color)) => color,
        None if name.starts_with(COLORS[0].0) => OURS_VARIANT,
        None => GUESTS[number % GUESTS.len()],
    }
}

/// Returns the stroke of a curve: bold for tcp-echo, dashed for the floor.
fn stroke(name: &str, number: usize) -> String {
    let color = color(name, number);
    let (width, dashes) = match name {
        "tcp-echo" => (2.6, ""),
        "floor" => (1.8, " stroke-dasharray=\"5 3\""),
        _ => (1.8, ""),
    };
    format!(
        "fill=\"none\" stroke=\"{color}\" stroke-width=\"{width}\" stroke-linejoin=\"round\"{dashes}"
    )
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, more: &str, text: &str) {
    if text.is_empty() {
        return;
    }
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    line(
        svg,
        &format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" {more}>{text}</text>"),
    );
}

fn line(svg: &mut String, text: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(svg, "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_positions_and_ticks_are_round() {
        let axis = Axis::new(Scale::Log, [10.0, 100_000.0].into_iter(), 0.0, 100.0);
        assert!(axis.position(10.0) > 0.0 && axis.position(100_000.0) < 100.0);
        assert!((axis.position(1_000.0) - 50.0).abs() < 1e-6);
        let close = |found: Vec<f64>, wanted: &[f64]| {
            assert_eq!(found.len(), wanted.len(), "{found:?}");
            assert!(
                found.iter().zip(wanted).all(|(f, w)| (f - w).abs() < w * 1e-9 + 1e-9),
                "{found:?}"
            );
        };
        close(axis.ticks(), &[10.0, 100.0, 1e3, 1e4, 1e5]);
        let axis = Axis::new(Scale::Linear, [3.0, 7.4].into_iter(), 0.0, 80.0);
        close(axis.ticks(), &[0.0, 2.0, 4.0, 6.0]);
        let axis = Axis::new(Scale::Log, [30.0, 600.0].into_iter(), 0.0, 1.0);
        close(axis.ticks(), &[50.0, 100.0, 200.0, 500.0]);
        // An axis without values has finite positions.
        assert!(Axis::new(Scale::Log, [f64::NAN].into_iter(), 0.0, 1.0).position(5.0).is_finite());
        assert_eq!((label(0.2), label(10_000.0)), ("0.2".to_owned(), "10 000".to_owned()));
    }

    #[test]
    fn a_figure_has_every_line_and_no_loose_ends() {
        let line = |name: &str| Line {
            name: name.into(),
            points: vec![(1.0, 2.0), (3.0, f64::NAN), (4.0, 9.0)],
        };
        let panel =
            |title: &str| Panel { title: title.into(), lines: vec![line("a<b"), line("c")] };
        let figure = Figure {
            title: "T & U".into(),
            x_label: "x".into(),
            y_label: "y".into(),
            x: Scale::Linear,
            y: Scale::Log,
            panels: vec![panel("one"), panel("two")],
        };
        let svg = figure.svg();
        assert_eq!(svg.matches("stroke-linejoin").count(), 2 + 4, "a legend and two panels");
        assert_eq!(svg.matches("<circle").count(), 8, "NaN is not drawn");
        assert!(svg.contains("T &amp; U") && svg.contains("a&lt;b") && !svg.contains("NaN"));
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    }
}
