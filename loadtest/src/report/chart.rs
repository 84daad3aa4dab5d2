//! Line charts as SVG text: colours come from the page's style sheet, so one
//! chart serves light and dark. Small and square-ish: at the width of a phone it
//! is shown as it is, on a wide screen several stand side by side.

use super::text::{Millis, number};
use std::fmt::Write as _;

const WIDTH: f64 = 400.0;
const HEIGHT: f64 = 240.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 10.0;
const TOP: f64 = 18.0;
const BOTTOM: f64 = 26.0;

/// More points than this on 334 pixels say nothing more.
const MAX_POINTS: usize = 334;

/// How numbers on the upright axis are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// A plain number.
    Count,
    /// Milliseconds, on a logarithmic scale.
    Millis,
    /// Bytes.
    Bytes,
    /// Cores.
    Cores,
}

/// What the level axis shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Across {
    /// Seconds from the start.
    Seconds,
    /// Quantiles, the tail stretched.
    Quantiles,
}

/// A line.
#[derive(Debug, Clone)]
pub struct Line {
    /// In the legend.
    pub name: String,
    /// Which colour of the style sheet, from 0.
    pub colour: usize,
    /// Dashed lines are the other run's, or the higher percentile.
    pub dashed: bool,
    /// Whether the legend names it; the title speaks for the others.
    pub in_legend: bool,
    /// Across and up, ascending across.
    pub points: Vec<(f64, f64)>,
}

/// A chart.
#[derive(Debug, Clone)]
pub struct Chart {
    /// Above it.
    pub title: String,
    /// Upright.
    pub unit: Unit,
    /// Level.
    pub across: Across,
    /// The lines; those without points are left out.
    pub lines: Vec<Line>,
    /// Stretches of the level axis with a name: the phases.
    pub bands: Vec<(f64, f64, String)>,
}

struct Scale {
    low: f64,
    high: f64,
    logarithmic: bool,
    ticks: Vec<f64>,
}

impl Scale {
    /// From 0 to a round number above the highest.
    fn linear(highest: f64, unit: Unit) -> Self {
        let base = if unit == Unit::Bytes {
            f64::from(1 << 20)
        } else {
            1.0
        };
        let step = round_step(highest.max(f64::MIN_POSITIVE) / base / 4.0) * base;
        let count = (highest / step).ceil().max(1.0) as usize;
        Self {
            low: 0.0,
            high: step * count as f64,
            logarithmic: false,
            ticks: (0..=count).map(|index| step * index as f64).collect(),
        }
    }

    /// Whole decades, or parts of one when all lies close together.
    fn logarithmic(lowest: f64, highest: f64) -> Self {
        let marks: &[f64] = if highest / lowest < 300.0 {
            &[1.0, 2.0, 5.0]
        } else {
            &[1.0]
        };
        let (from, to) = (lowest.log10().floor() as i32, highest.log10().ceil() as i32);
        let all: Vec<f64> = (from..=to)
            .flat_map(|decade| marks.iter().map(move |mark| mark * 10_f64.powi(decade)))
            .collect();
        let low = all.iter().rfind(|tick| **tick <= lowest * 1.0001);
        let high = all.iter().find(|tick| **tick >= highest * 0.9999);
        let low = *low.unwrap_or(&all[0]);
        let mut high = *high.unwrap_or(&all[all.len() - 1]);
        if high <= low {
            high = low * 10.0;
        }
        Self {
            low,
            high,
            logarithmic: true,
            ticks: all
                .into_iter()
                .filter(|tick| (low..=high).contains(tick))
                .collect(),
        }
    }

    /// Where a value lies, from 0 to 1.
    fn at(&self, value: f64) -> f64 {
        if self.logarithmic {
            let value = value.max(self.low);
            (value / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        }
    }
}

/// 1, 2 or 5 times a power of ten, at least this.
fn round_step(least: f64) -> f64 {
    let power = 10_f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|factor| factor * power)
        .find(|step| *step >= least * 0.9999)
        .unwrap_or(10.0 * power)
}

