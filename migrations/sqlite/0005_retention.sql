-- Bounded storage: what lies at or below a user's floor is read as its fold, one
-- entry per row that lives there, in the order of foreign keys.

-- fold: which fold is read. swept: the last one below which nothing that it
-- replaced is left.
ALTER TABLE _oversync_users ADD COLUMN fold INTEGER NOT NULL DEFAULT 0 CHECK (fold >= 0);
ALTER TABLE _oversync_users ADD COLUMN swept INTEGER NOT NULL DEFAULT 0 CHECK (swept >= 0);

-- The places of a fold and the log entries that stand there. A new one is written
-- beside the one that is read; the head row says which counts.
CREATE TABLE _oversync_folded (
    user_key  INTEGER NOT NULL,
    fold      INTEGER NOT NULL CHECK (fold >= 1),
    place     INTEGER NOT NULL CHECK (place >= 1),
    server_id INTEGER NOT NULL CHECK (server_id >= 1),
    PRIMARY KEY (user_key, fold, place)
) STRICT, WITHOUT ROWID;

-- What is left of changes whose entries were folded away: who sends one again is
-- answered as the first time.
CREATE TABLE _oversync_records (
    user_key    INTEGER NOT NULL,
    device_key  INTEGER NOT NULL,
    change_id   INTEGER NOT NULL,
    version     INTEGER NOT NULL CHECK (version >= 1),
    fingerprint BLOB NOT NULL CHECK (length(fingerprint) = 16),
    PRIMARY KEY (user_key, device_key, change_id)
) STRICT, WITHOUT ROWID;

-- Below it a device sends no change id again; null: it has never said.
ALTER TABLE _oversync_devices ADD COLUMN settled_below INTEGER;

-- How far devices have read, as far as is known. cursor null: it may be anywhere.
-- fold: the one that it began to read from the start, until it is through; asked,
-- place: the last page of it that it was given began after the one and ended at the
-- other.
-- seen_at: microseconds since 1970, UTC.
CREATE TABLE _oversync_readers (
    user_key  INTEGER NOT NULL,
    device_id TEXT NOT NULL,
    cursor    INTEGER CHECK (cursor >= 0),
    fold      INTEGER,
    asked     INTEGER,
    place     INTEGER,
    seen_at   INTEGER NOT NULL,
    PRIMARY KEY (user_key, device_id)
) STRICT, WITHOUT ROWID;

-- Those that are here already have cursors that nobody knows.
INSERT INTO _oversync_readers (user_key, device_id, seen_at)
SELECT user_key, device_id, unixepoch() * 1000000 FROM _oversync_devices WHERE device_key > 0;
