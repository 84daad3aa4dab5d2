-- Bounded storage: what lies at or below a user's floor is read as its fold, one
-- entry per row that lives there, in the order of foreign keys.

-- fold: which fold is read. swept: the last one below which nothing that it
-- replaced is left. folded_at: when it was folded
-- last, as seen_at: who has waited longest is next.
ALTER TABLE _oversync_users ADD COLUMN folded_at INTEGER NOT NULL DEFAULT 0;
CREATE INDEX _oversync_users_folded ON _oversync_users (folded_at, user_key);
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

-- settled_below: below it a device sends no change id again; null: it has never said.
-- has_moved: it has come with a cursor. One that never did has nothing but what it
-- wrote, and must hear of what others deleted of that, whenever it comes.
ALTER TABLE _oversync_devices ADD COLUMN settled_below INTEGER;
ALTER TABLE _oversync_devices ADD COLUMN has_moved INTEGER NOT NULL DEFAULT 0 CHECK (has_moved IN (0, 1));

-- How far devices have read, as far as is known. cursor null: it may be anywhere; 0:
-- it has read nothing, and needs nothing kept. through: above the cursor and up to
-- it stood nothing but the device's own changes. wants_own: it reads those too.
-- fold: the one that it began to read from the start, until it is through; asked,
-- place: the last page of it that it was given began after the one and ended at the
-- other. read_at: its last download; seen_at: its last request of any kind; both in
-- microseconds since 1970, UTC.
CREATE TABLE _oversync_readers (
    user_key  INTEGER NOT NULL,
    device_id TEXT NOT NULL,
    cursor    INTEGER CHECK (cursor >= 0),
    through   INTEGER CHECK (through >= cursor),
    wants_own INTEGER NOT NULL DEFAULT 0 CHECK (wants_own IN (0, 1)),
    fold      INTEGER,
    asked     INTEGER,
    place     INTEGER,
    read_at   INTEGER NOT NULL,
    seen_at   INTEGER NOT NULL,
    PRIMARY KEY (user_key, device_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX _oversync_readers_seen ON _oversync_readers (seen_at);

-- Those that are here already have cursors that nobody knows.
INSERT INTO _oversync_readers (user_key, device_id, read_at, seen_at)
SELECT user_key, device_id, unixepoch() * 1000000, unixepoch() * 1000000 FROM _oversync_devices WHERE device_key > 0;
