-- The single-column foreign keys of business tables.
-- $1, $2: schema and name of each table asked for.
SELECT
    child_schema.nspname AS child_schema, child.relname AS child_table,
    lower(child_column.attname) AS child_column,
    parent_schema.nspname AS parent_schema, parent.relname AS parent_table,
    parent_column.attname AS parent_column
FROM pg_constraint k
JOIN pg_class child ON child.oid = k.conrelid
JOIN pg_namespace child_schema ON child_schema.oid = child.relnamespace
JOIN pg_attribute child_column ON child_column.attrelid = k.conrelid AND child_column.attnum = k.conkey[1]
JOIN pg_class parent ON parent.oid = k.confrelid
JOIN pg_namespace parent_schema ON parent_schema.oid = parent.relnamespace
JOIN pg_attribute parent_column ON parent_column.attrelid = k.confrelid AND parent_column.attnum = k.confkey[1]
WHERE k.contype = 'f' AND cardinality(k.conkey) = 1
  -- A reference to a partitioned table is declared once more for each partition.
  AND NOT EXISTS (SELECT FROM pg_constraint whole WHERE whole.oid = k.conparentid AND whole.conrelid = k.conrelid)
  AND (child_schema.nspname, child.relname) IN (SELECT * FROM unnest($1::text[], $2::text[]))
ORDER BY 1, 2, k.conkey[1]
