-- The floor's tables: the shape of the server's own, written by hand.
CREATE SCHEMA floor;

CREATE TABLE floor.users (
    user_key bigint PRIMARY KEY,
    head     bigint NOT NULL DEFAULT 0,
    revision bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

CREATE TABLE floor.devices (
    user_key          bigint NOT NULL,
    device_key        integer NOT NULL,
    highest_change_id bigint NOT NULL,
    PRIMARY KEY (user_key, device_key)
) WITH (fillfactor = 50);

CREATE TABLE floor.rows (
    user_key  bigint NOT NULL,
    table_key integer NOT NULL,
    pk        uuid NOT NULL,
    version   bigint NOT NULL,
    server_id bigint NOT NULL,
    deleted   boolean NOT NULL,
    PRIMARY KEY (user_key, table_key, pk)
) WITH (fillfactor = 80);

CREATE TABLE floor.log (
    user_key    bigint NOT NULL,
    server_id   bigint NOT NULL,
    change_id   bigint NOT NULL,
    version     bigint NOT NULL,
    ts          timestamptz NOT NULL,
    device_key  integer NOT NULL,
    table_key   integer NOT NULL,
    op          smallint NOT NULL,
    pk          uuid NOT NULL,
    fingerprint bytea NOT NULL,
    payload     text,
    PRIMARY KEY (user_key, server_id)
);

CREATE UNIQUE INDEX log_change ON floor.log (user_key, device_key, change_id);
