-- What the database does by itself to rows of synchronised tables when a row
-- that they refer to is deleted. $1, $2: schema and name of each table.
SELECT
    parent_schema.nspname AS parent_schema, parent.relname AS parent_table,
    child_schema.nspname AS child_schema, child.relname AS child_table,
    k.confdeltype = 'c' AS is_delete,
    (SELECT array_agg(a.attname::text ORDER BY at.place) FROM unnest(k.confkey) WITH ORDINALITY AS at (num, place)
     JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = at.num) AS parent_columns,
    (SELECT array_agg(a.attname::text ORDER BY at.place) FROM unnest(k.conkey) WITH ORDINALITY AS at (num, place)
     JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = at.num) AS child_columns
FROM pg_constraint k
JOIN pg_class child ON child.oid = k.conrelid
JOIN pg_namespace child_schema ON child_schema.oid = child.relnamespace
JOIN pg_class parent ON parent.oid = k.confrelid
JOIN pg_namespace parent_schema ON parent_schema.oid = parent.relnamespace
WHERE k.contype = 'f' AND k.confdeltype IN ('c', 'n', 'd')
  AND (child_schema.nspname, child.relname) IN (SELECT * FROM unnest($1::text[], $2::text[]))
  AND (parent_schema.nspname, parent.relname) IN (SELECT * FROM unnest($1::text[], $2::text[]))
