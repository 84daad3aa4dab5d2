-- Lets the next fold be read, unless a device that counts has come to need what it
-- replaces.
-- $1 user, $2 fold that is read, $3 floor, $4 seconds of silence, $5 seconds in
-- which a device counts that begins
UPDATE oversync.users u
SET floor = $3, fold = u.fold + 1
WHERE u.user_key = $1 AND u.fold = $2 AND u.floor <= $3 AND u.head >= $3
  AND NOT EXISTS (
      SELECT FROM oversync.readers r
      WHERE r.user_key = u.user_key AND r.seen_at > now() - make_interval(secs => $4)
        AND (r.cursor IS NULL OR r.cursor > 0
             OR r.fold IS NOT NULL AND r.seen_at > now() - make_interval(secs => $5))
        AND coalesce(r.cursor, 0) < $3)
