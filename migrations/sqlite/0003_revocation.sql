-- Devices that may not come in any more, by name: also one that has never
-- uploaded anything can be revoked. revoked_at: microseconds since 1970, UTC.
CREATE TABLE _oversync_revoked (
    user_id    TEXT NOT NULL,
    device_id  TEXT NOT NULL,
    revoked_at INTEGER NOT NULL,
    PRIMARY KEY (user_id, device_id)
) STRICT, WITHOUT ROWID;

-- Moves with every change of that list, in the same transaction: the server
-- reads the list again only when it has.
ALTER TABLE _oversync_meta ADD COLUMN revocations INTEGER NOT NULL DEFAULT 0;
