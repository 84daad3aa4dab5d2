-- Pending edits of one table ({table}, number {n}) whose row is there, oldest
-- first, without those that wait for a parent, those with a change in flight, and
-- those that a newer row of the server waits for: they could only conflict.
SELECT p.pk, p.local_key, p.seq, p.base, p.renumbered, p.at, p.was_known
FROM _sync_pending AS p
WHERE p.tbl = {n}
  AND p.waits_tbl IS NULL
  AND EXISTS (SELECT 1 FROM {table} AS t WHERE t.{key} = p.local_key)
  AND NOT EXISTS (SELECT 1 FROM _sync_outbox AS o WHERE o.tbl = p.tbl AND o.pk = p.pk)
  AND NOT EXISTS (SELECT 1 FROM _sync_shadow AS s WHERE s.tbl = p.tbl AND s.pk = p.pk)
ORDER BY p.seq
LIMIT ?1
