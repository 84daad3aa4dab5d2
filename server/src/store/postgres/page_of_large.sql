-- A page of one user's stream with the facts its reply carries, from one
-- snapshot: a page without entries is still one row. Payloads stop where their
-- sum passes a limit. The innermost parts read the fold up to the floor and the log
-- above it, in order and no further than the page; names come afterwards.
-- $1 user, $2 device, $3 after, $4 until (null: the head), $5 include own,
-- $6 schema (null: any), $7 limit, $8 bytes of payload before the last entry
SELECT
    m.epoch, u.head, u.floor, d.highest_change_id, u.fold, r.fold::bigint AS began, r.asked, r.place, r.cursor, r.through,
    e.server_id, t.schema_name, t.table_name, e.op, e.pk, e.version,
    s.device_id, e.change_id, e.ts, e.fits, CASE WHEN e.fits THEN e.payload END
FROM oversync.meta m
LEFT JOIN oversync.users u ON u.user_id = $1
LEFT JOIN oversync.devices d ON d.user_key = u.user_key AND d.device_id = $2
LEFT JOIN oversync.readers r ON r.user_key = u.user_key AND r.device_id = $2
LEFT JOIN LATERAL (
    SELECT q.*,
           coalesce(sum(octet_length(q.payload)) OVER (
               ORDER BY q.server_id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
           ), 0) <= $8 AS fits
    FROM (
        SELECT b.* FROM (
            (SELECT f.place AS server_id, l.table_key, CASE WHEN l.op = 3 THEN 3 ELSE 1 END::smallint AS op, l.pk,
                    l.version, l.device_key, l.change_id, l.ts, l.payload
             FROM oversync.folded f
             CROSS JOIN LATERAL (
                 SELECT x.* FROM oversync.log x
                 WHERE x.user_key = f.user_key AND x.server_id = f.server_id OFFSET 0
             ) l
             WHERE $3 < u.floor AND ($3 = 0 OR r.fold = u.fold AND $3 IN (r.asked, r.place)) AND f.user_key = u.user_key AND f.fold = u.fold
               AND f.place > $3 AND f.place <= coalesce($4, u.head)
               AND (l.op <> 3 OR d.device_key IS NOT NULL)
               AND ($5 OR l.device_key IS DISTINCT FROM d.device_key)
               AND ($6::text IS NULL
                    OR l.table_key IN (SELECT k.table_key FROM oversync.tables k WHERE k.schema_name = $6))
             ORDER BY f.place
             LIMIT $7)
            UNION ALL
            (SELECT l.server_id, l.table_key, l.op, l.pk, l.version, l.device_key, l.change_id, l.ts, l.payload
             FROM oversync.log l
             WHERE l.user_key = u.user_key
               AND l.server_id > greatest($3, u.floor) AND l.server_id <= coalesce($4, u.head)
               AND ($5 OR l.device_key IS DISTINCT FROM d.device_key)
               AND ($6::text IS NULL
                    OR l.table_key IN (SELECT k.table_key FROM oversync.tables k WHERE k.schema_name = $6))
             ORDER BY l.server_id
             LIMIT $7)
        ) b
        ORDER BY b.server_id
        LIMIT $7
    ) q
) e ON true
LEFT JOIN oversync.devices s ON s.user_key = u.user_key AND s.device_key = e.device_key
LEFT JOIN oversync.tables t ON t.table_key = e.table_key
