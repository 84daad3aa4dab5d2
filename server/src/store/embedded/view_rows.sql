-- A user's rows of one table, by key.
-- ?1 user, ?2 table, ?3 first key, ?4 last key, ?5 limit, ?6 characters of a payload
SELECT
    r.pk, r.version, r.server_id, r.deleted, d.device_id, l.change_id, l.ts,
    substr(l.payload, 1, ?6) AS beginning, octet_length(l.payload) AS bytes
FROM _oversync_users u
JOIN _oversync_rows r ON r.user_key = u.user_key
LEFT JOIN _oversync_log l ON l.user_key = r.user_key AND l.server_id = r.server_id
LEFT JOIN _oversync_devices d ON d.user_key = l.user_key AND d.device_key = l.device_key
WHERE u.user_id = ?1 AND r.table_key = ?2 AND r.pk >= ?3 AND r.pk <= ?4
ORDER BY r.pk
LIMIT ?5
