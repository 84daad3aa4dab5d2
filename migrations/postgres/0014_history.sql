-- Kept for audit where that is asked for (`retention.keep_history`): every entry that
-- folding has removed from the log, as it was there. Nothing but an auditor reads it.
CREATE TABLE oversync.history (
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
