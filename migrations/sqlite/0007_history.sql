-- Kept for audit where that is asked for (`retention.keep_history`): every entry that
-- folding has removed from the log, as it was there. Nothing but an auditor reads it.
CREATE TABLE _oversync_history (
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
