-- What the device keeps in the application's file, beside the application's own
-- tables. Keys (`pk`) are the 16 bytes of the row's UUID; `tbl` is a number of
-- _sync_table. Times are seconds since 1970 and for people only: no order
-- depends on them.

-- Who and where this file is. One row.
CREATE TABLE IF NOT EXISTS _sync_client (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    remote_schema TEXT NOT NULL,
    -- The server's history this file belongs to; NULL until a server told one.
    epoch TEXT,
    -- The last server id applied. Moves in the transaction of a page, nowhere else.
    cursor INTEGER NOT NULL DEFAULT 0 CHECK (cursor >= 0),
    -- 0 until a first pass over everything has been completed; nothing is
    -- uploaded before.
    hydrated INTEGER NOT NULL DEFAULT 0 CHECK (hydrated IN (0, 1)),
    -- Bound of a paged download that is under way.
    window_until INTEGER,
    -- The next source change id. Only ever grows.
    next_change_id INTEGER NOT NULL DEFAULT 1 CHECK (next_change_id >= 1),
    -- 1 once another file was seen to use this device's name: from then on
    -- downloads include what "this device" wrote.
    shares_device INTEGER NOT NULL DEFAULT 0 CHECK (shares_device IN (0, 1)),
    -- What a new pass over everything means for rows the server does not name.
    resync TEXT CHECK (resync IN ('history_replaced', 'history_pruned')),
    last_confirmed_at INTEGER,
    -- Days on which the file was synchronised, and when the last one was noticed;
    -- both by the server's time.
    day INTEGER NOT NULL DEFAULT 0,
    day_at INTEGER,
    -- 1 while the application holds a direction back.
    paused_uploads INTEGER NOT NULL DEFAULT 0 CHECK (paused_uploads IN (0, 1)),
    paused_downloads INTEGER NOT NULL DEFAULT 0 CHECK (paused_downloads IN (0, 1)),
    -- PRAGMA schema_version when the triggers were last looked at.
    schema_seen INTEGER
);

-- Silences the capture triggers while a page is applied. Set and cleared inside
-- that transaction, so that no other connection ever sees it set.
CREATE TABLE IF NOT EXISTS _sync_guard (applying INTEGER NOT NULL);
INSERT INTO _sync_guard (applying) SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM _sync_guard);

-- The synchronised tables. A number is never used for another table.
CREATE TABLE IF NOT EXISTS _sync_table (
    n INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE COLLATE NOCASE,
    -- 0 once the application has taken it off its list: what is unsent of it waits.
    listed INTEGER NOT NULL DEFAULT 1 CHECK (listed IN (0, 1)),
    -- 1 while a value kept for a column that the table has by now waits for a row.
    learns INTEGER NOT NULL DEFAULT 0
);

