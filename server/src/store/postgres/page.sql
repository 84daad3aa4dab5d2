-- A page of one user's stream after a row with the facts its reply carries, from
-- one snapshot. Reads the log in its order and no further than the page: a join
-- beside the limit would let the planner read the whole rest and sort it. Few
-- columns, and what is the same for all entries only once: the database spends
-- its time on columns. A payload above $8 bytes is left out.
-- $1 user, $2 device, $3 after, $4 until (null: the head), $5 include own,
-- $6 schema (null: any), $7 limit, $8 bytes of a payload
WITH caller AS MATERIALIZED (
    SELECT m.epoch, u.user_key, u.head, u.floor, u.fold, d.highest_change_id, d.device_key, r.fold AS began, r.asked, r.place,
           r.cursor, r.through
    FROM (SELECT x.epoch FROM oversync.meta x LIMIT 1) m
    LEFT JOIN oversync.users u ON u.user_id = $1
    LEFT JOIN oversync.devices d ON d.user_key = u.user_key AND d.device_id = $2
    LEFT JOIN oversync.readers r ON r.user_key = u.user_key AND r.device_id = $2
)
SELECT
    NULL::bigint, NULL::bigint, NULL::bigint, NULL::timestamptz, NULL::smallint, NULL::integer, NULL::integer,
    NULL::uuid, c.epoch,
    ARRAY[c.user_key, c.head, c.floor, c.highest_change_id, c.fold, c.began, c.asked, c.place, c.cursor, c.through],
    -- Nearly always all of them; the others are asked for when they are needed.
    ARRAY(SELECT s.device_key FROM oversync.devices s WHERE s.user_key = c.user_key ORDER BY s.device_key LIMIT 32),
    ARRAY(SELECT s.device_id FROM oversync.devices s WHERE s.user_key = c.user_key ORDER BY s.device_key LIMIT 32),
    ARRAY(SELECT t.table_key FROM oversync.tables t ORDER BY t.table_key),
    ARRAY(SELECT t.schema_name FROM oversync.tables t ORDER BY t.table_key),
    ARRAY(SELECT t.table_name FROM oversync.tables t ORDER BY t.table_key)
FROM caller c
UNION ALL
SELECT
    e.server_id, e.version, e.change_id, e.ts, e.op, e.device_key, e.table_key,
    e.pk, CASE WHEN octet_length(e.payload) <= $8 THEN e.payload END,
    NULL, NULL, NULL, NULL, NULL, NULL
FROM caller c
CROSS JOIN LATERAL (
    (SELECT f.place AS server_id, l.version, l.change_id, l.ts, 
            CASE WHEN l.op = 3 THEN 3 ELSE 1 END::smallint AS op, l.device_key, l.table_key, l.pk, l.payload
     FROM oversync.folded f
     CROSS JOIN LATERAL (
         SELECT x.* FROM oversync.log x
         WHERE x.user_key = f.user_key AND x.server_id = f.server_id OFFSET 0
     ) l
     WHERE $3 < c.floor AND ($3 = 0 OR c.began = c.fold AND $3 IN (c.asked, c.place)) AND f.user_key = c.user_key AND f.fold = c.fold
       AND f.place > $3 AND f.place <= coalesce($4, c.head)
       -- Tombstones are kept for devices that have uploaded.
       AND (l.op <> 3 OR c.device_key IS NOT NULL)
       AND ($5 OR l.device_key IS DISTINCT FROM c.device_key)
       AND ($6::text IS NULL
            OR l.table_key IN (SELECT k.table_key FROM oversync.tables k WHERE k.schema_name = $6))
     ORDER BY f.place
     LIMIT $7)
    UNION ALL
    (SELECT l.server_id, l.version, l.change_id, l.ts, l.op, l.device_key, l.table_key, l.pk, l.payload
     FROM oversync.log l
     WHERE l.user_key = c.user_key
       AND l.server_id > greatest($3, c.floor) AND l.server_id <= coalesce($4, c.head)
       AND ($5 OR l.device_key IS DISTINCT FROM c.device_key)
       AND ($6::text IS NULL
            OR l.table_key IN (SELECT k.table_key FROM oversync.tables k WHERE k.schema_name = $6))
     ORDER BY l.server_id
     LIMIT $7)
) e
