-- Bytes on disk: each of our tables with its indexes and what is stored beside it,
-- and the whole database. Sizes of files only.
SELECT c.relname::text AS kind, pg_total_relation_size(c.oid) AS bytes
FROM pg_class c
WHERE c.relnamespace = 'oversync'::regnamespace
  AND c.relkind = 'r'
UNION ALL
SELECT 'database', pg_database_size(current_database())
