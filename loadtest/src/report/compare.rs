//! Two reports side by side: ratios in which above 1 always means that the
//! second run did better, as text and as a page with both curves.

use super::chart::{Across, Chart, Line, Unit, escape};
use super::page::{bands, colour_of, curve, head, put};
use super::text::{Millis, number};
use super::{Report, Second};
use std::fmt::Write as _;

/// One line of the table.
#[derive(Debug, Clone)]
pub struct Row {
    /// What is compared.
    pub what: String,
    /// The first run's value, for people.
    pub a: String,
    /// The second run's value, for people.
    pub b: String,
    /// How many times better the second is: rates b/a, times a/b. Above 1 is
    /// better.
    pub ratio: f64,
}

/// Two runs.
#[derive(Debug)]
pub struct Comparison<'a> {
    a: &'a Report,
    b: &'a Report,
    /// The table.
    pub rows: Vec<Row>,
    /// What makes the comparison doubtful: another machine, another scenario.
    pub doubts: Vec<String>,
}

/// Compares the second run with the first.
pub fn compare<'a>(a: &'a Report, b: &'a Report) -> Comparison<'a> {
    let mut rows = Vec::new();
    let (a_rates, b_rates) = (a.rates(), b.rates());
    for (what, a, b) in [
        ("operations per second", a_rates.0, b_rates.0),
        ("changes per second", a_rates.1, b_rates.1),
    ] {
        if a > 0.0 && b > 0.0 {
            rows.push(Row {
                what: what.to_owned(),
                a: number(a),
                b: number(b),
                ratio: b / a,
            });
        }
    }
    for stage in &a.stages {
        let Some(other) = b.stage(&stage.name) else {
            continue;
        };
        let (x, y) = (&stage.latency, &other.latency);
        for (percentile, a, b) in [
            ("p50", x.p50_ms, y.p50_ms),
            ("p90", x.p90_ms, y.p90_ms),
            ("p99", x.p99_ms, y.p99_ms),
        ] {
            // Half a microsecond: below what is measured.
            let (a, b) = (a.max(0.000_5), b.max(0.000_5));
            rows.push(Row {
                what: format!("{}, {percentile}", stage.name),
                a: Millis(a).to_string(),
                b: Millis(b).to_string(),
                ratio: a / b,
            });
        }
    }
    let memory = |report: &Report| {
        let all = report.timeline.iter().filter_map(|second| second.server);
        all.map(|usage| usage.rss).max().unwrap_or(0) as f64
    };
    let (x, y) = (memory(a), memory(b));
    if x > 0.0 && y > 0.0 {
        rows.push(Row {
            what: "server memory at most".to_owned(),
            a: super::text::mib(x),
            b: super::text::mib(y),
            ratio: x / y,
        });
    }
    Comparison {
        a,
        b,
        rows,
        doubts: doubts(a, b),
    }
}

fn doubts(a: &Report, b: &Report) -> Vec<String> {
    let mut doubts = Vec::new();
    let (x, y) = (&a.environment, &b.environment);
    for (what, same) in [
        ("scenarios", a.scenario_toml == b.scenario_toml),
        (
            "machines",
            x.machine.processor == y.machine.processor && x.machine.cores == y.machine.cores,
        ),
        ("durability settings", x.durability == y.durability),
    ] {
        if !same {
            doubts.push(format!("The two {what} are not the same."));
        }
    }
    if let (Some(x), Some(y)) = (&x.fsync_before, &y.fsync_before) {
        let factor = (x.p50_ms / y.p50_ms).max(y.p50_ms / x.p50_ms);
        if factor > 1.5 {
            doubts.push(format!(
                "The disk was not the same: fsync {:.2} ms and {:.2} ms.",
                x.p50_ms, y.p50_ms
            ));
        }
    }
    if !a.is_right() || !b.is_right() {
        doubts.push("A run that ended wrong has no figures.".to_owned());
    }
    doubts
}

