//! The report as one HTML file: nothing is loaded from anywhere and nothing is
//! run, so it can be mailed, archived and opened offline. Light and dark by the
//! reader's own preference.

use super::chart::{Across, Chart, Line, Unit, escape};
use super::text::{Millis, mib, number};
use super::{Phase, Report, Second, StageReport, told};
use crate::measure::Stage;
use crate::measure::process::Usage;
use crate::measure::told::live_bytes;
use std::fmt::Write as _;

/// Phases whose rates stand at the top; the table has all.
const MOST_PHASES: usize = 4;

const STYLE: &str = include_str!("page.css");

/// The report as a page.
pub fn page(report: &Report) -> String {
    let title = format!("{} on {}", report.scenario, report.store);
    let mut out = head(&title);
    put(
        &mut out,
        format_args!(
            "<h1>Load test: {}</h1><p class=\"about\">{} · {} · seed {}</p>",
            escape(&title),
            escape(&report.about),
            escape(&report.started_at),
            report.seed
        ),
    );
    verdict(&mut out, report);
    figures(&mut out, report);
    out.push_str("<ul class=\"words\">");
    for sentence in report.summary() {
        put(&mut out, format_args!("<li>{}</li>", escape(&sentence)));
    }
    out.push_str("</ul>");
    out.push_str("<h2>Over time</h2><div class=\"charts\">");
    for chart in charts(report) {
        out.push_str(&chart.figure());
    }
    out.push_str("</div>");
    told::section(&mut out, report);
    phases(&mut out, &report.phases);
    errors(&mut out, report);
    details(&mut out, report);
    out.push_str("</main></body></html>\n");
    out
}

/// Everything up to the body's content.
pub(super) fn head(title: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\">\
         <title>{}</title><style>\n{STYLE}</style></head><body><main>\n",
        escape(title)
    )
}

pub(super) fn put(out: &mut String, arguments: std::fmt::Arguments<'_>) {
    out.write_fmt(arguments)
        .expect("BUG: a String takes any text");
}

fn verdict(out: &mut String, report: &Report) {
    let right = report.is_right();
    put(
        out,
        format_args!(
            "<div class=\"verdict{}\"><strong>{}</strong> {}",
            if right { "" } else { " bad" },
            match (right, report.convergence.equal) {
                (true, _) => "Right.",
                (false, false) => "Wrong.",
                (false, true) => "Not steady.",
            },
            escape(&report.verdict())
        ),
    );
    if !report.convergence.differences.is_empty() {
        out.push_str("<ul>");
        for difference in &report.convergence.differences {
            put(out, format_args!("<li>{}</li>", escape(difference)));
        }
        out.push_str("</ul>");
    }
    out.push_str("</div>");
}

fn figures(out: &mut String, report: &Report) {
    let mut all = Vec::new();
    for phase in report.working_phases().take(MOST_PHASES) {
        all.push((
            number(phase.changes_per_second),
            format!("changes per second, {}", phase.name),
        ));
        if phase.changes > 2 * phase.operations {
            all.push((
                number(phase.operations_per_second),
                format!("operations per second, {}", phase.name),
            ));
        }
    }
    for stage in &report.stages {
        all.push((
            format!(
                "{} <small>/ {}</small>",
                Millis(stage.latency.p50_ms),
                Millis(stage.latency.p99_ms)
            ),
            format!("{}, half / 99 of 100 within", stage.name),
        ));
    }
    let most = |pick: &dyn Fn(&Usage) -> f64| {
        let values = report
            .timeline
            .iter()
            .filter_map(|second| second.server.as_ref().map(pick));
        values.fold(None, |most: Option<f64>, value| {
            Some(most.unwrap_or(0.0).max(value))
        })
    };
    if let Some(rss) = most(&|usage| usage.rss as f64) {
        all.push((mib(rss), "server memory at most".to_owned()));
    }
    let errors: u64 = report.errors.values().sum();
    all.push((number(errors as f64), "errors".to_owned()));
    out.push_str("<ul class=\"figures\">");
    for (value, what) in all {
        put(
            out,
            format_args!("<li><b>{value}</b><span>{}</span></li>", escape(&what)),
        );
    }
    out.push_str("</ul>");
}

