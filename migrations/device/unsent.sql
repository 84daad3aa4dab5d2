-- Edits that the server has not acknowledged: in flight (0), pending (1), only
-- noted by the triggers (2). What is in flight stands in the order in which it is
-- sent, the rest in that in which it was seen; within a table, in which it was made.
SELECT stage, tbl, pk, key, op, payload, change_id, waits_tbl, waits_pk, at FROM (
    SELECT 0 AS stage, change_id AS seq, tbl, pk, local_key AS key, op, payload, change_id,
           NULL AS waits_tbl, NULL AS waits_pk, at
    FROM _sync_outbox
    UNION ALL
    SELECT 1, seq, tbl, pk, local_key, NULL, NULL, NULL, waits_tbl, waits_pk, at
    FROM _sync_pending
    UNION ALL
    SELECT 2, min(seq), tbl, NULL, key, NULL, NULL, NULL, NULL, NULL, NULL
    FROM _sync_touched WHERE op > 0 GROUP BY tbl, key
)
ORDER BY
    stage,
    CASE stage WHEN 0 THEN 0 ELSE at END,
    CASE stage WHEN 0 THEN 0 ELSE tbl END,
    seq
