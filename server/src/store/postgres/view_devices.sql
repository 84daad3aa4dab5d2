-- A user's devices by name: those that have uploaded, that have read, and that are
-- revoked; with how far each has read, and whether it counts when the log is folded
-- (as in retention_ripe.sql).
-- $1 user, $2 after this device, $3 seconds of silence, $4 seconds in which a device
-- counts that is in the middle of a fold, $5 limit, $6 entries looked at per device
WITH whose AS (
    SELECT u.user_key, u.floor, u.fold FROM oversync.users u WHERE u.user_id = $1
), names AS (
    SELECT n.device_id
    FROM (
        SELECT d.device_id FROM whose u JOIN oversync.devices d ON d.user_key = u.user_key WHERE d.device_key > 0
        UNION
        SELECT r.device_id FROM whose u JOIN oversync.readers r ON r.user_key = u.user_key
        UNION
        SELECT g.device_id FROM oversync.revoked g WHERE g.user_id = $1
    ) n
    WHERE n.device_id > coalesce($2, '')
    ORDER BY n.device_id
    LIMIT $5
)
SELECT
    n.device_id, d.highest_change_id, last.ts AS last_change_at, r.cursor, r.read_at, r.seen_at, g.revoked_at,
    CASE
        WHEN r.cursor < u.floor AND coalesce(r.through, 0) < u.floor THEN r.cursor
        ELSE (
            SELECT l.server_id - 1
            FROM (
                SELECT x.server_id, x.device_key
                FROM oversync.log x
                WHERE x.user_key = u.user_key
                  AND x.server_id > greatest(r.cursor, CASE WHEN NOT r.wants_own THEN r.through END)
                ORDER BY x.server_id
                LIMIT $6
            ) l
            WHERE r.wants_own OR l.device_key IS DISTINCT FROM d.device_key
            ORDER BY l.server_id
            LIMIT 1
        )
    END AS needs_after,
    coalesce(
        r.read_at > now() - make_interval(secs => $3)
        AND (r.cursor IS NULL
             OR r.cursor > 0 AND greatest(r.cursor, r.through) >= u.floor
             OR r.cursor < u.floor AND r.fold = u.fold AND r.read_at > now() - make_interval(secs => $4)),
        false) AS counts
FROM names n
LEFT JOIN whose u ON true
LEFT JOIN oversync.devices d ON d.user_key = u.user_key AND d.device_id = n.device_id
LEFT JOIN oversync.readers r ON r.user_key = u.user_key AND r.device_id = n.device_id
LEFT JOIN oversync.revoked g ON g.user_id = $1 AND g.device_id = n.device_id
LEFT JOIN oversync.log last
    ON last.user_key = d.user_key AND last.device_key = d.device_key AND last.change_id = d.highest_change_id
ORDER BY n.device_id
