-- What belongs to nobody: entries (1) and row states (2) of no known user, and
-- owner records (3) without a live row, unless the row's removal failed.
-- $1, $2 schema and name of the tables whose owners are recorded, $3 limit.
(
    SELECT DISTINCT 1 AS kind, l.user_key::text AS whose,
           NULL::text AS schema_name, NULL::text AS table_name, NULL::uuid AS pk
    FROM oversync.log l
    WHERE NOT EXISTS (SELECT FROM oversync.users u WHERE u.user_key = l.user_key)
    LIMIT $3
) UNION ALL (
    SELECT DISTINCT 2, r.user_key::text, NULL, NULL, NULL::uuid
    FROM oversync.rows r
    WHERE NOT EXISTS (SELECT FROM oversync.users u WHERE u.user_key = r.user_key)
    LIMIT $3
) UNION ALL (
    SELECT 3, coalesce(u.user_id, o.user_key::text), t.schema_name, t.table_name, o.pk
    FROM oversync.owners o
    JOIN oversync.tables t ON t.table_key = o.table_key
    LEFT JOIN oversync.users u ON u.user_key = o.user_key
    WHERE (t.schema_name, t.table_name) IN (SELECT * FROM unnest($1::text[], $2::text[]))
      AND NOT EXISTS (
          SELECT FROM oversync.rows r
          WHERE r.user_key = o.user_key AND r.table_key = o.table_key AND r.pk = o.pk AND NOT r.deleted)
      AND NOT EXISTS (
          SELECT FROM oversync.failures f
          WHERE f.user_key = o.user_key AND f.table_key = o.table_key AND f.pk = o.pk)
    LIMIT $3
)
