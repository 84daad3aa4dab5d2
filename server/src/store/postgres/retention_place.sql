-- Lets the next fold be read, unless a device that counts has come to need what it
-- replaces.
-- $1 user, $2 fold that is read, $3 floor, $4 seconds of silence, $5 seconds in
-- which a device counts that is in the middle of a fold
UPDATE oversync.users u
SET floor = $3, fold = u.fold + 1, folded_at = (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
WHERE u.user_key = $1 AND u.fold = $2 AND u.floor <= $3 AND u.head >= $3
  AND NOT EXISTS (
      SELECT FROM oversync.readers r
      WHERE r.user_key = u.user_key AND r.read_at > now() - make_interval(secs => $4)
        AND (r.cursor IS NULL
             OR r.cursor > 0 AND greatest(r.cursor, r.through) >= u.floor
                AND greatest(r.cursor, CASE WHEN NOT r.wants_own THEN r.through END) < $3
             OR r.cursor < u.floor AND r.fold = u.fold AND r.read_at > now() - make_interval(secs => $5)))
