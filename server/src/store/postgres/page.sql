-- A page of one user's stream with the facts its reply carries, from one
-- snapshot: a page without entries is still one row.
-- $1 user, $2 device, $3 after, $4 until (null: the head), $5 include own,
-- $6 schema (null: any), $7 limit, $8 bytes of payload before the last entry
SELECT
    m.epoch, u.head, u.floor, d.highest_change_id,
    e.available, e.server_id, e.schema_name, e.table_name, e.op, e.pk, e.version, e.source, e.change_id, e.ts, e.payload
FROM oversync.meta m
LEFT JOIN oversync.users u ON u.user_id = $1
LEFT JOIN oversync.devices d ON d.user_key = u.user_key AND d.device_id = $2
LEFT JOIN LATERAL (
    SELECT p.*
    FROM (
        SELECT q.*, count(*) OVER () AS available,
               sum(coalesce(octet_length(q.payload), 0)) OVER (ORDER BY q.server_id)
                   - coalesce(octet_length(q.payload), 0) AS bytes_before
        FROM (
            SELECT l.server_id, t.schema_name, t.table_name, l.op, l.pk, l.version,
                   s.device_id AS source, l.change_id, l.ts, l.payload
            FROM oversync.log l
            JOIN oversync.tables t ON t.table_key = l.table_key
            JOIN oversync.devices s ON s.user_key = l.user_key AND s.device_key = l.device_key
            WHERE l.user_key = u.user_key
              AND l.server_id > $3 AND l.server_id <= coalesce($4, u.head)
              AND ($5 OR l.device_key IS DISTINCT FROM d.device_key)
              AND ($6::text IS NULL OR t.schema_name = $6)
            ORDER BY l.server_id
            LIMIT $7
        ) q
    ) p
    WHERE p.bytes_before <= $8
) e ON true
