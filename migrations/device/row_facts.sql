-- Everything that is kept about the row (?1, ?2), whose table is called ?3 on the
-- wire and whose key is written ?4 there: version held, edit in flight, pending
-- edit and what it waits for, a newer row of the server that met it, a refusal,
-- an entry that cannot be written, conflicts.
SELECT
    r.version,
    coalesce(r.deleted, 0),
    o.change_id,
    o.at,
    p.pk IS NOT NULL,
    p.at,
    p.waits_tbl,
    p.waits_pk,
    s.version,
    x.id,
    x.reason,
    x.detail,
    k.version,
    k.reason,
    k.detail,
    (SELECT count(*) FROM _sync_conflicts AS c WHERE c.tbl = ?1 AND c.pk = ?2)
FROM (SELECT ?1 AS tbl, ?2 AS pk) AS q
LEFT JOIN _sync_row AS r ON r.tbl = q.tbl AND r.pk = q.pk
LEFT JOIN _sync_outbox AS o ON o.tbl = q.tbl AND o.pk = q.pk
LEFT JOIN _sync_pending AS p ON p.tbl = q.tbl AND p.pk = q.pk
LEFT JOIN _sync_shadow AS s ON s.tbl = q.tbl AND s.pk = q.pk
LEFT JOIN _sync_rejected AS x ON x.tbl = q.tbl AND x.pk = q.pk
LEFT JOIN _sync_parked AS k ON k.wire_table = ?3 AND k.pk = ?4
LIMIT 1
