-- A user's devices: those that have uploaded, and those that are revoked.
-- ?1 user
SELECT
    device_id, known.highest_change_id, l.ts, gone.revoked_at
FROM (
    SELECT d.user_key, d.device_key, d.device_id, d.highest_change_id
    FROM _oversync_users u
    JOIN _oversync_devices d ON d.user_key = u.user_key
    WHERE u.user_id = ?1 AND d.device_key > 0
) known
FULL JOIN (
    SELECT r.device_id, r.revoked_at FROM _oversync_revoked r WHERE r.user_id = ?1
) gone USING (device_id)
LEFT JOIN _oversync_log l
    ON l.user_key = known.user_key AND l.device_key = known.device_key
   AND l.change_id = known.highest_change_id
ORDER BY device_id
