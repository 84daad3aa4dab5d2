-- A step of everything that a user's stream ever held, as far as it is kept: what is in
-- the log and what folding has moved. An entry is in one of the two at any moment. Each
-- is read in its own order and no further than the step.
-- $1 user, $2 after, $3 schema (null: any), $4 table, $5 row (null: any), $6 microseconds
-- since 1970 (null: any), $7 limit
WITH wanted AS MATERIALIZED (
    SELECT u.user_key,
           ARRAY(SELECT t.table_key FROM oversync.tables t
                 WHERE $3::text IS NULL OR (t.schema_name = $3 AND t.table_name = $4)) AS tables
    FROM oversync.users u
    WHERE u.user_id = $1
)
SELECT e.server_id, t.schema_name, t.table_name, e.op, e.pk, e.version, e.device_key, d.device_id, e.change_id,
       CASE WHEN e.ts BETWEEN '0001-01-01' AND '9999-12-31 23:59:59.999999'
            THEN (extract(epoch FROM e.ts) * 1000000)::bigint END AS micros,
       e.payload, e.is_folded
FROM wanted w
CROSS JOIN LATERAL (
    (SELECT l.server_id, l.op, l.pk, l.version, l.device_key, l.table_key, l.change_id, l.ts, l.payload, false AS is_folded
     FROM oversync.log l
     WHERE l.user_key = w.user_key AND l.server_id > $2 AND l.table_key = ANY (w.tables)
       AND ($5::uuid IS NULL OR l.pk = $5)
       AND ($6::bigint IS NULL OR l.ts >= timestamptz 'epoch' + $6 * interval '1 microsecond')
     ORDER BY l.server_id
     LIMIT $7)
    UNION ALL
    (SELECT h.server_id, h.op, h.pk, h.version, h.device_key, h.table_key, h.change_id, h.ts, h.payload, true
     FROM oversync.history h
     WHERE h.user_key = w.user_key AND h.server_id > $2 AND h.table_key = ANY (w.tables)
       AND ($5::uuid IS NULL OR h.pk = $5)
       AND ($6::bigint IS NULL OR h.ts >= timestamptz 'epoch' + $6 * interval '1 microsecond')
     ORDER BY h.server_id
     LIMIT $7)
) e
JOIN oversync.tables t ON t.table_key = e.table_key
LEFT JOIN oversync.devices d ON d.user_key = w.user_key AND d.device_key = e.device_key
ORDER BY e.server_id
LIMIT $7
