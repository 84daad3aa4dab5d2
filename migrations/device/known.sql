-- What is known about the row (?1, ?2), in one look: version, tombstone, version
-- before a pass over everything, spelling of the key, and whether an edit of it is in
-- flight, pending or rejected.
SELECT
    r.version,
    r.deleted,
    r.lost_version,
    coalesce(p.local_key, o.local_key, x.local_key, r.local_key),
    o.change_id IS NOT NULL,
    p.seq IS NOT NULL,
    x.id IS NOT NULL
FROM (SELECT ?1 AS tbl, ?2 AS pk) AS k
LEFT JOIN _sync_row AS r ON r.tbl = k.tbl AND r.pk = k.pk
LEFT JOIN _sync_outbox AS o ON o.tbl = k.tbl AND o.pk = k.pk
LEFT JOIN _sync_pending AS p ON p.tbl = k.tbl AND p.pk = k.pk
LEFT JOIN _sync_rejected AS x ON x.tbl = k.tbl AND x.pk = k.pk
LIMIT 1
