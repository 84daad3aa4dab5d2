-- The least that an upload of new rows must write, for many users at once: the
-- head, the device's watermark, the log, the row states. No reading, no joins.
-- $1 users, $2 heads afterwards, $3 highest change ids
-- $4 users, $5 server ids, $6 change ids, $7 keys, $8 fingerprints, $9 payloads
WITH moved AS (
    UPDATE floor.users u
    SET head = w.head, revision = u.revision + 1
    FROM unnest($1::bigint[], $2::bigint[]) AS w (user_key, head)
    WHERE u.user_key = w.user_key
), device AS (
    INSERT INTO floor.devices (user_key, device_key, highest_change_id)
    SELECT d.user_key, 1, d.highest FROM unnest($1::bigint[], $3::bigint[]) AS d (user_key, highest)
    ON CONFLICT (user_key, device_key) DO UPDATE SET highest_change_id = excluded.highest_change_id
), logged AS (
    INSERT INTO floor.log (user_key, server_id, change_id, version, ts, device_key, table_key, op, pk, fingerprint, payload)
    SELECT e.user_key, e.server_id, e.change_id, 1, now(), 1, 1, 1, e.pk, e.fingerprint, e.payload
    FROM unnest($4::bigint[], $5::bigint[], $6::bigint[], $7::uuid[], $8::bytea[], $9::text[])
        AS e (user_key, server_id, change_id, pk, fingerprint, payload)
)
INSERT INTO floor.rows (user_key, table_key, pk, version, server_id, deleted)
SELECT e.user_key, 1, e.pk, 1, e.server_id, false
FROM unnest($4::bigint[], $5::bigint[], $7::uuid[]) AS e (user_key, server_id, pk)
