-- A user's log, newest first, below ?2.
-- ?1 user, ?2 place, ?3 limit, ?4 characters of a payload
SELECT
    l.server_id, t.schema_name, t.table_name, l.pk, l.op, l.version, d.device_id, l.change_id, l.ts,
    substr(l.payload, 1, ?4) AS beginning, octet_length(l.payload) AS bytes
FROM _oversync_users u
JOIN _oversync_log l ON l.user_key = u.user_key
LEFT JOIN _oversync_tables t ON t.table_key = l.table_key
LEFT JOIN _oversync_devices d ON d.user_key = l.user_key AND d.device_key = l.device_key
WHERE u.user_id = ?1 AND l.server_id < ?2
ORDER BY l.server_id DESC
LIMIT ?3
