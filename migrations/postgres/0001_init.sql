-- The server's own tables. The user comes first in every key: one user's data
-- lies together, and the tables partition and shard by user.

CREATE SCHEMA IF NOT EXISTS oversync;

-- One row. The epoch names this database's history; a restore changes it.
CREATE TABLE oversync.meta (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    epoch    text NOT NULL
);

-- The head row of a user is the lock and the order of everything of that user:
-- every writer moves the revision in the transaction that writes.
CREATE TABLE oversync.users (
    user_key bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id  text COLLATE "C" NOT NULL UNIQUE,
    head     bigint NOT NULL DEFAULT 0 CHECK (head >= 0),
    revision bigint NOT NULL DEFAULT 0,
    floor    bigint NOT NULL DEFAULT 0 CHECK (floor BETWEEN 0 AND head)
) WITH (fillfactor = 50); -- updated by every upload: room for HOT updates

-- Device keys are small and per user: 1, 2, 3 …; 0 is the server itself.
CREATE TABLE oversync.devices (
    user_key          bigint NOT NULL REFERENCES oversync.users,
    device_key        integer NOT NULL CHECK (device_key >= 0),
    device_id         text COLLATE "C" NOT NULL,
    highest_change_id bigint NOT NULL,
    PRIMARY KEY (user_key, device_key),
    UNIQUE (user_key, device_id)
) WITH (fillfactor = 50);

CREATE TABLE oversync.tables (
    table_key   integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    schema_name text COLLATE "C" NOT NULL,
    table_name  text COLLATE "C" NOT NULL,
    UNIQUE (schema_name, table_name)
);

-- The state of every row that was ever synchronised. The payload is that of the
-- log entry it points to; a tombstone keeps its version for ever.
CREATE TABLE oversync.rows (
    user_key  bigint NOT NULL,
    table_key integer NOT NULL,
    pk        uuid NOT NULL,
    version   bigint NOT NULL CHECK (version >= 1),
    server_id bigint NOT NULL CHECK (server_id >= 1),
    deleted   boolean NOT NULL,
    PRIMARY KEY (user_key, table_key, pk)
) WITH (fillfactor = 80);

-- The change stream. op: 1 insert, 2 update, 3 delete.
CREATE TABLE oversync.log (
    user_key    bigint NOT NULL,
    server_id   bigint NOT NULL CHECK (server_id >= 1),
    change_id   bigint NOT NULL,
    version     bigint NOT NULL CHECK (version >= 1),
    ts          timestamptz NOT NULL,
    device_key  integer NOT NULL,
    table_key   integer NOT NULL,
    op          smallint NOT NULL CHECK (op IN (1, 2, 3)),
    pk          uuid NOT NULL,
    fingerprint bytea NOT NULL CHECK (length(fingerprint) = 16),
    payload     text,
    CHECK ((op = 3) = (payload IS NULL)),
    PRIMARY KEY (user_key, server_id)
);

-- A change id is applied at most once, whatever else goes wrong.
CREATE UNIQUE INDEX log_change ON oversync.log (user_key, device_key, change_id);
