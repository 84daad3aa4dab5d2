//! The whole table as Markdown: the rows, what all of them stand on, and the raw
//! values of every round. What could not be measured stands in it with the
//! reason.

use super::row::Row;
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// A line of the table, or why there is none.
pub enum Line {
    /// Measured.
    Measured(Box<Row>),
    /// The row's name, and what was in the way.
    Left(String, String),
}

/// What a note says of a row that must not be believed.
const NO_FIGURE: &str = "this is no figure";

/// The table's head.
pub const HEAD: &str = "| # | workload | ours | floor | reference style | targets |
|---|---|---|---|---|---|";

/// The page, for `docs/PERFORMANCE.md`.
pub fn table(lines: &[Line], command: &str, when: &str) -> String {
    let mut text =
        format!("Measured {when} by `{command}`; medians of the rounds below.\n\n{HEAD}\n");
    let mut raw = String::new();
    let mut facts = BTreeSet::new();
    let mut doubts = Vec::new();
    for line in lines {
        match line {
            Line::Measured(row) => {
                let all = row.to_string();
                let (first, rest) = all.split_once('\n').unwrap_or((&all, ""));
                put(&mut text, format_args!("{first}\n"));
                let rest = rest
                    .lines()
                    .fold(String::new(), |rest, line| rest + "  " + line + "\n");
                put(&mut raw, format_args!("{}\n{rest}", row.id));
                note(&mut facts, row);
                let no_figure = row.notes.iter().filter(|note| note.contains(NO_FIGURE));
                doubts.extend(no_figure.map(|note| (row.id.as_str(), note.as_str())));
            }
            Line::Left(name, why) => {
                let why = why.replace(['|', '\n'], " ");
                put(
                    &mut text,
                    format_args!("| {name} | not measured: {why} | | | | |\n"),
                );
            }
        }
    }
    for (row, note) in doubts {
        put(&mut text, format_args!("\n**{row}: {note}**\n"));
    }
    text.push_str("\nWhat the figures stand on:\n\n");
    for fact in facts {
        put(&mut text, format_args!("- {fact}\n"));
    }
    text.push_str(
        "- keys and payloads: new version 7 keys, payloads of about 200 bytes; whole runs are seeded with the number of their round\n",
    );
    put(
        &mut text,
        format_args!("\nEvery round, in order:\n\n```text\n{raw}```\n"),
    );
    text
}

/// Once each, however many rows say so.
fn note(facts: &mut BTreeSet<String>, row: &Row) {
    if let Some(machine) = &row.machine {
        facts.insert(format!(
            "machine: {}, {} cores, {} MiB, {}",
            machine.processor, machine.cores, machine.memory_mib, machine.kernel
        ));
        facts.insert(format!("load before {}: {}", row.id, machine.load_before));
    }
    for (name, value) in row.versions.iter().chain(&row.durability) {
        facts.insert(format!("{name}: {value}"));
    }
}

fn put(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    text.write_fmt(arguments)
        .expect("BUG: a String takes any text");
}

#[cfg(test)]
mod tests {
    use super::super::row::Role;
    use super::*;
    use crate::floor::Rounds;

    #[test]
    fn the_page_has_every_row_and_every_round() {
        let mut row = Row::new("B0", "nothing", "per s");
        let values = vec![3.0, 1.0, 2.0];
        row.add("ours", Role::Ours, Rounds { values });
        row.note("a debug build: this is no figure; build with --release");
        row.versions.insert("SQLite".to_owned(), "3".to_owned());
        let lines = [
            Line::Measured(Box::new(row.clone())),
            Line::Measured(Box::new(row)),
            Line::Left("B99".to_owned(), "no | such\nrow".to_owned()),
        ];
        let page = table(&lines, "loadtest bench", "today");
        assert_eq!(
            page.matches("| B0 | nothing (per s) | 2.00 (ours) |")
                .count(),
            2
        );
        assert!(
            page.contains("| B99 | not measured: no   such row | | | | |"),
            "{page}"
        );
        assert_eq!(page.matches("- SQLite: 3\n").count(), 1, "{page}");
        assert_eq!(page.matches("3.00 1.00 2.00").count(), 2, "{page}");
        assert!(page.contains("by `loadtest bench`"));
        assert_eq!(page.matches("**B0: a debug build").count(), 2, "{page}");
    }
}
