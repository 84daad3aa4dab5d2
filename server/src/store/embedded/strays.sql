-- What belongs to nobody: entries (1) and row states (2) of no known user, and
-- owner records (3) without a live row, unless the row's removal failed.
-- ?1 names of the tables whose owners are recorded, as a JSON array of
-- schema.table; ?2 limit.
SELECT * FROM (
    SELECT DISTINCT 1 AS kind, CAST(l.user_key AS TEXT) AS whose,
           NULL AS schema_name, NULL AS table_name, NULL AS pk
    FROM _oversync_log l
    WHERE NOT EXISTS (SELECT 1 FROM _oversync_users u WHERE u.user_key = l.user_key)
    LIMIT ?2
)
UNION ALL
SELECT * FROM (
    SELECT DISTINCT 2, CAST(r.user_key AS TEXT), NULL, NULL, NULL
    FROM _oversync_rows r
    WHERE NOT EXISTS (SELECT 1 FROM _oversync_users u WHERE u.user_key = r.user_key)
    LIMIT ?2
)
UNION ALL
SELECT * FROM (
    SELECT 3, coalesce(u.user_id, CAST(o.user_key AS TEXT)), t.schema_name, t.table_name, o.pk
    FROM _oversync_owners o
    JOIN _oversync_tables t ON t.table_key = o.table_key
    LEFT JOIN _oversync_users u ON u.user_key = o.user_key
    WHERE t.schema_name || '.' || t.table_name IN (SELECT value FROM json_each(?1))
      AND NOT EXISTS (
          SELECT 1 FROM _oversync_rows r
          WHERE r.user_key = o.user_key AND r.table_key = o.table_key AND r.pk = o.pk AND NOT r.deleted)
      AND NOT EXISTS (
          SELECT 1 FROM _oversync_failures f
          WHERE f.user_key = o.user_key AND f.table_key = o.table_key AND f.pk = o.pk)
    LIMIT ?2
)
