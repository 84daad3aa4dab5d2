-- Devices that have come with a cursor: from now on their rows are not only their own.
-- A commit may hold theirs: it is not waited for, they will come again.
-- $1, $2 user, device
WITH moved AS (
    SELECT d.user_key, d.device_key
    FROM unnest($1::text[], $2::text[]) AS h (user_id, device_id)
    JOIN oversync.users u ON u.user_id = h.user_id
    JOIN oversync.devices d ON d.user_key = u.user_key AND d.device_id = h.device_id
    WHERE NOT d.has_moved
    FOR NO KEY UPDATE OF d SKIP LOCKED
)
UPDATE oversync.devices d
SET has_moved = true
FROM moved m
WHERE d.user_key = m.user_key AND d.device_key = m.device_key