impl Unit {
    fn label(self, value: f64) -> String {
        match self {
            Self::Millis => Millis(value)
                .to_string()
                .replace(".00 ", " ")
                .replace(".0 ", " "),
            Self::Bytes => format!("{} MiB", number(value / f64::from(1 << 20))),
            Self::Cores if value.fract() != 0.0 => format!("{value:.1}"),
            Self::Count if value >= 1_000_000.0 => {
                format!("{} M", (value / 10_000.0).round() / 100.0)
            }
            Self::Count if value >= 10_000.0 => format!("{} k", (value / 100.0).round() / 10.0),
            Self::Cores | Self::Count => number(value),
        }
    }
}

/// The tail stretched: 0.9, 0.99 and 0.999 stand as far apart as 0 and 0.9.
fn stretch(quantile: f64) -> f64 {
    -(1.0 - quantile).log10()
}

impl Chart {
    /// A figure: title, legend and drawing; nothing at all without points.
    pub fn figure(&self) -> String {
        let lines: Vec<&Line> = self
            .lines
            .iter()
            .filter(|line| line.points.iter().any(|point| point.1.is_finite()))
            .collect();
        if lines.is_empty() {
            return String::new();
        }
        let mut out = format!(
            "<figure><figcaption>{}</figcaption><ul class=\"legend\">",
            escape(&self.title)
        );
        for line in lines.iter().filter(|line| line.in_legend) {
            let dashed = if line.dashed { " dashed" } else { "" };
            put(
                &mut out,
                format_args!(
                    "<li><svg viewBox=\"0 0 22 8\" aria-hidden=\"true\"><path class=\"line c{}{dashed}\" d=\"M1 4H21\"/></svg>{}</li>",
                    line.colour,
                    escape(&line.name)
                ),
            );
        }
        out.push_str("</ul>");
        self.draw(&mut out, &lines);
        out.push_str("</figure>\n");
        out
    }

    fn draw(&self, out: &mut String, lines: &[&Line]) {
        let points = || lines.iter().flat_map(|line| &line.points);
        let highest = points().map(|point| point.1).fold(0.0, f64::max);
        let up = if self.unit == Unit::Millis && highest > 0.0 {
            let lowest = points()
                .map(|point| point.1)
                .filter(|value| *value > 0.0)
                .fold(f64::MAX, f64::min);
            Scale::logarithmic(lowest, highest)
        } else {
            Scale::linear(highest, self.unit)
        };
        let place = |value: f64| match self.across {
            Across::Seconds => value,
            Across::Quantiles => stretch(value),
        };
        let farthest = points().map(|point| place(point.0)).fold(0.001, f64::max);
        let y = |value: f64| TOP + (HEIGHT - TOP - BOTTOM) * (1.0 - up.at(value));
        let x = |value: f64| LEFT + (WIDTH - LEFT - RIGHT) * (place(value) / farthest).min(1.0);

        put(
            out,
            format_args!(
                "<svg class=\"chart\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">",
                escape(&self.title)
            ),
        );
        let bottom = HEIGHT - BOTTOM;
        for (index, (from, to, name)) in self.bands.iter().enumerate() {
            let (from, to) = (x(*from), x(*to));
            if index % 2 == 1 {
                put(
                    out,
                    format_args!(
                        "<rect class=\"band\" x=\"{from:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{:.1}\"/>",
                        (to - from).max(0.0),
                        bottom - TOP
                    ),
                );
            }
            // A name that does not fit would run into the next one.
            if (to - from) > 6.5 * name.chars().count() as f64 {
                put(
                    out,
                    format_args!(
                        "<text class=\"phase\" x=\"{:.1}\" y=\"12\">{}</text>",
                        (from + to) / 2.0,
                        escape(name)
                    ),
                );
            }
        }
        for tick in &up.ticks {
            let at = y(*tick);
            put(
                out,
                format_args!(
                    "<path class=\"grid\" d=\"M{LEFT} {at:.1}H{:.1}\"/><text class=\"up\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                    WIDTH - RIGHT,
                    LEFT - 6.0,
                    at + 4.0,
                    self.unit.label(*tick)
                ),
            );
        }
        let ticks: Vec<(f64, String)> = match self.across {
            Across::Seconds => {
                let step = round_step(farthest / 5.0);
                (0..=(farthest / step) as usize)
                    .map(|index| step * index as f64)
                    .map(|second| (second, seconds_label(second)))
                    .collect()
            }
            Across::Quantiles => [0.0, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999]
                .into_iter()
                .filter(|quantile| stretch(*quantile) <= farthest + 0.01)
                .map(|quantile| {
                    let percent = (quantile * 100_000.0).round() / 1_000.0;
                    (quantile, format!("{percent} %"))
                })
                .collect(),
        };
        for (value, label) in ticks {
            let at = x(value);
            let anchor = if at > WIDTH - 34.0 { " end" } else { "" };
            put(
                out,
                format_args!(
                    "<path class=\"grid\" d=\"M{at:.1} {bottom}v4\"/><text class=\"along{anchor}\" x=\"{:.1}\" y=\"{:.1}\">{label}</text>",
                    if anchor.is_empty() { at } else { WIDTH - RIGHT },
                    HEIGHT - 7.0
                ),
            );
        }
        for line in lines {
            let dashed = if line.dashed { " dashed" } else { "" };
            let points = thin(&line.points);
            if let [only] = points.as_slice() {
                put(
                    out,
                    format_args!(
                        "<circle class=\"dot c{}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\"/>",
                        line.colour,
                        x(only.0),
                        y(only.1)
                    ),
                );
                continue;
            }
            put(
                out,
                format_args!("<path class=\"line c{}{dashed}\" d=\"", line.colour),
            );
            for (index, point) in points.iter().enumerate() {
                let letter = if index == 0 { 'M' } else { 'L' };
                put(
                    out,
                    format_args!("{letter}{:.1} {:.1}", x(point.0), y(point.1)),
                );
            }
            put(
                out,
                format_args!("\"><title>{}</title></path>", escape(&line.name)),
            );
        }
        out.push_str("</svg>");
    }
}

