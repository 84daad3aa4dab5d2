-- The single-column foreign keys between synchronised business tables that are
-- not deferred. $1, $2: schema and name of each table. A key that a partition
-- has from its whole changes with that.
SELECT child_schema.nspname AS child_schema, child.relname AS child_table, k.conname AS name
FROM pg_constraint k
JOIN pg_class child ON child.oid = k.conrelid
JOIN pg_namespace child_schema ON child_schema.oid = child.relnamespace
JOIN pg_class parent ON parent.oid = k.confrelid
JOIN pg_namespace parent_schema ON parent_schema.oid = parent.relnamespace
WHERE k.contype = 'f' AND cardinality(k.conkey) = 1 AND k.conparentid = 0
  AND NOT (k.condeferrable AND k.condeferred)
  AND (child_schema.nspname, child.relname) IN (SELECT * FROM unnest($1::text[], $2::text[]))
  AND (parent_schema.nspname, parent.relname) IN (SELECT * FROM unnest($1::text[], $2::text[]))
ORDER BY 1, 2, 3
