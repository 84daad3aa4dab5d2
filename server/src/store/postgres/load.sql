-- Everything an upload needs, from one snapshot: the user's head row, the
-- calling device, the rows it changes or refers to, its change ids on record: in
-- the log, or, where that entry was folded away, in the records.
-- Rows and change ids are looked up one by one (OFFSET 0 keeps the planner from
-- joining): a plan for the average user would read all of a large user's. The
-- LIMIT tells the planner that meta has one row: so small a table is never
-- analysed, and would count for a thousand.
-- $1 user, $2 device, $3/$4 tables and keys of the rows, $5 change ids.
SELECT
    u.user_key, u.head, u.revision, m.epoch,
    d.device_key, d.highest_change_id,
    (SELECT max(x.device_key) FROM oversync.devices x WHERE x.user_key = u.user_key) AS last_device,
    found.places, found.versions, found.server_ids, found.deleted,
    known.change_ids, known.fingerprints, known.versions AS known_versions
FROM oversync.users u
CROSS JOIN (SELECT x.epoch FROM oversync.meta x LIMIT 1) m
LEFT JOIN oversync.devices d ON d.user_key = u.user_key AND d.device_id = $2
LEFT JOIN LATERAL (
    SELECT array_agg(w.place) AS places, array_agg(r.version) AS versions,
           array_agg(r.server_id) AS server_ids, array_agg(r.deleted) AS deleted
    FROM unnest($3::integer[], $4::uuid[]) WITH ORDINALITY AS w (table_key, pk, place)
    CROSS JOIN LATERAL (
        SELECT x.version, x.server_id, x.deleted FROM oversync.rows x
        WHERE x.user_key = u.user_key AND x.table_key = w.table_key AND x.pk = w.pk OFFSET 0
    ) r
) found ON true
LEFT JOIN LATERAL (
    SELECT array_agg(l.change_id) AS change_ids, array_agg(l.fingerprint) AS fingerprints,
           array_agg(l.version) AS versions
    FROM unnest($5::bigint[]) AS w (change_id)
    CROSS JOIN LATERAL (
        SELECT x.change_id, x.fingerprint, x.version FROM oversync.log x
        WHERE x.user_key = u.user_key AND x.device_key = d.device_key AND x.change_id = w.change_id
        UNION ALL
        SELECT x.change_id, x.fingerprint, x.version FROM oversync.records x
        WHERE x.user_key = u.user_key AND x.device_key = d.device_key AND x.change_id = w.change_id
        OFFSET 0
    ) l
) known ON true
WHERE u.user_id = $1