fn seconds_label(seconds: f64) -> String {
    if seconds >= 7_200.0 {
        format!("{} h", (seconds / 360.0).round() / 10.0)
    } else if seconds >= 180.0 {
        format!("{} min", (seconds / 6.0).round() / 10.0)
    } else {
        format!("{seconds} s")
    }
}

/// The highest of neighbours, so that no peak gets lost.
fn thin(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    if points.len() <= MAX_POINTS {
        return points.to_vec();
    }
    points
        .chunks(points.len().div_ceil(MAX_POINTS))
        .filter_map(|chunk| chunk.iter().copied().max_by(|a, b| a.1.total_cmp(&b.1)))
        .collect()
}

fn put(out: &mut String, arguments: std::fmt::Arguments<'_>) {
    out.write_fmt(arguments)
        .expect("BUG: a String takes any text");
}

/// Text that stands between tags or in a quoted attribute.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_hold_all_values_and_have_round_ticks() {
        let scale = Scale::linear(1_234.0, Unit::Count);
        assert_eq!(scale.ticks, [0.0, 500.0, 1_000.0, 1_500.0]);
        let scale = Scale::logarithmic(0.3, 80.0);
        assert!(scale.low <= 0.3 && scale.high >= 80.0);
        assert!((scale.at(scale.low) - 0.0).abs() < 1e-9);
        assert!((scale.at(scale.high) - 1.0).abs() < 1e-9);
        assert!(Scale::logarithmic(1.0, 1.0).high > 1.0);
        assert!(Scale::linear(0.0, Unit::Bytes).high > 0.0);
    }

    #[test]
    fn a_long_run_keeps_its_peak() {
        let mut points: Vec<_> = (0..100_000).map(|at| (f64::from(at), 1.0)).collect();
        points[77_777].1 = 9.0;
        let thin = thin(&points);
        assert!(thin.len() <= MAX_POINTS + 1);
        assert!(thin.contains(&(77_777.0, 9.0)));
    }

    #[test]
    fn names_cannot_break_the_page() {
        let chart = Chart {
            title: "<b>".into(),
            unit: Unit::Count,
            across: Across::Seconds,
            lines: vec![Line {
                name: "\"><script>".into(),
                colour: 0,
                dashed: false,
                in_legend: true,
                points: vec![(0.0, 1.0), (1.0, 2.0)],
            }],
            bands: vec![(0.0, 1.0, "&".into())],
        };
        let drawn = chart.figure();
        assert!(!drawn.contains("<script>") && !drawn.contains("<b>"));
        assert!(!drawn.contains("NaN"), "{drawn}");
    }
}
