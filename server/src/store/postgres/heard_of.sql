-- Devices that are there, of whose cursor this says nothing; not within the hour.
-- $1, $2 user, device; $3 seconds
INSERT INTO oversync.readers AS r (user_key, device_id, cursor)
SELECT u.user_key, h.device_id, 0
FROM unnest($1::text[], $2::text[]) AS h (user_id, device_id)
JOIN oversync.users u ON u.user_id = h.user_id
ORDER BY u.user_key, h.device_id COLLATE "C"
ON CONFLICT (user_key, device_id) DO UPDATE
SET seen_at = excluded.seen_at
WHERE r.seen_at < now() - make_interval(secs => $3)
