//! The report's section about what the server tells of itself, drawn over the
//! run. A server that tells nothing has a sentence instead.

use super::Report;
use super::chart::{Across, Chart, Unit};
use super::page::{bands, over_time, put};

/// A chart: its title, its unit, what its figures are multiplied by, and their
/// names in `/metrics` beside those in the legend.
type Drawn = (
    &'static str,
    Unit,
    f64,
    &'static [(&'static str, &'static str)],
);

/// What is drawn; everything else is in `report.json`.
const CHARTS: [Drawn; 5] = [
    (
        "Requests, per second",
        Unit::Count,
        1.0,
        &[
            ("uploads", "uploads"),
            ("downloads", "pages read"),
            ("quiet_downloads", "nothing new"),
            ("hints", "hints"),
            ("refusals", "refused"),
        ],
    ),
    (
        "Changes, per second",
        Unit::Count,
        1.0,
        &[
            ("changes", "answered"),
            ("projection_failures", "not projected"),
        ],
    ),
    (
        "Mean times",
        Unit::Millis,
        1_000.0,
        &[
            ("upload_seconds", "an upload"),
            ("download_seconds", "a page"),
        ],
    ),
    (
        "Uploads that shared a commit",
        Unit::Count,
        1.0,
        &[("commit_uploads", "uploads")],
    ),
    (
        "Open WebSocket sessions",
        Unit::Count,
        1.0,
        &[("sessions", "sessions")],
    ),
];

/// Adds the section.
pub(super) fn section(out: &mut String, report: &Report) {
    out.push_str("<h2>What the server tells of itself</h2>");
    if report.timeline.iter().all(|second| second.told.is_empty()) {
        out.push_str(
            "<p class=\"note\">Nothing: only servers that the load test has started are asked.</p>",
        );
        return;
    }
    out.push_str("<div class=\"charts\">");
    for (title, unit, times, figures) in CHARTS {
        let lines = figures.iter().enumerate().map(|(colour, (name, legend))| {
            over_time(&report.timeline, legend, colour, |second| {
                Some(second.told.get(*name)? * times)
                    .filter(|value| *value > 0.0 || unit != Unit::Millis)
            })
        });
        let chart = Chart {
            title: title.to_owned(),
            unit,
            across: Across::Seconds,
            lines: lines.collect(),
            bands: bands(&report.phases),
        };
        if chart.lines.iter().any(|line| !line.points.is_empty()) {
            put(out, format_args!("{}", chart.figure()));
        }
    }
    out.push_str("</div>");
}
