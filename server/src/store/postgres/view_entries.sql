-- A user's log, newest first, below $2. The page is cut before anything is joined.
-- $1 user, $2 place, $3 limit, $4 characters of a payload
SELECT
    l.server_id, t.schema_name, t.table_name, l.pk, l.op, l.version, d.device_id, l.change_id, l.ts,
    left(l.payload, $4) AS beginning, octet_length(l.payload)::bigint AS bytes
FROM oversync.users u
CROSS JOIN LATERAL (
    SELECT x.* FROM oversync.log x
    WHERE x.user_key = u.user_key AND x.server_id < $2
    ORDER BY x.server_id DESC
    LIMIT $3
) l
LEFT JOIN oversync.tables t ON t.table_key = l.table_key
LEFT JOIN oversync.devices d ON d.user_key = l.user_key AND d.device_key = l.device_key
WHERE u.user_id = $1
ORDER BY l.server_id DESC
