-- Rows with an unsent edit (captured, pending or frozen), rejected edits,
-- conflicts, parked entries.
SELECT
    (SELECT count(*) FROM (
        SELECT tbl, pk FROM _sync_pending
        UNION
        SELECT tbl, pk FROM _sync_outbox
    )) + (SELECT count(*) FROM (SELECT DISTINCT tbl, key FROM _sync_log WHERE op > 0)),
    (SELECT count(*) FROM _sync_rejected),
    (SELECT count(*) FROM _sync_conflicts),
    (SELECT count(*) FROM _sync_parked)
