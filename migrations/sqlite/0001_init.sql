-- The server's own tables in the embedded store. Business tables may live in
-- the same file; these carry a prefix that cannot be registered.

-- One row. The epoch names this database's history; a restore changes it.
CREATE TABLE _oversync_meta (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    epoch    TEXT NOT NULL
) STRICT;

CREATE TABLE _oversync_users (
    user_key INTEGER PRIMARY KEY,
    user_id  TEXT NOT NULL UNIQUE,
    head     INTEGER NOT NULL DEFAULT 0 CHECK (head >= 0),
    revision INTEGER NOT NULL DEFAULT 0,
    floor    INTEGER NOT NULL DEFAULT 0 CHECK (floor BETWEEN 0 AND head)
) STRICT;

-- Device keys are small and per user: 1, 2, 3 …; 0 is the server itself.
CREATE TABLE _oversync_devices (
    user_key          INTEGER NOT NULL,
    device_key        INTEGER NOT NULL CHECK (device_key >= 0),
    device_id         TEXT NOT NULL,
    highest_change_id INTEGER NOT NULL,
    PRIMARY KEY (user_key, device_key),
    UNIQUE (user_key, device_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE _oversync_tables (
    table_key   INTEGER PRIMARY KEY,
    schema_name TEXT NOT NULL,
    table_name  TEXT NOT NULL,
    UNIQUE (schema_name, table_name)
) STRICT;

-- The state of every row that was ever synchronised. The payload is that of the
-- log entry it points to; a tombstone keeps its version for ever.
CREATE TABLE _oversync_rows (
    user_key  INTEGER NOT NULL,
    table_key INTEGER NOT NULL,
    pk        BLOB NOT NULL CHECK (length(pk) = 16),
    version   INTEGER NOT NULL CHECK (version >= 1),
    server_id INTEGER NOT NULL CHECK (server_id >= 1),
    deleted   INTEGER NOT NULL CHECK (deleted IN (0, 1)),
    PRIMARY KEY (user_key, table_key, pk)
) STRICT, WITHOUT ROWID;

-- The change stream, clustered by user. op: 1 insert, 2 update, 3 delete.
-- ts: microseconds since 1970, UTC.
CREATE TABLE _oversync_log (
    user_key    INTEGER NOT NULL,
    server_id   INTEGER NOT NULL CHECK (server_id >= 1),
    device_key  INTEGER NOT NULL,
    change_id   INTEGER NOT NULL,
    table_key   INTEGER NOT NULL,
    pk          BLOB NOT NULL CHECK (length(pk) = 16),
    op          INTEGER NOT NULL CHECK (op IN (1, 2, 3)),
    version     INTEGER NOT NULL CHECK (version >= 1),
    ts          INTEGER NOT NULL,
    fingerprint BLOB NOT NULL CHECK (length(fingerprint) = 16),
    payload     TEXT,
    CHECK ((op = 3) = (payload IS NULL)),
    PRIMARY KEY (user_key, server_id)
) STRICT, WITHOUT ROWID;

-- A change id is applied at most once, whatever else goes wrong.
CREATE UNIQUE INDEX _oversync_log_change ON _oversync_log (user_key, device_key, change_id);
