-- A user's rows by table and key: of each table a range of keys, no more than the
-- page has.
-- $1 user, $2 tables, $3 first key in each, $4 last key in each, $5 limit, $6 characters
-- of a payload
SELECT
    w.place, r.pk, r.version, r.server_id, r.deleted, d.device_id, l.change_id, l.ts,
    left(l.payload, $6) AS beginning, octet_length(l.payload)::bigint AS bytes
FROM oversync.users u
CROSS JOIN unnest($2::int[], $3::uuid[], $4::uuid[]) WITH ORDINALITY AS w (table_key, low, high, place)
CROSS JOIN LATERAL (
    SELECT x.* FROM oversync.rows x
    WHERE x.user_key = u.user_key AND x.table_key = w.table_key AND x.pk >= w.low AND x.pk <= w.high
    ORDER BY x.pk
    LIMIT $5
) r
LEFT JOIN oversync.log l ON l.user_key = r.user_key AND l.server_id = r.server_id
LEFT JOIN oversync.devices d ON d.user_key = l.user_key AND d.device_key = l.device_key
WHERE u.user_id = $1
ORDER BY w.place, r.pk
LIMIT $5
