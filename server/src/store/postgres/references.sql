-- The single-column foreign keys of business tables to the single-column
-- primary key of another table.
-- $1, $2: schema and name of each table asked for.
SELECT
    lower(child_schema.nspname) AS child_schema, lower(child.relname) AS child_table,
    lower(child_column.attname) AS child_column,
    lower(parent_schema.nspname) AS parent_schema, lower(parent.relname) AS parent_table
FROM pg_constraint k
JOIN pg_class child ON child.oid = k.conrelid
JOIN pg_namespace child_schema ON child_schema.oid = child.relnamespace
JOIN pg_attribute child_column ON child_column.attrelid = k.conrelid AND child_column.attnum = k.conkey[1]
JOIN pg_class parent ON parent.oid = k.confrelid
JOIN pg_namespace parent_schema ON parent_schema.oid = parent.relnamespace
JOIN pg_constraint parent_key
  ON parent_key.conrelid = k.confrelid AND parent_key.contype = 'p' AND parent_key.conkey = k.confkey
WHERE k.contype = 'f' AND cardinality(k.conkey) = 1
  AND (lower(child_schema.nspname), lower(child.relname)) IN (SELECT * FROM unnest($1::text[], $2::text[]))
ORDER BY 1, 2, k.conkey[1]
