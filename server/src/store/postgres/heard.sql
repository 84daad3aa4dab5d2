-- How far devices have read. One that is where it was is not written again within
-- the hour. What it need not read holds for this cursor only. Who has asked from the
-- floor on, or has nothing left to read below it, is through with the fold that it
-- began.
-- $1–$6 user, device, asked from, cursor, needless up to, wants its own; $7 seconds
INSERT INTO oversync.readers AS r (user_key, device_id, asked, cursor, through, wants_own)
SELECT u.user_key, h.device_id, h.asked, h.cursor, h.through, h.wants_own
FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::boolean[])
    AS h (user_id, device_id, asked, cursor, through, wants_own)
JOIN oversync.users u ON u.user_id = h.user_id
ORDER BY u.user_key, h.device_id COLLATE "C"
ON CONFLICT (user_key, device_id) DO UPDATE
SET cursor = excluded.cursor, wants_own = excluded.wants_own, read_at = excluded.read_at, seen_at = excluded.seen_at,
    through = CASE WHEN r.cursor = excluded.cursor THEN greatest(r.through, excluded.through) ELSE excluded.through END,
    fold = CASE WHEN excluded.through IS NULL
                 AND (excluded.asked = 0
                      OR excluded.asked < (SELECT u.floor FROM oversync.users u WHERE u.user_key = excluded.user_key))
                THEN r.fold END
WHERE r.cursor IS DISTINCT FROM excluded.cursor OR r.wants_own <> excluded.wants_own
   OR r.fold IS NOT NULL AND excluded.asked > 0
   OR r.read_at < now() - make_interval(secs => $7)
