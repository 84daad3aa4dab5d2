-- The foreign keys of business tables, with the columns on both sides.
-- $1, $2: schema and name of each table asked for.
SELECT
    child_schema.nspname AS child_schema, child.relname AS child_table,
    parent_schema.nspname AS parent_schema, parent.relname AS parent_table,
    (SELECT array_agg(a.attname::text ORDER BY at.place) FROM unnest(k.conkey) WITH ORDINALITY AS at (num, place)
     JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = at.num) AS child_columns,
    (SELECT array_agg(a.attname::text ORDER BY at.place) FROM unnest(k.confkey) WITH ORDINALITY AS at (num, place)
     JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = at.num) AS parent_columns
FROM pg_constraint k
JOIN pg_class child ON child.oid = k.conrelid
JOIN pg_namespace child_schema ON child_schema.oid = child.relnamespace
JOIN pg_class parent ON parent.oid = k.confrelid
JOIN pg_namespace parent_schema ON parent_schema.oid = parent.relnamespace
WHERE k.contype = 'f'
  -- A reference to a partitioned table is declared once more for each partition.
  AND NOT EXISTS (SELECT FROM pg_constraint whole WHERE whole.oid = k.conparentid AND whole.conrelid = k.conrelid)
  AND (child_schema.nspname, child.relname) IN (SELECT * FROM unnest($1::text[], $2::text[]))
ORDER BY 1, 2, k.conkey[1]