/// A line through the timeline, where there is something to see.
pub(super) fn over_time(
    timeline: &[Second],
    name: &str,
    colour: usize,
    value: impl Fn(&Second) -> Option<f64>,
) -> Line {
    Line {
        name: name.to_owned(),
        colour,
        dashed: false,
        in_legend: true,
        points: timeline
            .iter()
            .filter_map(|second| Some((second.at, value(second)?)))
            .collect(),
    }
}

fn usage_lines(timeline: &[Second], value: impl Fn(&Usage) -> f64 + Copy) -> Vec<Line> {
    vec![
        over_time(timeline, "server", 0, |second| {
            second.server.as_ref().map(value)
        }),
        over_time(timeline, "fleet (this load test)", 1, |second| {
            second.fleet.as_ref().map(value)
        }),
    ]
}

fn charts(report: &Report) -> Vec<Chart> {
    let timeline = &report.timeline;
    let bands = bands(&report.phases);
    let chart = |title: &str, unit, lines| Chart {
        title: title.to_owned(),
        unit,
        across: Across::Seconds,
        lines,
        bands: bands.clone(),
    };
    let work = |second: &Second| Some(second.changes_per_second);
    let operations = |second: &Second| Some(second.operations_per_second);
    let mut charts = vec![chart(
        "Throughput, per second",
        Unit::Count,
        vec![
            over_time(timeline, "changes", 0, work),
            over_time(timeline, "operations", 1, operations),
        ],
    )];
    let mut stages = Vec::new();
    for stage in &report.stages {
        let colour = colour_of(&stage.name);
        let p50 = over_time(timeline, &stage.name, colour, |second| {
            second.stages.get(&stage.name).map(|latency| latency.p50_ms)
        });
        let p99 = over_time(
            timeline,
            &format!("{}, p99", stage.name),
            colour,
            |second| second.stages.get(&stage.name).map(|latency| latency.p99_ms),
        );
        stages.push(p50);
        stages.push(Line {
            dashed: true,
            in_legend: false,
            ..p99
        });
    }
    charts.push(chart("Latency (dashed: 99 of 100)", Unit::Millis, stages));
    charts.push(Chart {
        title: "Latency by percentile".to_owned(),
        unit: Unit::Millis,
        across: Across::Quantiles,
        lines: report.stages.iter().map(curve).collect(),
        bands: Vec::new(),
    });
    let mut cores = usage_lines(timeline, |usage| usage.cores);
    cores.push(over_time(timeline, "database", 2, |second| {
        second.database.as_ref().map(|usage| usage.cores)
    }));
    charts.push(chart("Processor, cores busy", Unit::Cores, cores));
    let mut memory = usage_lines(timeline, |usage| usage.rss as f64);
    memory.push(over_time(timeline, "server, live bytes", 2, |second| {
        live_bytes(&second.told).map(|bytes| bytes as f64)
    }));
    charts.push(chart("Memory, resident and live", Unit::Bytes, memory));
    charts.push(chart(
        "Open files",
        Unit::Count,
        usage_lines(timeline, |usage| usage.files as f64),
    ));
    if report.errors.values().sum::<u64>() > 0 {
        charts.push(chart(
            "Errors, per second",
            Unit::Count,
            vec![over_time(timeline, "errors", 4, |second| {
                Some(second.errors as f64)
            })],
        ));
    }
    charts
}

/// The colour of a stage is the same in all charts of all reports.
pub(super) fn colour_of(stage: &str) -> usize {
    Stage::ALL
        .iter()
        .position(|known| known.name() == stage)
        .unwrap_or(0)
        .min(4)
}

pub(super) fn curve(stage: &StageReport) -> Line {
    Line {
        name: stage.name.clone(),
        colour: colour_of(&stage.name),
        dashed: false,
        in_legend: true,
        points: stage.curve.clone(),
    }
}

