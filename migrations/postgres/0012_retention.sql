-- Bounded storage: what lies at or below a user's floor is read as its fold, one
-- entry per row that lives there, in the order of foreign keys.

-- The places of a fold and the log entries that stand there. A new one is written
-- beside the one that is read; the head row says which counts.
CREATE TABLE oversync.folded (
    user_key  bigint NOT NULL,
    fold      integer NOT NULL CHECK (fold >= 1),
    place     bigint NOT NULL CHECK (place >= 1),
    server_id bigint NOT NULL CHECK (server_id >= 1),
    PRIMARY KEY (user_key, fold, place)
);

-- What is left of changes whose entries were folded away: who sends one again is
-- answered as the first time.
CREATE TABLE oversync.records (
    user_key    bigint NOT NULL,
    device_key  integer NOT NULL,
    change_id   bigint NOT NULL,
    version     bigint NOT NULL CHECK (version >= 1),
    fingerprint bytea NOT NULL CHECK (length(fingerprint) = 16),
    PRIMARY KEY (user_key, device_key, change_id)
);

-- How far devices have read, as far as is known. cursor null: it may be anywhere; 0:
-- it has read nothing, and needs nothing kept. through: above the cursor and up to
-- it stood nothing but the device's own changes. wants_own: it reads those too.
-- fold: the one that it began to read from the start, until it is through; asked,
-- place: the last page of it that it was given began after the one and ended at the
-- other. read_at: its last download; seen_at: its last request of any kind.
CREATE TABLE oversync.readers (
    user_key  bigint NOT NULL,
    device_id text COLLATE "C" NOT NULL,
    cursor    bigint CHECK (cursor >= 0),
    through   bigint CHECK (through >= cursor),
    wants_own boolean NOT NULL DEFAULT false,
    fold      integer,
    asked     bigint,
    place     bigint,
    read_at   timestamptz NOT NULL DEFAULT now(),
    seen_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_key, device_id)
) WITH (fillfactor = 50);

CREATE INDEX readers_seen ON oversync.readers (seen_at);

-- Those that are here already have cursors that nobody knows.
INSERT INTO oversync.readers (user_key, device_id)
SELECT user_key, device_id FROM oversync.devices WHERE device_key > 0;

-- What is folded away is given back soon, not when a fifth of a large log is gone.
ALTER TABLE oversync.log SET (autovacuum_vacuum_scale_factor = 0.05);
ALTER TABLE oversync.folded SET (autovacuum_vacuum_scale_factor = 0.05);
ALTER TABLE oversync.records SET (autovacuum_vacuum_scale_factor = 0.05);

-- Last: what holds up everybody else is short.
-- fold: which fold is read. swept: the last one below which nothing that it
-- replaced is left. folded_at: when it was folded
-- last, in microseconds since 1970: who has waited longest is next.
ALTER TABLE oversync.users
    ADD COLUMN fold  integer NOT NULL DEFAULT 0 CHECK (fold >= 0),
    ADD COLUMN swept integer NOT NULL DEFAULT 0 CHECK (swept BETWEEN 0 AND fold),
    ADD COLUMN folded_at bigint NOT NULL DEFAULT 0;

CREATE INDEX users_folded ON oversync.users (folded_at, user_key);

-- settled_below: below it a device sends no change id again; null: it has never said.
-- has_moved: it has come with a cursor. One that never did has nothing but what it
-- wrote, and must hear of what others deleted of that, whenever it comes.
ALTER TABLE oversync.devices
    ADD COLUMN settled_below bigint,
    ADD COLUMN has_moved boolean NOT NULL DEFAULT false;
