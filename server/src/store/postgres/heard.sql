-- How far devices have read. One that is where it was is not written again within
-- the hour. Who has come to the floor is through with the fold that it began.
-- $1–$3 user, device, cursor; $4 seconds
INSERT INTO oversync.readers AS r (user_key, device_id, cursor)
SELECT u.user_key, h.device_id, h.cursor
FROM unnest($1::text[], $2::text[], $3::bigint[]) AS h (user_id, device_id, cursor)
JOIN oversync.users u ON u.user_id = h.user_id
ORDER BY u.user_key, h.device_id
ON CONFLICT (user_key, device_id) DO UPDATE
SET cursor = excluded.cursor, seen_at = excluded.seen_at,
    fold = CASE WHEN excluded.cursor = 0
                  OR excluded.cursor < (SELECT u.floor FROM oversync.users u WHERE u.user_key = excluded.user_key)
                THEN r.fold END
WHERE r.cursor IS DISTINCT FROM excluded.cursor OR r.seen_at < now() - make_interval(secs => $4)
