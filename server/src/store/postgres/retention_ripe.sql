-- Users with something to fold or to remove, those first that have waited longest. Up
-- to where may be folded: to what is old enough, and not beyond what any device needs
-- that counts. A device needs the first entry above its cursor that it does not leave
-- out as its own; one in the middle of the fold, the fold; one that is at the start,
-- nothing; and one whose place is gone already, nothing either. Entries are counted,
-- not the places that a restore has left out.
-- $1, $2 after these: when folded last, user; $3 folded before; $4 seconds of
-- silence, $5 seconds of age, $6 entries at least, $7 seconds in which a device counts
-- that is in the middle of a fold, $8 limit
SELECT u.user_key, u.user_id, u.floor, reach.ceiling, u.fold,
       coalesce(u.floor - size.first + 1, 0) AS size, u.swept = u.fold AS is_swept, u.folded_at, foldable.entries
FROM oversync.users u
CROSS JOIN LATERAL (
    SELECT coalesce((
        SELECT l.server_id FROM oversync.log l
        WHERE l.user_key = u.user_key AND l.server_id > u.floor AND l.ts <= now() - make_interval(secs => $5)
        ORDER BY l.server_id DESC LIMIT 1
    ), u.floor) AS head
) aged
CROSS JOIN LATERAL (
    SELECT min(CASE
        WHEN r.cursor IS NULL THEN 0
        WHEN r.cursor < u.floor AND coalesce(r.through, 0) < u.floor THEN u.floor
        ELSE (SELECT l.server_id - 1 FROM oversync.log l
              WHERE l.user_key = u.user_key AND l.server_id <= aged.head
                AND l.server_id > greatest(r.cursor, CASE WHEN NOT r.wants_own THEN r.through END)
                AND (r.wants_own OR l.device_key IS DISTINCT FROM d.device_key)
              ORDER BY l.server_id LIMIT 1)
        END) AS place
    FROM oversync.readers r
    LEFT JOIN oversync.devices d ON d.user_key = r.user_key AND d.device_id = r.device_id
    WHERE r.user_key = u.user_key AND r.read_at > now() - make_interval(secs => $4)
      AND (r.cursor IS NULL
           OR r.cursor > 0 AND greatest(r.cursor, r.through) >= u.floor
           OR r.cursor < u.floor AND r.fold = u.fold AND r.read_at > now() - make_interval(secs => $7))
) needed
CROSS JOIN LATERAL (
    SELECT min(f.place) AS first FROM oversync.folded f WHERE f.user_key = u.user_key AND f.fold = u.fold
) size
CROSS JOIN LATERAL (SELECT greatest(u.floor, least(aged.head, needed.place)) AS ceiling OFFSET 0) reach
CROSS JOIN LATERAL (
    SELECT reach.ceiling - u.floor - coalesce((
        SELECT sum(least(j.through, reach.ceiling) - greatest(j.after, u.floor)) FROM oversync.jumps j
        WHERE j.user_key = u.user_key AND j.through > u.floor AND j.after < reach.ceiling
    ), 0)::bigint AS entries
    -- Asked once for each user.
    OFFSET 0
) foldable
WHERE (u.folded_at, u.user_key) > ($1, $2) AND u.folded_at <= $3
  -- Said apart, so that of users with little above the floor nothing else is read.
  AND (u.swept < u.fold OR u.head - u.floor >= $6)
  AND (u.swept < u.fold OR u.head - u.floor - coalesce((
        SELECT sum(least(j.through, u.head) - greatest(j.after, u.floor)) FROM oversync.jumps j
        WHERE j.user_key = u.user_key AND j.through > u.floor AND j.after < u.head
    ), 0)::bigint >= $6)
  AND (u.swept < u.fold OR foldable.entries >= $6)
ORDER BY u.folded_at, u.user_key
LIMIT $8
