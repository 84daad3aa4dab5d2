//! A dump's table of contents, as `pg_restore --list` prints it: one entry a line,
//! `number; table object KIND schema name owner`; notes begin with a semicolon.

/// The table of contents of one dump.
#[derive(Debug)]
pub(super) struct Listing(pub(super) String);

impl Listing {
    /// Whether large objects are in the dump. Its script would begin and end
    /// transactions of its own for them.
    pub(super) fn has_large_objects(&self) -> bool {
        let kinds = ["BLOB ", "BLOBS ", "BLOB METADATA "];
        self.0
            .lines()
            .filter_map(entry)
            .any(|entry| kinds.iter().any(|kind| entry.starts_with(kind)))
    }

    /// The list without extensions of these names and what is said of them; `None`
    /// where none of them is in it.
    pub(super) fn without(&self, extensions: &[String]) -> Option<String> {
        let is_one = |line: &str| {
            let name = entry(line).and_then(extension);
            name.is_some_and(|name| extensions.contains(&name))
        };
        if !self.0.lines().any(is_one) {
            return None;
        }
        let kept = self.0.lines().filter(|line| !is_one(line));
        Some(kept.flat_map(|line| [line, "\n"]).collect())
    }
}

/// What follows the numbers of an entry.
fn entry(line: &str) -> Option<&str> {
    let (number, rest) = line.split_once("; ")?;
    number.parse::<u32>().ok()?;
    rest.splitn(3, ' ').nth(2)
}

/// The extension that an entry makes or comments on.
fn extension(entry: &str) -> Option<String> {
    let made = entry.strip_prefix("EXTENSION - ");
    // A comment says the name as SQL does.
    let said = entry.strip_prefix("COMMENT - EXTENSION ");
    let name = made.or(said)?.trim_end();
    let quoted = name.strip_prefix('"').and_then(|n| n.strip_suffix('"'));
    Some(match quoted.filter(|_| made.is_none()) {
        Some(quoted) => quoted.replace("\"\"", "\""),
        None => name.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &str = "\
;
; Archive created at 2026-01-01 00:00:00 UTC
;     TOC Entries: 6
;
2; 3079 16385 EXTENSION - pgcrypto 
3310; 0 0 COMMENT - EXTENSION pgcrypto 
3; 3079 16422 EXTENSION - uuid-ossp 
3311; 0 0 COMMENT - EXTENSION \"uuid-ossp\" 
214; 1259 16433 TABLE public EXTENSION ann
3305; 0 16433 TABLE DATA public BLOBS ann
";

    fn listing(more: &str) -> Listing {
        Listing(format!("{PLAIN}{more}"))
    }

    #[test]
    fn large_objects_are_found() {
        assert!(!listing("").has_large_objects());
        for entry in [
            "3306; 2613 16500 BLOB - 16500 ann",
            "3307; 0 0 BLOBS - BLOBS ",
            "3306; 2613 16500 BLOB METADATA - 16500 ann",
        ] {
            assert!(listing(entry).has_large_objects(), "{entry}");
        }
    }

    #[test]
    fn extensions_are_left_out_with_their_comments() {
        let without = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            listing("").without(&names)
        };
        assert_eq!(without(&[]), None);
        assert_eq!(without(&["plpgsql", "\"uuid-ossp\""]), None);
        let left = without(&["uuid-ossp"]).expect("it is in the list");
        assert!(!left.contains("uuid-ossp"), "{left}");
        assert_eq!(left.lines().count(), PLAIN.lines().count() - 2);
        let left = without(&["uuid-ossp", "pgcrypto"]).expect("they are in the list");
        assert_eq!(left.lines().count(), PLAIN.lines().count() - 4);
        assert!(left.ends_with("TABLE DATA public BLOBS ann\n"), "{left}");
    }
}
