-- What devices need not read of what will be folded, as long as it can be seen: above
-- their cursors nothing but their own changes.
-- $1 user, $2 floor
UPDATE oversync.readers r
SET through = $2
FROM oversync.users u
WHERE u.user_key = $1 AND r.user_key = u.user_key
  AND r.cursor > 0 AND greatest(r.cursor, r.through) >= u.floor AND greatest(r.cursor, r.through) < $2
  AND NOT EXISTS (
      SELECT FROM oversync.log l
      WHERE l.user_key = r.user_key AND l.server_id > greatest(r.cursor, r.through) AND l.server_id <= $2
        AND l.device_key IS DISTINCT FROM (
            SELECT d.device_key FROM oversync.devices d
            WHERE d.user_key = r.user_key AND d.device_id = r.device_id))
