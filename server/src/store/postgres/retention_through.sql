-- What devices need not read of what will be folded, as long as it can be seen: above
-- their cursors nothing but their own changes. Rows are locked in the order in which
-- heard.sql does it: neither waits for the other in a circle.
-- $1 user, $2 floor
WITH near AS MATERIALIZED (
    SELECT r.user_key, r.device_id
    FROM oversync.readers r
    JOIN oversync.users u ON u.user_key = r.user_key
    WHERE r.user_key = $1
      AND r.cursor > 0 AND greatest(r.cursor, r.through) >= u.floor AND greatest(r.cursor, r.through) < $2
    ORDER BY r.device_id
    FOR NO KEY UPDATE OF r
)
UPDATE oversync.readers r
SET through = $2
FROM oversync.users u, near n
WHERE u.user_key = $1 AND r.user_key = n.user_key AND r.device_id = n.device_id AND n.user_key = u.user_key
  AND r.cursor > 0 AND greatest(r.cursor, r.through) >= u.floor AND greatest(r.cursor, r.through) < $2
  AND NOT EXISTS (
      SELECT FROM oversync.log l
      WHERE l.user_key = r.user_key AND l.server_id > greatest(r.cursor, r.through) AND l.server_id <= $2
        AND l.device_key IS DISTINCT FROM (
            SELECT d.device_key FROM oversync.devices d
            WHERE d.user_key = r.user_key AND d.device_id = r.device_id))
