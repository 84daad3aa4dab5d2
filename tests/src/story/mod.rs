//! Short lives of one device's file, in acts that can be begun again: what the
//! application writes, what others do meanwhile, what the client is told to do.
//!
//! A process plays them ([`play`]) and may be killed anywhere; the next one goes
//! on with the same act. The application's write of an act is one transaction with
//! the note that it has been made, and everything after it may be done twice, so a
//! story that was cut short ends like one that was not. Together the stories pass
//! through every [`oversqlite::Step`].

pub mod acts;
pub mod ending;
pub mod play;

use crate::config::Config;
use toml::{Table, Value};

/// The application's tables, and its own note of how far the story is.
pub const TABLES: &str = "
    CREATE TABLE people (id TEXT PRIMARY KEY NOT NULL, name TEXT NOT NULL, email TEXT,
        age INTEGER CHECK (age < 200));
    CREATE TABLE posts (id TEXT PRIMARY KEY NOT NULL, title TEXT,
        author_id TEXT REFERENCES people (id) ON DELETE CASCADE);
    CREATE TABLE nodes (id TEXT PRIMARY KEY NOT NULL, next_id TEXT REFERENCES nodes (id));
    CREATE TABLE codes (id TEXT PRIMARY KEY NOT NULL, code INTEGER UNIQUE);
    CREATE TABLE uses (id TEXT PRIMARY KEY NOT NULL, code INTEGER REFERENCES codes (code));
    CREATE TABLE story (act INTEGER NOT NULL, flight INTEGER NOT NULL);
    INSERT INTO story VALUES (0, 0);";

/// The synchronised ones.
pub const SYNCHRONISED: [&str; 5] = ["people", "posts", "nodes", "codes", "uses"];

/// The schema under which the server knows them.
pub const SCHEMA: &str = "story";

/// The device that plays.
pub const DEVICE: &str = "phone";

/// The device of the same user that is nothing but HTTP.
pub const PEER: &str = "peer";

/// What the client is told to do, and what happens around it. All of it may be
/// done again after a kill.
#[derive(Debug, Clone, Copy)]
pub enum Do {
    /// Upload and download until there is nothing left.
    Sync,
    /// One page.
    Download,
    /// Another device uploads, on top of what the server has.
    Peer(&'static [Change]),
    /// Somebody who has a copy of this file uploads under its next change id, or
    /// so many further on.
    Twin(&'static Change, i64),
    /// An edit that the application makes while the next answer is on its way.
    DuringUpload(&'static str),
    /// What is unsent is frozen and sent, and the answer never arrives.
    AnswerLost,
    /// Every rejected edit is tried once more.
    RetryRejected,
    /// Every rejected edit that can be given up is.
    DropRejected,
    /// Everything that lost in a conflict is written back.
    RestoreConflicts,
    /// From here on, another server.
    At(Which),
    /// The end of the user's time on this device.
    SignOut,
}

/// A server of the story.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// Small pages.
    First,
    /// Another database, small batches, and nobody who says so.
    Second,
}

/// An upload of another device.
#[derive(Debug, Clone, Copy)]
pub struct Change {
    /// Its number of it.
    pub id: i64,
    /// The table.
    pub table: &'static str,
    /// The row.
    pub key: &'static str,
    /// The payload without its braces; `None` deletes.
    pub row: Option<&'static str>,
}

/// One act.
#[derive(Debug, Clone, Copy)]
pub struct Act {
    /// What the application writes first, in one transaction.
    pub write: &'static str,
    /// What happens then, in this order.
    pub then: &'static [Do],
}

/// One story.
#[derive(Debug, Clone, Copy)]
pub struct Story {
    /// What it is called.
    pub name: &'static str,
    /// Its acts.
    pub acts: &'static [Act],
}

impl Story {
    /// The story of this name.
    ///
    /// # Panics
    /// When there is none.
    pub fn named(name: &str) -> &'static Self {
        let all = acts::STORIES.iter().chain([&acts::FRESH]);
        let found = all.into_iter().find(|story| story.name == name);
        found.unwrap_or_else(|| panic!("no story is called {name}"))
    }
}

/// Settings of a server of the stories.
pub fn settings(which: Which) -> Config {
    let table = |name: &str, reference: Option<(&str, &str)>| {
        let mut table = Table::new();
        table.insert("schema".into(), SCHEMA.into());
        table.insert("table".into(), name.into());
        if let Some((column, parent)) = reference {
            let mut reference = Table::new();
            reference.insert("column".into(), column.into());
            reference.insert("table".into(), parent.into());
            table.insert("references".into(), vec![Value::Table(reference)].into());
        }
        Value::Table(table)
    };
    let tables = vec![
        table("people", None),
        table("posts", Some(("author_id", "people"))),
        table("nodes", Some(("next_id", "nodes"))),
        table("codes", None),
        table("uses", None),
        // One that the device does not know.
        table("strangers", None),
    ];
    // Endings are compared down to the log as it was written.
    let config = Config::default()
        .unfolded()
        .set("tables", tables)
        .set("limits.max_payload_bytes", 400);
    match which {
        Which::First => config.set("limits.max_page", 4),
        Which::Second => config.set("limits.max_changes", 3),
    }
}
