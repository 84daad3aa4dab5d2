-- Devices that may not come in any more, by name: also one that has never
-- uploaded anything can be revoked.
CREATE TABLE oversync.revoked (
    user_id    text COLLATE "C" NOT NULL,
    device_id  text COLLATE "C" NOT NULL,
    revoked_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, device_id)
);

-- Moves with every change of that list, in the same transaction: servers read
-- the list again only when it has.
ALTER TABLE oversync.meta ADD COLUMN revocations bigint NOT NULL DEFAULT 0;
