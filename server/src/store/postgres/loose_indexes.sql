-- Indexes that are much larger than they must be: a tuple of 8 bytes and its key, of fixed
-- width, and a pointer of 4 to it, in pages that are filled to nine tenths. Dead entries
-- count: removing those is autovacuum's.
-- $1 tables, $2 how many times, $3 bytes above that
SELECT i.indexrelid::regclass::text
FROM pg_index i
JOIN pg_class t ON t.oid = i.indrelid
JOIN pg_class c ON c.oid = i.indexrelid
LEFT JOIN pg_stat_all_tables s ON s.relid = t.oid
CROSS JOIN LATERAL (
    SELECT ceil(sum(a.attlen) / 8.0) * 8 AS bytes, min(a.attlen) AS least
    FROM pg_attribute a
    WHERE a.attrelid = c.oid
) key
WHERE t.relnamespace = 'oversync'::regnamespace AND t.relname = ANY ($1)
  AND i.indisvalid AND key.least > 0
  AND pg_relation_size(c.oid) > $3
      + $2 * (12 + key.bytes) / 0.9 * greatest(c.reltuples::bigint, s.n_live_tup + s.n_dead_tup)
ORDER BY i.indexrelid
