-- Users with something to fold or to remove, those first that have waited longest. Up
-- to where may be folded: to what is old enough, and not beyond what any device needs
-- that counts. A device needs the first entry above its cursor that it does not leave
-- out as its own; one in the middle of the fold, the fold; one that is at the start,
-- nothing; and one whose place is gone already, nothing either. Entries are counted,
-- not the places that a restore has left out.
-- ?1, ?2 after these: when folded last, user; ?3 folded before; ?4 silent since, ?5 old
-- enough since, ?6 entries at least, ?7 since when a device counts that is in the
-- middle of a fold, ?8 limit
SELECT user_key, user_id, floor, ceiling, fold, swept, folded_at, first, ceiling - floor - coalesce((
           SELECT sum(min(j.through, r.ceiling) - max(j.after, r.floor)) FROM _oversync_jumps j
           WHERE j.user_key = r.user_key AND j.through > r.floor AND j.after < r.ceiling), 0) AS entries
FROM (
    SELECT *, max(floor, min(old, coalesce(needed, old))) AS ceiling FROM (
        SELECT user_key, user_id, floor, fold, swept, folded_at, old,
               (SELECT min(CASE
                    WHEN r.cursor IS NULL THEN 0
                    WHEN r.cursor < u.floor AND coalesce(r.through, 0) < u.floor THEN u.floor
                    ELSE (SELECT l.server_id - 1 FROM _oversync_log l
                          WHERE l.user_key = u.user_key AND l.server_id <= u.old
                            AND l.server_id > max(r.cursor, iif(r.wants_own, 0, coalesce(r.through, 0)))
                            AND (r.wants_own OR l.device_key IS NOT d.device_key)
                          ORDER BY l.server_id LIMIT 1)
                    END)
                FROM _oversync_readers r
                LEFT JOIN _oversync_devices d ON d.user_key = r.user_key AND d.device_id = r.device_id
                WHERE r.user_key = u.user_key AND r.read_at > ?4
                  AND (r.cursor IS NULL
                       OR r.cursor > 0 AND max(r.cursor, coalesce(r.through, 0)) >= u.floor
                       OR r.cursor < u.floor AND r.fold = u.fold AND r.read_at > ?7)) AS needed,
               (SELECT min(f.place) FROM _oversync_folded f WHERE f.user_key = u.user_key AND f.fold = u.fold) AS first
        FROM (
            SELECT w.*, coalesce((
                       SELECT l.server_id FROM _oversync_log l
                       WHERE l.user_key = w.user_key AND l.server_id > w.floor AND l.ts <= ?5
                       ORDER BY l.server_id DESC LIMIT 1), w.floor) AS old
            FROM _oversync_users w
            WHERE (w.folded_at, w.user_key) > (?1, ?2) AND w.folded_at <= ?3
              AND (w.swept < w.fold
                   OR w.head - w.floor >= ?6 AND w.head - w.floor - coalesce((
                       SELECT sum(min(j.through, w.head) - max(j.after, w.floor)) FROM _oversync_jumps j
                       WHERE j.user_key = w.user_key AND j.through > w.floor AND j.after < w.head), 0) >= ?6)
        ) u
    )
) r
WHERE swept < fold OR entries >= ?6
ORDER BY folded_at, user_key
LIMIT ?8
