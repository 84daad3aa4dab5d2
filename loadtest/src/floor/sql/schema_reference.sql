-- The reference style: text keys, ids from a sequence, the payload stored twice,
-- six indexes on the log.
CREATE SCHEMA reference;

CREATE TABLE reference.log (
    server_id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id          text NOT NULL,
    schema_name      text NOT NULL,
    table_name       text NOT NULL,
    op               text NOT NULL,
    pk               uuid NOT NULL,
    payload          json,
    source_id        text NOT NULL,
    source_change_id bigint NOT NULL,
    server_version   bigint NOT NULL DEFAULT 0,
    deleted          boolean NOT NULL DEFAULT false,
    ts               timestamptz NOT NULL DEFAULT now(),
    UNIQUE (user_id, source_id, source_change_id)
);
CREATE INDEX ON reference.log (user_id, server_id);
CREATE INDEX ON reference.log (user_id, schema_name, server_id);
CREATE INDEX ON reference.log (user_id, source_id, server_id);
CREATE INDEX ON reference.log (user_id, schema_name, table_name, pk, server_id);

CREATE TABLE reference.meta (
    user_id        text NOT NULL,
    schema_name    text NOT NULL,
    table_name     text NOT NULL,
    pk             uuid NOT NULL,
    server_version bigint NOT NULL,
    deleted        boolean NOT NULL DEFAULT false,
    updated_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, schema_name, table_name, pk)
);

CREATE TABLE reference.state (
    user_id     text NOT NULL,
    schema_name text NOT NULL,
    table_name  text NOT NULL,
    pk          uuid NOT NULL,
    payload     json,
    PRIMARY KEY (user_id, schema_name, table_name, pk)
);
