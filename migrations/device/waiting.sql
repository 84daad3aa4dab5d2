-- Edits that wait for another row, grouped by that row, and whether it stands in
-- the rejected list itself.
SELECT
    p.waits_tbl,
    p.waits_pk,
    count(*),
    EXISTS (SELECT 1 FROM _sync_rejected AS x WHERE x.tbl = p.waits_tbl AND x.pk = p.waits_pk)
FROM _sync_pending AS p
WHERE p.waits_tbl IS NOT NULL
GROUP BY p.waits_tbl, p.waits_pk
ORDER BY 4 DESC, 3 DESC