-- Rows with an edit that is not frozen yet: one line a row, whatever happened
-- to it. What to send is read from the table itself at freezing time.
CREATE TABLE IF NOT EXISTS _sync_pending (
    tbl INTEGER NOT NULL,
    pk BLOB NOT NULL CHECK (length(pk) = 16),
    local_key NOT NULL,
    seq INTEGER NOT NULL,
    -- The row as the server had it before the first unsent edit, as JSON.
    base TEXT,
    -- The missing row this one waits for.
    waits_tbl INTEGER,
    waits_pk BLOB,
    -- How often it was sent under a number that may have been used by another
    -- file.
    renumbered INTEGER NOT NULL DEFAULT 0,
    -- When the edit was first seen; shown, never used for order.
    at INTEGER,
    -- 1 where this device knew the row, though no version of it is held any more (the
    -- server has lost it), or may have known it: it may have been sent in a history that
    -- was replaced, or by a later state of this file.
    was_known INTEGER NOT NULL DEFAULT 0 CHECK (was_known IN (0, 1)),
    PRIMARY KEY (tbl, pk)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS _sync_pending_order ON _sync_pending (tbl, seq);
CREATE INDEX IF NOT EXISTS _sync_pending_waits ON _sync_pending (waits_tbl, waits_pk)
    WHERE waits_tbl IS NOT NULL;

-- Changes that are frozen: written before anything is sent, sent again
-- unchanged until answered.
CREATE TABLE IF NOT EXISTS _sync_outbox (
    change_id INTEGER PRIMARY KEY,
    tbl INTEGER NOT NULL,
    pk BLOB NOT NULL CHECK (length(pk) = 16),
    local_key NOT NULL,
    op TEXT NOT NULL CHECK (op IN ('INSERT', 'UPDATE', 'DELETE')),
    server_version INTEGER NOT NULL,
    payload TEXT CHECK ((payload IS NULL) = (op = 'DELETE')),
    base TEXT,
    renumbered INTEGER NOT NULL DEFAULT 0,
    at INTEGER,
    was_known INTEGER NOT NULL DEFAULT 0 CHECK (was_known IN (0, 1)),
    UNIQUE (tbl, pk)
);

-- The server version held of each row. local_key: the application's own
-- spelling of the key, where it differs from the usual one.
CREATE TABLE IF NOT EXISTS _sync_row (
    tbl INTEGER NOT NULL,
    pk BLOB NOT NULL CHECK (length(pk) = 16),
    local_key,
    version INTEGER NOT NULL,
    deleted INTEGER NOT NULL DEFAULT 0 CHECK (deleted IN (0, 1)),
    -- The version held before the pass over everything that is under way, until that
    -- names the row or ends; 0 otherwise.
    lost_version INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (tbl, pk)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS _sync_row_lost ON _sync_row (tbl, pk) WHERE lost_version > 0;

-- Columns of a row that this application does not know, as one JSON object.
CREATE TABLE IF NOT EXISTS _sync_extra (
    tbl INTEGER NOT NULL,
    pk BLOB NOT NULL,
    payload TEXT NOT NULL,
    PRIMARY KEY (tbl, pk)
) WITHOUT ROWID;

-- The newest server row that met an unsent edit.
CREATE TABLE IF NOT EXISTS _sync_shadow (
    tbl INTEGER NOT NULL,
    pk BLOB NOT NULL,
    version INTEGER NOT NULL,
    payload TEXT,
    PRIMARY KEY (tbl, pk)
) WITHOUT ROWID;

-- Entries of the stream that cannot be written into a table now: unknown table,
-- missing parent, a constraint of this file. Newest entry of a row only.
CREATE TABLE IF NOT EXISTS _sync_parked (
    wire_table TEXT NOT NULL,
    pk TEXT NOT NULL,
    version INTEGER NOT NULL,
    payload TEXT,
    reason TEXT NOT NULL,
    detail TEXT NOT NULL,
    -- The row, or with waits_pk NULL any row of the table, that would help.
    waits_tbl INTEGER,
    waits_pk BLOB,
    PRIMARY KEY (wire_table, pk)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS _sync_parked_waits ON _sync_parked (waits_tbl, waits_pk)
    WHERE waits_tbl IS NOT NULL;

-- Local edits that can never succeed as they are.
CREATE TABLE IF NOT EXISTS _sync_rejected (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    tbl INTEGER NOT NULL,
    -- NULL when the key is no UUID.
    pk BLOB,
    local_key,
    op TEXT NOT NULL,
    -- NULL for a delete, and for a row that cannot be written as JSON.
    payload TEXT,
    base TEXT,
    reason TEXT NOT NULL,
    detail TEXT NOT NULL,
    at INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS _sync_rejected_row ON _sync_rejected (tbl, pk);
CREATE INDEX IF NOT EXISTS _sync_rejected_key ON _sync_rejected (tbl, local_key);

-- What lost in a conflict.
CREATE TABLE IF NOT EXISTS _sync_conflicts (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    tbl INTEGER NOT NULL,
    pk BLOB NOT NULL,
    base TEXT,
    mine TEXT,
    theirs TEXT,
    theirs_version INTEGER NOT NULL,
    outcome TEXT NOT NULL,
    -- The values that lost, as a JSON object; NULL when what lost was a delete.
    lost TEXT,
    at INTEGER NOT NULL,
    -- _sync_client.day of that time: old records are deleted by both.
    day INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS _sync_conflicts_at ON _sync_conflicts (at);

-- What the command line was told by `init`. Never a token.
CREATE TABLE IF NOT EXISTS _sync_setting (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;
