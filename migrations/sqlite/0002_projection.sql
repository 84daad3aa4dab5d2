-- Whose a projected business row is, for business tables without an owner
-- column. A business row that is not in here was not made by synchronisation
-- and is not for taking.
CREATE TABLE _oversync_owners (
    table_key INTEGER NOT NULL,
    pk        BLOB NOT NULL CHECK (length(pk) = 16),
    user_key  INTEGER NOT NULL,
    PRIMARY KEY (table_key, pk)
) STRICT, WITHOUT ROWID;

-- Rows whose state could not be written into their business table.
CREATE TABLE _oversync_failures (
    id                INTEGER PRIMARY KEY AUTOINCREMENT,
    user_key          INTEGER NOT NULL,
    table_key         INTEGER NOT NULL,
    pk                BLOB NOT NULL CHECK (length(pk) = 16),
    attempted_version INTEGER NOT NULL,
    op                INTEGER NOT NULL CHECK (op IN (1, 2, 3)),
    payload           TEXT,
    error             TEXT NOT NULL,
    first_seen        INTEGER NOT NULL,
    retry_count       INTEGER NOT NULL DEFAULT 0,
    UNIQUE (user_key, table_key, pk, attempted_version)
) STRICT;
