-- Notes the rows of one table ({table}, number ?1, called ?2 on the wire) that the
-- server has and that are gone here, where nothing says so yet: SQLite fired no
-- trigger when they went. {spelling}: the key as the application spells it;
-- {log}: the table's log.
-- Left out is what would be noted again and again: an edit that waits or is in
-- flight reads the row when its time comes, a refused delete is in its list, and a
-- row that is parked cannot be here.
INSERT INTO {log} (op, key)
SELECT 4, {spelling}
FROM _sync_row AS r
WHERE r.tbl = ?1
  AND r.deleted = 0
  AND NOT EXISTS (SELECT 1 FROM {table} AS t WHERE t.{key} = {spelling})
  AND NOT EXISTS (SELECT 1 FROM _sync_pending AS p WHERE p.tbl = r.tbl AND p.pk = r.pk)
  AND NOT EXISTS (SELECT 1 FROM _sync_outbox AS o WHERE o.tbl = r.tbl AND o.pk = r.pk)
  AND NOT EXISTS (
      SELECT 1 FROM _sync_rejected AS x
      WHERE x.tbl = r.tbl AND x.pk = r.pk AND x.op = 'DELETE'
  )
  AND NOT EXISTS (SELECT 1 FROM _sync_parked AS k WHERE k.wire_table = ?2 AND k.pk = {dashed})