impl Comparison<'_> {
    /// The worst of all ratios; 1 when there is nothing to compare.
    pub fn worst(&self) -> f64 {
        self.rows
            .iter()
            .map(|row| row.ratio)
            .reduce(f64::min)
            .unwrap_or(1.0)
    }

    /// The table for a terminal.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        let mut line = |arguments: std::fmt::Arguments<'_>| {
            text.write_fmt(arguments)
                .expect("BUG: a String takes any text");
            text.push('\n');
        };
        line(format_args!(
            "A: {} on {}, {}",
            self.a.scenario, self.a.store, self.a.started_at
        ));
        line(format_args!(
            "B: {} on {}, {}",
            self.b.scenario, self.b.store, self.b.started_at
        ));
        line(format_args!(
            "{:<28} {:>12} {:>12} {:>8}",
            "", "A", "B", "B is × better"
        ));
        for row in &self.rows {
            line(format_args!(
                "{:<28} {:>12} {:>12} {:>8.2}",
                row.what, row.a, row.b, row.ratio
            ));
        }
        for doubt in &self.doubts {
            line(format_args!("note: {doubt}"));
        }
        text
    }

    /// The page: the table, and both runs in each chart.
    pub fn page(&self) -> String {
        let mut out = head("Two load tests compared");
        put(
            &mut out,
            format_args!(
                "<h1>Two load tests compared</h1><p class=\"about\">A (full lines): {} on {}, {}<br>\
                 B (dashed): {} on {}, {}</p>",
                escape(&self.a.scenario),
                escape(&self.a.store),
                escape(&self.a.started_at),
                escape(&self.b.scenario),
                escape(&self.b.store),
                escape(&self.b.started_at),
            ),
        );
        if !self.doubts.is_empty() {
            out.push_str("<div class=\"verdict bad\"><strong>Careful.</strong> ");
            out.push_str(&escape(&self.doubts.join(" ")));
            out.push_str("</div>");
        }
        out.push_str(
            "<p class=\"note\">Ratios above 1: B did better.</p><div class=\"scroll\"><table><thead>\
             <tr><th></th><th>A</th><th>B</th><th>ratio</th></tr></thead><tbody>",
        );
        for row in &self.rows {
            let class = match row.ratio {
                ratio if ratio > 1.1 => " class=\"better\"",
                ratio if ratio < 0.9 => " class=\"worse\"",
                _ => "",
            };
            put(
                &mut out,
                format_args!(
                    "<tr><td>{}</td><td>{}</td><td>{}</td><td{class}>{:.2}</td></tr>",
                    escape(&row.what),
                    escape(&row.a),
                    escape(&row.b),
                    row.ratio
                ),
            );
        }
        out.push_str("</tbody></table></div><h2>Curves</h2><div class=\"charts\">");
        for chart in self.charts() {
            out.push_str(&chart.figure());
        }
        out.push_str("</div></main></body></html>\n");
        out
    }

    fn charts(&self) -> Vec<Chart> {
        let over_time = |title: &str, unit, value: &dyn Fn(&Second) -> Option<f64>, colour| Chart {
            title: title.to_owned(),
            unit,
            across: Across::Seconds,
            lines: [(self.a, "A", false), (self.b, "B", true)]
                .into_iter()
                .map(|(report, name, dashed)| Line {
                    name: name.to_owned(),
                    colour: if dashed { 1 } else { colour },
                    dashed,
                    in_legend: true,
                    points: report
                        .timeline
                        .iter()
                        .filter_map(|second| Some((second.at, value(second)?)))
                        .collect(),
                })
                .collect(),
            bands: bands(&self.a.phases),
        };
        let mut charts = vec![over_time(
            "Changes per second",
            Unit::Count,
            &|second| Some(second.changes_per_second),
            0,
        )];
        for stage in &self.a.stages {
            let Some(other) = self.b.stage(&stage.name) else {
                continue;
            };
            let colour = match colour_of(&stage.name) {
                1 => 0,
                colour => colour,
            };
            let line = |report, name: &str, colour, dashed| Line {
                name: name.to_owned(),
                colour,
                dashed,
                ..curve(report)
            };
            charts.push(Chart {
                title: format!("{}, by percentile", stage.name),
                unit: Unit::Millis,
                across: Across::Quantiles,
                lines: vec![line(stage, "A", colour, false), line(other, "B", 1, true)],
                bands: Vec::new(),
            });
            charts.push(over_time(
                &format!("{}, p99 over time", stage.name),
                Unit::Millis,
                &|second| Some(second.stages.get(&stage.name)?.p99_ms),
                colour,
            ));
        }
        charts.push(over_time(
            "Server, cores busy",
            Unit::Cores,
            &|second| Some(second.server?.cores),
            0,
        ));
        charts.push(over_time(
            "Server, memory",
            Unit::Bytes,
            &|second| Some(second.server?.rss as f64),
            0,
        ));
        charts
    }
}
