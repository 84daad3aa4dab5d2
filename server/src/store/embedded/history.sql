-- A step of everything that a user's stream ever held, as far as it is kept: what is in
-- the log and what folding has moved. An entry is in one of the two at any moment. Both
-- are read in their own order and merged: no payload is held to be sorted.
-- ?1 user key, ?2 after, ?3 schema (null: any), ?4 table, ?5 row (null: any),
-- ?6 microseconds since 1970 (null: any), ?7 limit
SELECT l.server_id, t.schema_name, t.table_name, l.op, l.pk, l.version, l.device_key, d.device_id, l.change_id,
       l.ts, l.payload, 0 AS is_folded
FROM _oversync_log l
CROSS JOIN _oversync_tables t ON t.table_key = l.table_key
LEFT JOIN _oversync_devices d ON d.user_key = l.user_key AND d.device_key = l.device_key
WHERE l.user_key = ?1 AND l.server_id > ?2 AND (?3 IS NULL OR (t.schema_name = ?3 AND t.table_name = ?4))
  AND (?5 IS NULL OR l.pk = ?5) AND (?6 IS NULL OR l.ts >= ?6)
UNION ALL
SELECT h.server_id, t.schema_name, t.table_name, h.op, h.pk, h.version, h.device_key, d.device_id, h.change_id,
       h.ts, h.payload, 1
FROM _oversync_history h
CROSS JOIN _oversync_tables t ON t.table_key = h.table_key
LEFT JOIN _oversync_devices d ON d.user_key = h.user_key AND d.device_key = h.device_key
WHERE h.user_key = ?1 AND h.server_id > ?2 AND (?3 IS NULL OR (t.schema_name = ?3 AND t.table_name = ?4))
  AND (?5 IS NULL OR h.pk = ?5) AND (?6 IS NULL OR h.ts >= ?6)
ORDER BY 1
LIMIT ?7
