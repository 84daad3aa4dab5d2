-- A page of what one user's log is folded to.
-- ?1 user key, ?2 after, ?3 until, ?4 device key to leave out (-1: none),
-- ?5 schema (null: any), ?6 limit, ?7 fold, ?8 whether the device has uploaded:
-- tombstones are kept for such
SELECT
    f.place, t.schema_name, t.table_name, iif(l.op = 3, 3, 1), l.pk, l.version,
    s.device_id, l.change_id, l.ts, l.payload
FROM _oversync_folded f
CROSS JOIN _oversync_log l ON l.user_key = f.user_key AND l.server_id = f.server_id
CROSS JOIN _oversync_tables t ON t.table_key = l.table_key
CROSS JOIN _oversync_devices s ON s.user_key = l.user_key AND s.device_key = l.device_key
WHERE f.user_key = ?1 AND f.fold = ?7 AND f.place > ?2 AND f.place <= ?3
  AND l.device_key <> ?4
  AND (l.op <> 3 OR ?8)
  AND (?5 IS NULL OR t.schema_name = ?5)
ORDER BY f.place
LIMIT ?6
