//! What a move from the embedded store to PostgreSQL carries over: every table that the
//! server keeps, column by column, with the same numbers.
//!
//! Left out are the owners of business rows: the other database has business tables of
//! its own, and who owns what there is written when they are filled.

pub(crate) use super::embedded::moving::{MovedAway, Origin};
pub(crate) use super::postgres::moving::Destination;

/// How a column is spelt on either side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spelling {
    /// An integer on both.
    Number,
    /// Text on both.
    Text,
    /// 0 or 1; a boolean.
    Flag,
    /// 16 bytes; a uuid.
    Key,
    /// Bytes on both.
    Bytes,
    /// Microseconds since 1970; a timestamp.
    Time,
}

/// A table of the server's own.
#[derive(Debug)]
pub(super) struct Moved {
    /// Without what each store puts before it.
    pub(super) name: &'static str,
    /// The same names on both sides.
    pub(super) columns: &'static [(&'static str, Spelling)],
}

impl Moved {
    /// The columns as SQL lists them.
    pub(super) fn names(&self) -> String {
        let names: Vec<&str> = self.columns.iter().map(|(name, _)| *name).collect();
        names.join(", ")
    }
}

/// Rows of one table, at least one, as PostgreSQL's COPY takes them.
#[derive(Debug)]
pub(crate) struct Piece {
    /// The table's place in [`MOVED`].
    pub(super) table: usize,
    /// Lines of columns with tabs between.
    pub(super) lines: String,
    /// How many.
    pub(super) rows: u64,
}

use Spelling::{Bytes, Flag, Key, Number, Text, Time};

/// An entry of the log, or of the history that it is moved to.
const ENTRY: &[(&str, Spelling)] = &[
    ("user_key", Number),
    ("server_id", Number),
    ("device_key", Number),
    ("change_id", Number),
    ("table_key", Number),
    ("pk", Key),
    ("op", Number),
    ("version", Number),
    ("ts", Time),
    ("fingerprint", Bytes),
    ("payload", Text),
];

/// All of them, those first that others refer to.
pub(super) const MOVED: &[Moved] = &[
    Moved {
        name: "users",
        columns: &[
            ("user_key", Number),
            ("user_id", Text),
            ("head", Number),
            ("revision", Number),
            ("floor", Number),
            ("last_failure", Number),
            ("fold", Number),
            ("swept", Number),
            ("folded_at", Number),
        ],
    },
    Moved {
        name: "devices",
        columns: &[
            ("user_key", Number),
            ("device_key", Number),
            ("device_id", Text),
            ("highest_change_id", Number),
            ("settled_below", Number),
            ("has_moved", Flag),
        ],
    },
    Moved {
        name: "tables",
        columns: &[
            ("table_key", Number),
            ("schema_name", Text),
            ("table_name", Text),
        ],
    },
    Moved {
        name: "rows",
        columns: &[
            ("user_key", Number),
            ("table_key", Number),
            ("pk", Key),
            ("version", Number),
            ("server_id", Number),
            ("deleted", Flag),
        ],
    },
    Moved {
        name: "log",
        columns: ENTRY,
    },
    Moved {
        name: "failures",
        columns: &[
            ("user_key", Number),
            ("id", Number),
            ("table_key", Number),
            ("pk", Key),
            ("attempted_version", Number),
            ("op", Number),
            ("payload", Text),
            ("error", Text),
            ("first_seen", Time),
            ("retry_count", Number),
        ],
    },
    Moved {
        name: "revoked",
        columns: &[("user_id", Text), ("device_id", Text), ("revoked_at", Time)],
    },
    Moved {
        name: "folded",
        columns: &[
            ("user_key", Number),
            ("fold", Number),
            ("place", Number),
            ("server_id", Number),
        ],
    },
    Moved {
        name: "records",
        columns: &[
            ("user_key", Number),
            ("device_key", Number),
            ("change_id", Number),
            ("version", Number),
            ("fingerprint", Bytes),
        ],
    },
    Moved {
        name: "readers",
        columns: &[
            ("user_key", Number),
            ("device_id", Text),
            ("cursor", Number),
            ("through", Number),
            ("wants_own", Flag),
            ("fold", Number),
            ("asked", Number),
            ("place", Number),
            ("read_at", Time),
            ("seen_at", Time),
        ],
    },
    Moved {
        name: "jumps",
        columns: &[("user_key", Number), ("after", Number), ("through", Number)],
    },
    Moved {
        name: "history",
        columns: ENTRY,
    },
];

/// How far the streams of a database are, in numbers of which none ever goes down: equal
/// in two databases with the same users, nothing has been committed, folded or revoked
/// in one and not in the other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Standing(pub(super) [i64; 7]);

impl Standing {
    /// Asks for them. Places in two halves: their sum may be more than 64 bits.
    pub(super) fn sql(users: &str, meta: &str) -> String {
        let sum = |number: &str| format!("CAST(coalesce(sum({number}), 0) AS bigint)");
        let halves = |place: &str| {
            let upper = sum(&format!("{place} >> 32"));
            let lower = sum(&format!("{place} & 4294967295"));
            format!("{upper}, {lower}")
        };
        format!(
            "SELECT count(*), {}, {}, {}, (SELECT revocations FROM {meta}) FROM {users}",
            halves("head"),
            halves("floor"),
            sum("fold")
        )
    }
}

/// The one row about the whole database.
#[derive(Debug, Clone)]
pub(crate) struct Meta {
    /// The history, which goes on.
    pub(crate) epoch: String,
    pub(super) revocations: i64,
    pub(super) first_head: i64,
}
