-- How far a device has read. One that is where it was is not written again within the
-- hour. What it need not read holds for this cursor only. Who has asked from the floor
-- on, or has nothing left to read below it, is through with the fold that it began.
-- ?1 user, ?2 device, ?3 now, ?4 microseconds, ?5 asked from, ?6 cursor, ?7 needless up
-- to, ?8 wants its own
INSERT INTO _oversync_readers (user_key, device_id, asked, cursor, through, wants_own, read_at, seen_at)
SELECT user_key, ?2, ?5, ?6, ?7, ?8, ?3, ?3 FROM _oversync_users WHERE user_id = ?1
ON CONFLICT (user_key, device_id) DO UPDATE
SET cursor = excluded.cursor, wants_own = excluded.wants_own, read_at = excluded.read_at, seen_at = excluded.seen_at,
    through = CASE WHEN cursor = excluded.cursor
                   THEN coalesce(max(through, excluded.through), through, excluded.through)
                   ELSE excluded.through END,
    fold = CASE WHEN excluded.through IS NULL
                 AND (excluded.asked = 0
                      OR excluded.asked < (SELECT u.floor FROM _oversync_users u WHERE u.user_id = ?1))
                THEN fold END
WHERE cursor IS NOT excluded.cursor OR wants_own <> excluded.wants_own
   OR fold IS NOT NULL AND excluded.asked > 0
   OR read_at < ?3 - ?4
