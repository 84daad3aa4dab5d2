-- Users with something to fold or to remove. Up to where may be folded: to what is
-- old enough, and not beyond the cursor of any device that counts. The first looks
-- at the youngest entries only, from the head down.
-- ?1 after this user, ?2 silent since, ?3 old enough since, ?4 entries at least,
-- ?5 since when a device counts that begins, ?6 limit
SELECT * FROM (
    SELECT u.user_key, u.user_id, u.head, u.floor, u.fold, u.swept,
           coalesce((
               SELECT l.server_id FROM _oversync_log l
               WHERE l.user_key = u.user_key AND l.server_id > u.floor AND l.ts <= ?3
               ORDER BY l.server_id DESC LIMIT 1), u.floor) AS old,
           (SELECT min(coalesce(r.cursor, 0)) FROM _oversync_readers r
            WHERE r.user_key = u.user_key AND r.seen_at > ?2
              AND (r.cursor IS NULL OR r.cursor > 0 OR r.fold IS NOT NULL AND r.seen_at > ?5)) AS needed,
           (SELECT min(f.place) FROM _oversync_folded f WHERE f.user_key = u.user_key AND f.fold = u.fold) AS first
    FROM _oversync_users u
    WHERE u.user_key > ?1 AND (u.swept < u.fold OR u.head - u.floor >= ?4)
)
WHERE swept < fold OR min(old, coalesce(needed, old)) - floor >= ?4
ORDER BY user_key
LIMIT ?6
