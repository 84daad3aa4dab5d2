-- The rows with an edit that is in flight, pending or rejected, ?1 at most.
SELECT tbl, pk FROM _sync_outbox
UNION ALL
SELECT tbl, pk FROM _sync_pending
UNION ALL
SELECT tbl, pk FROM _sync_rejected WHERE pk IS NOT NULL
LIMIT ?1
