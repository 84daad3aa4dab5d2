-- Writes the uploads of many users at once. A user takes part only while its
-- head row still has the revision the upload was decided at, nobody else holds
-- it, and no row that the upload takes for new exists. Head rows are locked in
-- user order and never waited for, so two processes cannot deadlock and one
-- busy user delays nobody.
-- $1–$4  per upload: user, revision, head afterwards, whether it writes
-- $5–$8  per writing device: user, key, name, highest change id
-- $9–$18 per entry: user, server id, change id, version, device, table, op, key,
--        fingerprint, payload
-- $19–$24 per new row, $25–$30 per known row: user, table, key, version,
--        server id, deleted
-- $31, $32 per upload: the user's name and the epoch it was decided in
-- $33 per writing device: below which it sends no change id again, or null
WITH want AS MATERIALIZED (
    SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::boolean[], $31::text[], $32::text[])
        AS w (user_key, revision, head, writes, user_id, epoch)
), fresh AS MATERIALIZED (
    SELECT * FROM unnest($19::bigint[], $20::integer[], $21::uuid[], $22::bigint[], $23::bigint[], $24::boolean[])
        AS f (user_key, table_key, pk, version, server_id, deleted)
), clash AS MATERIALIZED (
    SELECT f.user_key FROM fresh f
    WHERE EXISTS (
        SELECT FROM oversync.rows r
        WHERE r.user_key = f.user_key AND r.table_key = f.table_key AND r.pk = f.pk
        OFFSET 0) -- key by key, whatever the planner thinks of the average user
), held AS MATERIALIZED (
    SELECT u.user_key
    FROM oversync.users u
    JOIN want w ON w.user_key = u.user_key
    WHERE u.revision = w.revision AND u.user_id = w.user_id
      AND w.epoch = (SELECT m.epoch FROM oversync.meta m)
      AND u.user_key NOT IN (SELECT c.user_key FROM clash c)
    ORDER BY u.user_key
    FOR UPDATE OF u SKIP LOCKED
), moved AS (
    UPDATE oversync.users u
    SET head = w.head, revision = u.revision + 1
    FROM want w
    WHERE u.user_key = w.user_key AND w.writes AND w.user_key IN (SELECT h.user_key FROM held h)
), device AS (
    INSERT INTO oversync.devices (user_key, device_key, device_id, highest_change_id, settled_below)
    SELECT d.* FROM unnest($5::bigint[], $6::integer[], $7::text[], $8::bigint[], $33::bigint[])
        AS d (user_key, device_key, device_id, highest_change_id, settled_below)
    WHERE d.user_key IN (SELECT h.user_key FROM held h)
    ON CONFLICT (user_key, device_key) DO UPDATE
    SET highest_change_id = greatest(devices.highest_change_id, excluded.highest_change_id),
        settled_below = greatest(devices.settled_below, excluded.settled_below)
), logged AS (
    INSERT INTO oversync.log
        (user_key, server_id, change_id, version, device_key, table_key, op, pk, fingerprint, payload, ts)
    SELECT e.*, now()
    FROM unnest($9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::integer[],
                $14::integer[], $15::smallint[], $16::uuid[], $17::bytea[], $18::text[])
        AS e (user_key, server_id, change_id, version, device_key, table_key, op, pk, fingerprint, payload)
    WHERE e.user_key IN (SELECT h.user_key FROM held h)
), created AS (
    INSERT INTO oversync.rows (user_key, table_key, pk, version, server_id, deleted)
    SELECT f.user_key, f.table_key, f.pk, f.version, f.server_id, f.deleted
    FROM fresh f
    WHERE f.user_key IN (SELECT h.user_key FROM held h)
), changed AS (
    UPDATE oversync.rows r
    SET version = c.version, server_id = c.server_id, deleted = c.deleted
    FROM unnest($25::bigint[], $26::integer[], $27::uuid[], $28::bigint[], $29::bigint[], $30::boolean[])
        AS c (user_key, table_key, pk, version, server_id, deleted)
    WHERE r.user_key = c.user_key AND r.table_key = c.table_key AND r.pk = c.pk
      AND c.user_key IN (SELECT h.user_key FROM held h)
)
SELECT h.user_key, now() FROM held h
