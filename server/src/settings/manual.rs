//! The manual of the settings, made from the code: what `oversync config --manual`
//! prints and `docs/SETTINGS.md` holds. What a setting means is its field's own
//! documentation; its default is that of [`Settings::default`].

use super::{
    AuthSettings, LimitSettings, NatsSettings, QuotaSettings, Rate, RateSettings,
    ReferenceSettings, RetentionSettings, Settings, TableSettings, TlsSettings, TraceSettings,
};
use documented::DocumentedFields;
use serde_json::Value;
use std::fmt::Write as _;

/// What stands above the tables.
const OPENING: &str = "# Settings\n
Made from the code by `oversync config --manual`. Every setting can stand in the file
(`--config oversync.toml`) or in the environment, and the more usual ones on the command
line (`oversync serve --help`); the command line wins over the environment, and that
over the file. In the environment `limits.max_page` is `OVERSYNC_LIMITS__MAX_PAGE`.
Unknown settings are errors. `oversync config` prints what is in force.\n";

/// Struct by struct: its heading, what is said of it, and its fields.
struct Part {
    name: &'static str,
    about: &'static str,
    fields: &'static [&'static str],
    documentation: &'static [&'static str],
}

impl Part {
    fn of<T: DocumentedFields>(name: &'static str, about: &'static str) -> Self {
        Self {
            name,
            about,
            fields: T::FIELD_NAMES,
            documentation: T::FIELD_DOCS,
        }
    }
}

impl Settings {
    /// The manual, as Markdown.
    pub fn manual() -> String {
        let parts = [
            Part::of::<Settings>("", "The top level of the file."),
            Part::of::<LimitSettings>("limits", "What one request and one process may take."),
            Part::of::<AuthSettings>("auth", "Which tokens are taken, where it is not HS256."),
            Part::of::<TlsSettings>("tls", "HTTPS and wss by the server itself."),
            Part::of::<QuotaSettings>(
                "quotas",
                "How much one user may have. A change that would pass a limit is answered `invalid` \
                 with the reason `precheck_error`; deletes, and updates that make no row larger, \
                 always pass. What back-end code writes is counted, and not limited.",
            ),
            Part::of::<RateSettings>("rates", "How much one user and one address may ask for."),
            Part::of::<Rate>("rates.*_requests", "One of the two rates of requests."),
            Part::of::<RetentionSettings>("retention", "How logs are kept short."),
            Part::of::<TraceSettings>("trace", "Spans for OpenTelemetry: [tracing](TRACING.md)."),
            Part::of::<NatsSettings>(
                "nats",
                "How processes tell each other of commits, where it is not PostgreSQL.",
            ),
            Part::of::<TableSettings>("[[tables]]", "The synchronised tables, one part each."),
            Part::of::<ReferenceSettings>(
                "tables.references",
                "Foreign keys of a table that the database does not declare, a list.",
            ),
        ];
        let defaults = serde_json::to_value(Settings::default()).expect("BUG: settings serialise");
        let mut text = OPENING.to_owned();
        for part in &parts {
            part.write(&defaults, &mut text);
        }
        text
    }
}

impl Part {
    fn write(&self, defaults: &Value, text: &mut String) {
        let heading = match self.name {
            "" => "At the top".to_owned(),
            name => format!("`{name}`"),
        };
        let own = match self.name {
            "" => Some(defaults),
            name => defaults.get(name),
        };
        let written = write!(
            text,
            "\n## {heading}\n\n{}\n\n| setting | default | |\n|---|---|---|\n",
            self.about
        );
        written.expect("BUG: writing to a text");
        for (field, documentation) in self.fields.iter().zip(self.documentation) {
            let default = own.and_then(|values| values.get(field));
            // Parts of their own.
            if default.is_some_and(Value::is_object) {
                continue;
            }
            let about = documentation.replace('\n', " ");
            let about = about.replace('|', "\\|");
            let default = default.and_then(shown).unwrap_or_default();
            writeln!(text, "| `{field}` | {default} | {about} |").expect("BUG: writing to a text");
        }
    }
}

/// A default as it would stand in the file; none where nothing is set.
fn shown(default: &Value) -> Option<String> {
    match default {
        Value::Null => None,
        Value::Array(values) if values.is_empty() => None,
        value => Some(format!("`{value}`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/OPERATE.md");
    const MANUAL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/SETTINGS.md");

    #[test]
    fn the_manual_in_the_documentation_is_the_code_s() {
        let kept = std::fs::read_to_string(MANUAL).expect("docs/SETTINGS.md");
        assert_eq!(
            kept,
            Settings::manual(),
            "make it anew: oversync config --manual > docs/SETTINGS.md"
        );
    }

    /// The operators' page has a file of settings in which most are commented out.
    #[test]
    fn the_example_knows_no_setting_that_does_not_exist() {
        let page = std::fs::read_to_string(EXAMPLE).expect("docs/OPERATE.md");
        let block = page.split("```toml\n").nth(1).expect("a block of TOML");
        let block = block.split("```").next().expect("its end");
        let mut lines = Vec::new();
        for line in block.lines() {
            let bare = line.strip_prefix("# ").unwrap_or(line);
            let is_setting = bare.starts_with('[') || bare.contains(" = ") && !bare.contains(". ");
            if line == bare || is_setting {
                lines.push(bare);
            }
        }
        let settings: Settings = toml::from_str(&lines.join("\n")).expect("settings");
        assert!(settings.retention.enabled && settings.nats.url.is_some());
        assert!(settings.rates.user_requests.is_some() && settings.auth.issuer.is_some());
        assert_eq!(settings.tables.len(), 2);
    }

    #[test]
    fn every_setting_is_in_the_manual_and_says_what_it_means() {
        let manual = Settings::manual();
        let rows = manual.lines().filter(|line| line.starts_with("| `"));
        for row in rows {
            assert!(!row.ends_with("|  |"), "{row}");
        }
        let settings = serde_json::to_value(Settings::default()).expect("JSON");
        for (name, value) in settings.as_object().expect("an object") {
            match value.as_object() {
                None => assert!(manual.contains(&format!("| `{name}` |")), "{name}"),
                Some(fields) => {
                    let part = manual.split(&format!("## `{name}`\n")).nth(1);
                    let part = part.unwrap_or_else(|| panic!("{name}"));
                    for field in fields.keys() {
                        assert!(part.contains(&format!("| `{field}` |")), "{name}.{field}");
                    }
                }
            }
        }
    }
}
