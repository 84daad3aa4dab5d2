-- Users with something to fold or to remove. Up to where may be folded: to what is
-- old enough, and not beyond the cursor of any device that counts. The first looks
-- at the youngest entries only, from the head down.
-- $1 after this user, $2 seconds of silence, $3 seconds of age, $4 entries at
-- least, $5 seconds in which a device counts that begins, $6 limit
SELECT u.user_key, u.user_id, u.floor, greatest(u.floor, least(aged.head, needed.cursor)) AS ceiling, u.fold,
       coalesce(u.floor - size.first + 1, 0) AS size, u.swept = u.fold AS is_swept
FROM oversync.users u
CROSS JOIN LATERAL (
    SELECT coalesce((
        SELECT l.server_id FROM oversync.log l
        WHERE l.user_key = u.user_key AND l.server_id > u.floor AND l.ts <= now() - make_interval(secs => $3)
        ORDER BY l.server_id DESC LIMIT 1
    ), u.floor) AS head
) aged
CROSS JOIN LATERAL (
    SELECT min(coalesce(r.cursor, 0)) AS cursor FROM oversync.readers r
    WHERE r.user_key = u.user_key AND r.seen_at > now() - make_interval(secs => $2)
      AND (r.cursor IS NULL OR r.cursor > 0
           OR r.fold IS NOT NULL AND r.seen_at > now() - make_interval(secs => $5))
) needed
CROSS JOIN LATERAL (
    SELECT min(f.place) AS first FROM oversync.folded f WHERE f.user_key = u.user_key AND f.fold = u.fold
) size
WHERE u.user_key > $1
  AND (u.swept < u.fold
       OR u.head - u.floor >= $4 AND least(aged.head, needed.cursor) - u.floor >= $4)
ORDER BY u.user_key
LIMIT $6
