-- A page of one user's stream.
-- ?1 user key, ?2 after, ?3 until, ?4 device key to leave out (-1: none),
-- ?5 schema (null: any), ?6 limit
SELECT
    l.server_id, t.schema_name, t.table_name, l.op, l.pk, l.version,
    s.device_id, l.change_id, l.ts, l.payload
FROM _oversync_log l
JOIN _oversync_tables t ON t.table_key = l.table_key
JOIN _oversync_devices s ON s.user_key = l.user_key AND s.device_key = l.device_key
WHERE l.user_key = ?1 AND l.server_id > ?2 AND l.server_id <= ?3
  AND l.device_key <> ?4
  AND (?5 IS NULL OR t.schema_name = ?5)
ORDER BY l.server_id
LIMIT ?6
