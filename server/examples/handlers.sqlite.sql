-- The tables of examples/handlers.rs, in the embedded store.
CREATE TABLE IF NOT EXISTS accounts (
    id       TEXT PRIMARY KEY NOT NULL,
    owner_id TEXT NOT NULL,
    name     TEXT
);

-- Two users may have entries with the same key.
CREATE TABLE IF NOT EXISTS ledger (
    owner_id   TEXT NOT NULL,
    id         TEXT NOT NULL,
    account_id TEXT,
    cents      INTEGER NOT NULL,
    PRIMARY KEY (owner_id, id)
);
