-- A user's failures, newest first: at most ?4, before number ?5, and no more once
-- the payloads of those before it have ?6 bytes together. Sizes are added up without
-- reading the payloads.
WITH wanted AS (
    SELECT f.user_key, f.id, coalesce(octet_length(f.payload), 0) AS bytes
    FROM _oversync_failures f
    JOIN _oversync_users u USING (user_key)
    JOIN _oversync_tables t USING (table_key)
    WHERE u.user_id = ?1
      AND (?2 IS NULL OR t.schema_name = ?2)
      AND (?3 IS NULL OR t.table_name = ?3)
      AND (?5 IS NULL OR f.id < ?5)
    ORDER BY f.id DESC
    LIMIT ?4
), measured AS (
    SELECT user_key, id, sum(bytes) OVER (ORDER BY id DESC) - bytes AS bytes_before FROM wanted
)
SELECT f.id, u.user_id, t.schema_name, t.table_name, f.pk, f.attempted_version, f.op, f.payload, f.error,
       f.first_seen, f.retry_count
FROM measured m
JOIN _oversync_failures f USING (user_key, id)
JOIN _oversync_users u USING (user_key)
JOIN _oversync_tables t USING (table_key)
WHERE m.bytes_before < ?6
ORDER BY f.id DESC
