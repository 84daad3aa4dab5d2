-- The embedded floor's tables: the shape of the server's own, written by hand.
CREATE TABLE floor_users (user_key INTEGER PRIMARY KEY, head INTEGER NOT NULL, revision INTEGER NOT NULL) STRICT;
CREATE TABLE floor_devices (
    user_key INTEGER NOT NULL, device_key INTEGER NOT NULL, highest_change_id INTEGER NOT NULL,
    PRIMARY KEY (user_key, device_key)
) STRICT, WITHOUT ROWID;
CREATE TABLE floor_rows (
    user_key INTEGER NOT NULL, table_key INTEGER NOT NULL, pk BLOB NOT NULL, version INTEGER NOT NULL,
    server_id INTEGER NOT NULL, deleted INTEGER NOT NULL, PRIMARY KEY (user_key, table_key, pk)
) STRICT, WITHOUT ROWID;
CREATE TABLE floor_log (
    user_key INTEGER NOT NULL, server_id INTEGER NOT NULL, device_key INTEGER NOT NULL, change_id INTEGER NOT NULL,
    table_key INTEGER NOT NULL, pk BLOB NOT NULL, op INTEGER NOT NULL, version INTEGER NOT NULL, ts INTEGER NOT NULL,
    fingerprint BLOB NOT NULL, payload TEXT, PRIMARY KEY (user_key, server_id)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX floor_log_change ON floor_log (user_key, device_key, change_id);
