-- Rows with an unsent edit (captured, pending or frozen), rejected edits,
-- conflicts, parked entries; edits that wait for a row which is not going to be
-- sent by itself; when the oldest unsent edit was first seen; and whether an edit
-- waits for its table to be listed again.
SELECT
    (SELECT count(*) FROM (
        SELECT tbl, pk FROM _sync_pending
        UNION
        SELECT tbl, pk FROM _sync_outbox
    )) + (SELECT count(*) FROM (SELECT DISTINCT tbl, key FROM _sync_touched WHERE op > 0)),
    (SELECT count(*) FROM _sync_rejected),
    (SELECT count(*) FROM _sync_conflicts),
    (SELECT count(*) FROM _sync_parked),
    (SELECT count(*) FROM _sync_pending WHERE waits_tbl IS NOT NULL),
    (SELECT min(at) FROM (SELECT at FROM _sync_pending UNION ALL SELECT at FROM _sync_outbox)),
    EXISTS (
        SELECT 1 FROM _sync_table AS t
        WHERE NOT t.listed
          AND (
              EXISTS (SELECT 1 FROM _sync_pending AS p WHERE p.tbl = t.n)
              OR EXISTS (SELECT 1 FROM _sync_touched AS l WHERE l.tbl = t.n AND l.op > 0)
          )
    )