pub(super) fn bands(phases: &[Phase]) -> Vec<(f64, f64, String)> {
    phases
        .iter()
        .map(|phase| (phase.start, phase.start + phase.seconds, phase.name.clone()))
        .collect()
}

fn phases(out: &mut String, phases: &[Phase]) {
    out.push_str(
        "<h2>Phases</h2><div class=\"scroll\"><table><thead><tr><th>phase</th><th>seconds</th>\
         <th>operations/s</th><th>changes/s</th><th>errors</th><th>latency</th><th>samples</th>\
         <th>p50</th><th>p90</th><th>p99</th><th>p99.9</th><th>max</th></tr></thead><tbody>",
    );
    for phase in phases {
        let begin = format!(
            "<td>{}</td><td>{:.1}</td><td>{}</td><td>{}</td><td>{}</td>",
            escape(&phase.name),
            phase.seconds,
            number(phase.operations_per_second),
            number(phase.changes_per_second),
            phase.errors
        );
        if phase.stages.is_empty() {
            put(
                out,
                format_args!("<tr>{begin}<td>–</td>{}</tr>", "<td></td>".repeat(6)),
            );
        }
        for (index, stage) in phase.stages.iter().enumerate() {
            let latency = &stage.latency;
            let begin = if index == 0 {
                begin.clone()
            } else {
                "<td></td>".repeat(5)
            };
            put(
                out,
                format_args!(
                    "<tr>{begin}<td>{}</td><td>{}</td>",
                    escape(&stage.name),
                    number(latency.samples as f64)
                ),
            );
            for value in [
                latency.p50_ms,
                latency.p90_ms,
                latency.p99_ms,
                latency.p999_ms,
                latency.max_ms,
            ] {
                put(out, format_args!("<td>{}</td>", Millis(value)));
            }
            out.push_str("</tr>");
        }
    }
    out.push_str("</tbody></table></div>");
}

fn errors(out: &mut String, report: &Report) {
    if report.errors.is_empty() {
        return;
    }
    out.push_str(
        "<h2>Errors</h2><table><thead><tr><th>kind</th><th>count</th></tr></thead><tbody>",
    );
    for (kind, count) in &report.errors {
        put(
            out,
            format_args!("<tr><td>{}</td><td>{count}</td></tr>", escape(kind)),
        );
    }
    out.push_str("</tbody></table>");
}

/// What a reader needs to believe the figures, or to repeat the run.
fn details(out: &mut String, report: &Report) {
    let environment = &report.environment;
    let machine = &environment.machine;
    let mut facts = vec![
        ("command".to_owned(), report.command.clone()),
        ("seed".to_owned(), report.seed.to_string()),
        (
            "machine".to_owned(),
            format!(
                "{}, {} cores, {} MiB, {}",
                machine.processor, machine.cores, machine.memory_mib, machine.kernel
            ),
        ),
        ("load before".to_owned(), machine.load_before.clone()),
        ("server processes".to_owned(), report.processes.to_string()),
    ];
    for fleet in &report.fleets {
        facts.push((
            format!("fleet {}", fleet.name),
            format!(
                "{} users, {} {} devices",
                fleet.users, fleet.devices, fleet.device
            ),
        ));
    }
    for (when, probe) in [
        ("before", &environment.fsync_before),
        ("after", &environment.fsync_after),
    ] {
        if let Some(probe) = probe {
            facts.push((
                format!("fsync probe {when}"),
                format!("{probe} ({} appends with fdatasync)", probe.writes),
            ));
        }
    }
    for (name, value) in environment.versions.iter().chain(&environment.durability) {
        facts.push((name.clone(), value.clone()));
    }
    out.push_str("<h2>How it was measured</h2><dl>");
    for (name, value) in facts {
        put(
            out,
            format_args!("<dt>{}</dt><dd>{}</dd>", escape(&name), escape(&value)),
        );
    }
    put(
        out,
        format_args!(
            "</dl><details><summary>The scenario</summary><pre>{}</pre></details>",
            escape(&report.scenario_toml)
        ),
    );
}
