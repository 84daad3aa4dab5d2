-- Whether there is anything to freeze or to send: captured, frozen, or pending
-- without a missing row or a newer row of the server that it waits for. What is
-- frozen is sent whatever its table; the rest of a table that is not listed waits.
SELECT
    EXISTS (SELECT 1 FROM _sync_outbox)
    OR EXISTS (
        SELECT 1 FROM _sync_touched
        WHERE tbl IN (SELECT n FROM _sync_table WHERE listed)
    )
    OR EXISTS (
        SELECT 1 FROM _sync_pending AS p
        WHERE p.waits_tbl IS NULL
          AND p.tbl IN (SELECT n FROM _sync_table WHERE listed)
          AND NOT EXISTS (SELECT 1 FROM _sync_shadow AS s WHERE s.tbl = p.tbl AND s.pk = p.pk)
    )
