-- Rows with an unsent edit (captured, pending or frozen), rejected edits,
-- conflicts, parked entries; edits that wait for a row which is not going to be
-- sent by itself; and when the oldest unsent edit was first seen.
SELECT
    (SELECT count(*) FROM (
        SELECT tbl, pk FROM _sync_pending
        UNION
        SELECT tbl, pk FROM _sync_outbox
    )) + (SELECT count(*) FROM (SELECT DISTINCT tbl, key FROM _sync_log WHERE op > 0)),
    (SELECT count(*) FROM _sync_rejected),
    (SELECT count(*) FROM _sync_conflicts),
    (SELECT count(*) FROM _sync_parked),
    (SELECT count(*) FROM _sync_pending WHERE waits_tbl IS NOT NULL),
    (SELECT min(at) FROM (SELECT at FROM _sync_pending UNION ALL SELECT at FROM _sync_outbox))
