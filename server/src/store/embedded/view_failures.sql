-- What could not be projected, by user and number: after (?1, ?2), of no user beyond
-- ?3.
-- ?1 user's number, ?2 failure, ?3 user's number, ?4 limit, ?5 characters of a
-- payload
SELECT
    f.user_key, f.id, u.user_id, t.schema_name, t.table_name, f.pk, f.attempted_version, f.op,
    substr(f.payload, 1, ?5) AS beginning, octet_length(f.payload) AS bytes, f.error, f.first_seen, f.retry_count
FROM _oversync_failures f
JOIN _oversync_users u ON u.user_key = f.user_key
JOIN _oversync_tables t ON t.table_key = f.table_key
WHERE (f.user_key, f.id) > (?1, ?2) AND f.user_key <= ?3
ORDER BY f.user_key, f.id
LIMIT ?4
