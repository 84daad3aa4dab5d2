-- The columns of business tables, in declared order.
-- $1, $2: schema and name of each table asked for.
SELECT
    n.nspname AS schema_name, c.relname AS table_name,
    a.attname AS column_name,
    -- Without its length: a cast to varchar(9) would cut a text, an assignment refuses it.
    quote_ident(tn.nspname) || '.' || quote_ident(t.typname) AS type_name,
    format_type(a.atttypid, a.atttypmod) AS stored_type,
    t.typname AS base_type, t.typcategory::text AS category,
    a.attgenerated <> '' OR a.attidentity = 'a' AS generated,
    EXISTS (
        SELECT FROM pg_index i
        WHERE i.indrelid = c.oid AND i.indisunique AND i.indpred IS NULL
          AND i.indnkeyatts = 1 AND i.indkey[0] = a.attnum) AS is_unique,
    EXISTS (
        SELECT FROM pg_index i
        WHERE i.indrelid = c.oid AND i.indisprimary AND a.attnum = ANY (i.indkey)) AS in_primary_key
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN pg_type t ON t.oid = a.atttypid
JOIN pg_namespace tn ON tn.oid = t.typnamespace
WHERE c.relkind IN ('r', 'p')
  AND (n.nspname, c.relname) IN (SELECT * FROM unnest($1::text[], $2::text[]))
ORDER BY 1, 2, a.attnum
